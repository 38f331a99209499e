"""Surfaces and voxel fields of any size, defined by formulas.

The shapes of `DUAL_GRIDS` are dual grids like those of TRELLIS.2, made without weights
(tests/support/dual_grid.py): open, non-manifold, wound by the axes of the grid.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trellis2_server.mesh import Mesh, VoxelField

SHAPES = ("blob", "torus", "links", "noise", "inflated", "sheet")
DUAL_GRIDS = ("hair", "cloth", "crowded", "bolt")


def distance(shape: str, p: np.ndarray) -> np.ndarray:
    """Return a function of points float32 [..., 3] that is negative inside the shape."""
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    if shape == "torus":
        return np.hypot(np.hypot(x, y) - 0.31, z) - 0.12
    if shape == "links":
        first = np.hypot(np.hypot(x + 0.12, y) - 0.24, z) - 0.07
        second = np.hypot(np.hypot(x - 0.12, z) - 0.24, y) - 0.07
        return np.minimum(first, second)
    if shape == "inflated":
        outline = 0.36 + 0.08 * np.cos(5 * np.arctan2(z, x)) - np.hypot(x, z)
        return (
            np.abs(y) - 0.35 * np.sqrt(np.clip(outline, 0, None)) + 2 * np.clip(-outline, 0, None)
        )
    if shape == "sheet":
        return np.abs(y - 0.1 * np.sin(7 * x) * np.cos(5 * z)) - np.where(
            np.maximum(np.abs(x), np.abs(z)) < 0.4, 0.012, -1.0
        )
    r = np.sqrt(x * x + y * y + z * z)
    bumps = 0.05 * np.sin(9 * x + 1) * np.sin(8 * y) * np.sin(10 * z)
    if shape == "noise":
        bumps = bumps + 0.012 * np.sin(61 * x) * np.sin(57 * y + 2) * np.sin(67 * z)
    return r - 0.33 - bumps


def surface(shape: str, cells: int) -> Mesh:
    """Return the surface of the shape by marching cubes, with `cells` cells along an edge."""
    from skimage.measure import marching_cubes

    axis = np.linspace(-0.5, 0.5, cells, dtype=np.float32)
    values = np.empty((cells, cells, cells), np.float32)
    for i, x in enumerate(axis):
        y, z = np.meshgrid(axis, axis, indexing="ij")
        values[i] = distance(shape, np.stack([np.full_like(y, x), y, z], -1))
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=(float(axis[1] - axis[0]),) * 3)
    vertices = (vertices - 0.5).astype(np.float32)
    # scikit-image winds faces outward if the function is negative inside.
    return Mesh(vertices, np.ascontiguousarray(faces.astype(np.int32)))


def dual_grid(shape: str, resolution: int, file: Path | None) -> Mesh:
    """Return a dual grid of the shape, or of a mesh file scaled to the cube."""
    from tests.support.dual_grid import REAL, voxelised

    if file is None:
        return voxelised(REAL[shape](), resolution)
    import trimesh

    mesh = trimesh.load(file, force="mesh")
    middle, extent = mesh.bounds.mean(axis=0), float(mesh.extents.max())
    vertices = (np.asarray(mesh.vertices) - middle) * (0.9 / extent)
    return voxelised(
        Mesh(vertices.astype(np.float32), np.asarray(mesh.faces, np.int32)), resolution
    )


def attributes(p: np.ndarray, *, alpha: bool) -> np.ndarray:
    """Return the six attributes at points [N, 3] of the model frame."""
    x, y, z = p.T
    out = np.empty((len(p), 6), np.float32)
    out[:, 0] = 0.5 + 0.3 * np.sin(20 * x + 3 * z) + 0.15 * np.sin(70 * z)
    out[:, 1] = 0.5 + 0.3 * np.sin(23 * y + 1) + 0.15 * np.sin(80 * x + 40 * y)
    out[:, 2] = 0.5 + 0.4 * np.cos(19 * z - 5 * x)
    out[:, 3] = np.clip(0.5 + 2 * np.sin(11 * y + 5 * x), 0, 1)
    out[:, 4] = 0.5 + 0.4 * np.sin(15 * x + 8 * y)
    out[:, 5] = 0.6 + 0.4 * np.sin(12 * x) if alpha else 1.0
    return out


def voxels(mesh: Mesh, resolution: int, *, alpha: bool) -> VoxelField:
    """Return the attributes at the voxels that touch the surface, and their neighbours."""
    cells = np.floor((mesh.vertices + 0.5) * resolution).astype(np.int64)
    near = np.zeros((resolution,) * 3, bool)
    cells = np.unique(cells.clip(1, resolution - 2), axis=0)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            for k in (-1, 0, 1):
                near[cells[:, 0] + i, cells[:, 1] + j, cells[:, 2] + k] = True
    coords = np.argwhere(near).astype(np.int32)
    return VoxelField(
        coords, attributes((coords + 0.5) / resolution - 0.5, alpha=alpha), resolution
    )
