"""Sums of squared distances to planes and lines, and where they are lowest within a voxel.

A sum is a quadratic form: the upper half of a symmetric 3 x 3 matrix and a vector, nine
numbers per voxel. See M. Garland and P. Heckbert, "Surface simplification using quadric error
metrics", SIGGRAPH 1997.

Does not know: meshes, grids.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any, Final

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Numbers per sum.
SUMS: Final = 9
#: Entries of the matrix as they are summed.
_UPPER: Final = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
#: Indices into `_UPPER` that give the whole matrix.
_SYMMETRIC: Final = (0, 1, 2, 1, 3, 4, 2, 4, 5)
#: Ridge that makes the matrix of one plane solvable, relative to its trace.
_RIDGE: Final = 1e-12


def plane_sums(normals: Tensor, points: Tensor) -> Tensor:
    """Sums of planes, [F, 9]: the upper half of n nᵀ, and n times the distance from 0."""
    away = -(normals * points).sum(dim=1, keepdim=True)
    upper = [normals[:, i] * normals[:, j] for i, j in _UPPER]
    return torch.cat([torch.stack(upper, dim=1), normals * away], dim=1)


def line_sums(start: Tensor, end: Tensor) -> Tensor:
    """Sums of lines, [L, 9]: those of the projection across the line."""
    along = torch.nn.functional.normalize(end - start, dim=1)
    upper = [float(i == j) - along[:, i] * along[:, j] for i, j in _UPPER]
    across = start - along * (along * start).sum(dim=1, keepdim=True)
    return torch.cat([torch.stack(upper, dim=1), -across], dim=1)


def lowest(sums: Tensor, weight: Tensor, centre: Tensor, voxels: Tensor, size: Tensor) -> Tensor:
    """Return where within its voxel each sum is lowest, [N, 3].

    Args:
        sums: [N, 9].
        weight: [N], of the squared distance to `centre`, which is added.
        centre: [N, 3].
        voxels: [N, 3], indices.
        size: [3], edges of a voxel.
    """
    matrix = torch.stack([sums[:, i] for i in _SYMMETRIC], dim=1).view(-1, 3, 3)
    ridge = weight + _RIDGE * matrix.diagonal(dim1=1, dim2=2).sum(dim=1) + _RIDGE
    matrix = matrix + ridge[:, None, None] * torch.eye(3, dtype=sums.dtype, device=sums.device)
    vector = sums[:, 6:] - ridge[:, None] * centre
    # In voxels, from the voxel's lowest corner.
    corner = voxels * size
    vector = (vector + (matrix @ corner[:, :, None])[:, :, 0]) * size
    matrix = matrix * size[:, None] * size
    # `solve` would wait for the device to tell of a singular matrix; the ridge leaves none.
    best = torch.linalg.solve_ex(matrix, -vector).result
    outside = ((best < 0) | (best > 1)).any(dim=1).nonzero()[:, 0]
    if len(outside):
        best[outside] = _lowest_on_boundary(matrix[outside], vector[outside])
    return corner + best * size


def _lowest_on_boundary(matrix: Tensor, vector: Tensor) -> Tensor:
    """Lowest point of each quadratic form on the unit cube's faces, edges and corners."""
    best = torch.zeros_like(vector)
    least = torch.full_like(vector[:, 0], torch.inf)
    for fixed in itertools.product((None, 0.0, 1.0), repeat=3):
        free = [axis for axis in range(3) if fixed[axis] is None]
        if len(free) == len(fixed):
            continue
        point = torch.zeros_like(vector)
        for axis in range(3):
            point[:, axis] = fixed[axis] or 0.0
        pull = vector + (matrix @ point[:, :, None])[:, :, 0]
        if len(free) == 1:
            point[:, free[0]] = -pull[:, free[0]] / matrix[:, free[0], free[0]]
        elif free:
            i, j = free
            a, b, d = matrix[:, i, i], matrix[:, i, j], matrix[:, j, j]
            scale = a * d - b * b
            point[:, i] = (b * pull[:, j] - d * pull[:, i]) / scale
            point[:, j] = (b * pull[:, i] - a * pull[:, j]) / scale
        inside = ((point >= 0) & (point <= 1)).all(dim=1)
        error = (point * ((matrix @ point[:, :, None])[:, :, 0] + 2 * vector)).sum(dim=1)
        better = inside & (error < least)
        best = torch.where(better[:, None], point, best)
        least = torch.where(better, error, least)
    return best
