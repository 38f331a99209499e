"""Writes models by `trellis2_server.export`, of arrays, into a folder: for `bench/same.py`.

    PYTHONPATH=CHECKOUT python bench/same_library.py FOLDER

The preview engine gives one metallic and one roughness to a whole model; this gives textures of
them. The imports are all that it knows of a checkout's names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from trellis2_server.export import prepare, textured_glb, untextured_glb
from trellis2_server.mesh import Mesh, VoxelField

try:
    from trellis2_server.export.formats import convert
except ImportError:  # version 0.1.0
    from trellis2_server.export.files import convert

RESOLUTION: Final = 32


def torus(around: int = 40, across: int = 20) -> Mesh:
    """A closed surface with a hole."""
    u, v = np.meshgrid(np.arange(around), np.arange(across), indexing="ij")
    a, b = u * (2 * np.pi / around), v * (2 * np.pi / across)
    ring = 0.3 + 0.12 * np.cos(b)
    vertices = np.stack([ring * np.cos(a), ring * np.sin(a), 0.12 * np.sin(b)], -1).reshape(-1, 3)
    right, up = (u + 1) % around, (v + 1) % across
    corners = [i * across + j for i, j in ((u, v), (right, v), (right, up), (u, up))]
    faces = [np.stack([corners[0], corners[k], corners[k + 1]], -1) for k in (1, 2)]
    return Mesh(vertices.astype(np.float32), np.concatenate(faces).reshape(-1, 3).astype(np.int32))


def field(alpha: str) -> VoxelField:
    """Another colour, metallic and roughness at every place."""
    grid = np.stack(np.meshgrid(*[np.arange(RESOLUTION)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x, y, z = (grid / (RESOLUTION - 1)).T
    opacity = {"opaque": x * 0 + 1, "holes": np.where(x > 0.7, 0.0, 1.0), "clear": 0.3 + x * 0.5}
    attributes = np.stack([x, y, z, y * 0.8, 1 - x * 0.7, opacity[alpha]], -1)
    return VoxelField(grid.astype(np.int32), attributes.astype(np.float32), RESOLUTION)


def main(folder: Path) -> None:
    surface = torus()
    mesh = prepare(surface, decimation_target=700)
    made: dict[str, bytes] = {
        "shape": untextured_glb(mesh),
        "remeshed": untextured_glb(
            prepare(surface, decimation_target=1500, remesh_resolution=RESOLUTION)
        ),
    }
    cases: dict[str, dict[str, Any]] = {
        **{f"texture_format {name}": {"texture_format": name} for name in ("png", "jpeg", "webp")},
        **{f"compress {name}": {"compress": name} for name in ("meshopt", "draco")},
        "original": {"original": surface},
        "extras": {"extras": {"a": 1}, "generator": "a generator"},
    }
    for name, options in cases.items():
        made[name] = textured_glb(mesh, field("opaque"), texture_size=256, **options)
    for alpha in ("opaque", "holes", "clear"):
        for mode in ("auto", "MASK", "BLEND"):
            glb = textured_glb(mesh, field(alpha), texture_size=256, alpha_mode=mode)
            made[f"{alpha} {mode}"] = glb
        for file_type in ("obj", "ply", "stl", "obj_zip"):
            made[f"{alpha} as {file_type}"] = convert(made[f"{alpha} auto"], file_type)
    for name, content in made.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
