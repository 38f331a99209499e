"""A GLB of a scene that a client gave: its own tree, parts, faces and places, textured.

What this module does not know: which file the scene came from, who made the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from trellis2_server.export import clean, glb
from trellis2_server.export.adjacency import is_solid, twins
from trellis2_server.export.textures import textured
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trellis2_server.export import Report
    from trellis2_server.export.unwrap import Atlas
    from trellis2_server.inputs.meshes import Part, Scene
    from trellis2_server.mesh import VoxelField


def untextured_glb(
    scene: Scene, placed: Mesh, *, extras: Mapping[str, object], generator: str
) -> bytes:
    """The scene with a neutral material.

    Args:
        scene: in its own frame.
        placed: all of it as one mesh.
        extras: JSON values that the file says about itself.
        generator: the program's name and version.

    Raises:
        ExportError: the scene cannot be written.
    """
    neutral = glb.Material(color=(0.6, 0.6, 0.6, 1.0), metallic=0.0, roughness=0.7)
    is_double_sided = _is_double_sided(scene, clean.checked(placed))
    shapes = [
        (
            part.mesh,
            glb.Geometry(
                part.positions,
                _normals(scene, part),
                None,
                part.faces.astype(np.uint32),
                is_double_sided,
            ),
        )
        for part in scene.parts
    ]
    return _pack(scene, shapes, neutral, extras, generator)


def textured_glb(  # noqa: PLR0913 - what `export.textured_glb` takes
    scene: Scene,
    placed: Mesh,
    field: VoxelField,
    *,
    texture_size: int,
    alpha_mode: Literal["auto", "OPAQUE", "MASK", "BLEND"] = "auto",
    texture_format: Literal["auto", "png", "jpeg", "webp"] = "auto",
    unwrap: Literal["own", "xatlas"] = "own",
    extras: Mapping[str, object],
    generator: str,
    report: Report | None = None,
) -> bytes:
    """The scene, textured with the field's base colour, metallic and roughness.

    Every face keeps its corners' places and its order; vertices are repeated where the new
    UVs need it.

    Args:
        scene: in its own frame.
        placed: all of it as one mesh in the field's frame, faces in the parts' order.
        field: the attributes.
        texture_size: edge of the square textures, in pixels.
        alpha_mode: glTF's.
        texture_format: "auto" is JPEG, and WebP for a base colour with alpha.
        unwrap: whose charts.
        extras: JSON values that the file says about itself.
        generator: the program's name and version.
        report: stages "unwrap", "bake", "encode" and "pack".

    Raises:
        ExportError: the scene cannot be unwrapped, baked or written.
    """
    placed, field = clean.checked(placed), clean.checked_field(field)
    atlas, material, _ = textured(
        placed,
        field,
        None,
        texture_size=texture_size,
        alpha_mode=alpha_mode,
        texture_format=texture_format,
        unwrap=unwrap,
        report=report,
    )
    if report:
        report("pack", 0, 1)
    is_double_sided = _is_double_sided(scene, placed)
    shapes: list[tuple[int, glb.Geometry]] = []
    first = 0
    for part in scene.parts:
        last = first + len(part.faces)
        shape = _with_uv(scene, part, atlas, atlas.faces[first:last], is_double_sided)
        shapes.append((part.mesh, shape))
        first = last
    content = _pack(scene, shapes, material, extras, generator)
    if report:
        report("pack", 1, 1)
    return content


def _pack(
    scene: Scene,
    shapes: list[tuple[int, glb.Geometry]],
    material: glb.Material,
    extras: Mapping[str, object],
    generator: str,
) -> bytes:
    return glb.pack_tree(
        shapes,
        material,
        nodes=scene.nodes,
        roots=scene.roots,
        meshes=scene.meshes,
        extras=extras,
        generator=generator,
    )


def _is_double_sided(scene: Scene, placed: Mesh) -> bool:
    return scene.is_double_sided or not is_solid(
        placed.faces, twins(placed.faces, len(placed.vertices))
    )


def _normals(scene: Scene, part: Part) -> NDArray[np.float32]:
    if part.normals is not None:
        return part.normals
    if scene.is_smooth:
        return glb.smooth_normals(clean.checked(Mesh(part.positions, part.faces)))
    return np.empty((0, 3), np.float32)


def _with_uv(
    scene: Scene,
    part: Part,
    atlas: Atlas,
    uv_faces: NDArray[np.int32],
    is_double_sided: bool,  # noqa: FBT001
) -> glb.Geometry:
    """The part's faces, each vertex once for every UV that it has."""
    corners = part.faces.reshape(-1).astype(np.int64)
    if np.linalg.det(part.placement[:3, :3]) < 0:  # `placed` turned these faces around
        uv_faces = uv_faces[:, ::-1]
    uv_corners = uv_faces.reshape(-1).astype(np.int64)
    pairs, faces = np.unique(corners * len(atlas.uv) + uv_corners, return_inverse=True)
    vertices, rows = np.divmod(pairs, len(atlas.uv))
    normals = _normals(scene, part)
    return glb.Geometry(
        part.positions[vertices],
        normals[vertices] if len(normals) else normals,
        np.divide(atlas.uv[rows], atlas.size_px, dtype=np.float32),
        faces.reshape(-1, 3).astype(np.uint32),
        is_double_sided,
    )
