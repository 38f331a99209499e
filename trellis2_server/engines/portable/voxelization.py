"""Mesh → voxels with dual vertices: `o_voxel.convert.mesh_to_flexible_dual_grid`.

`dualgrid` is the inverse. A voxel exists where the surface crosses a grid edge next to it. Its
vertex minimises the squared distances to the planes of the triangles that cross it, to the
mesh's open edges in it and, with a small weight, to the mean of the crossings, within the
voxel. See "Native and Compact Structured Latents for 3D Generation", the O-Voxel section.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trellis2_server.engines.portable import traversal
from trellis2_server.engines.portable.quadrics import SUMS, line_sums, lowest, plane_sums
from trellis2_server.engines.portable.traversal import Grid, crossings, passed, touched

if TYPE_CHECKING:
    from collections.abc import Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any


def mesh_to_flexible_dual_grid(  # noqa: PLR0913, PLR0917 - o_voxel's signature
    vertices: Tensor,
    faces: Tensor,
    voxel_size: float | Sequence[float] | Tensor | None = None,
    grid_size: int | Sequence[int] | Tensor | None = None,
    aabb: Sequence[Sequence[float]] | Tensor | None = None,
    face_weight: float = 1.0,
    boundary_weight: float = 1.0,
    regularization_weight: float = 0.1,
    timing: bool = False,  # noqa: FBT001, FBT002
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the voxels along a surface.

    Args:
        vertices: [V, 3].
        faces: integer [F, 3].
        voxel_size: edge of a voxel; alternative to `grid_size`.
        grid_size: voxels along x, y, z; alternative to `voxel_size`.
        aabb: lowest and highest corner of the grid.
        face_weight: above 0, all triangles that touch a voxel count; otherwise only those that
            cross its edges. As in o_voxel, the value has no other effect.
        boundary_weight: weight of the mesh's open edges.
        regularization_weight: weight of the mean of the crossings.
        timing: ignored.

    Returns:
        Voxels int32 [N, 3]; their vertices float32 [N, 3], from the grid's lowest corner;
        whether the surface crosses the voxel's edge along x, y, z, bool [N, 3].

    Raises:
        ValueError: both `voxel_size` and `grid_size` are None, or `aabb` is.
    """
    del timing
    device = vertices.device
    low, size, count = _box(aabb, voxel_size, grid_size, device)
    # Rounded to float32 as in o_voxel, so that the same edges are crossed.
    shifted = (vertices.float() - low.float()).double()
    grid = Grid(count)
    corners = (shifted / size)[faces.long()]
    normals = torch.cross(
        *(shifted[faces[:, i + 1].long()] - shifted[faces[:, i].long()] for i in (0, 1)), dim=1
    )
    normals = torch.nn.functional.normalize(normals, dim=1, eps=1e-30)
    planes = plane_sums(normals, shifted[faces[:, 0].long()])

    voxels, crossed, where, triangle = crossings(corners, grid)
    if not len(voxels):
        none = vertices.new_zeros(0, 3)
        return none.int(), none.float(), none.bool()
    around = grid.around(voxels, crossed)
    keys, place = torch.unique(around, return_inverse=True)
    sums = torch.zeros(len(keys), SUMS, dtype=torch.float64, device=device)
    mean = torch.zeros(len(keys), 4, dtype=torch.float64, device=device)
    hit = torch.cat([where * size, torch.ones_like(where[:, :1])], dim=1)
    for corner in place.view(4, -1):
        for part in torch.arange(len(corner), device=device).split(traversal.CHUNK_ROWS):
            sums.index_add_(0, corner[part], planes[triangle[part]])
            mean.index_add_(0, corner[part], hit[part])
    flags = torch.zeros(len(keys), 3, dtype=torch.bool, device=device)
    flags[place.view(4, -1)[0], crossed] = True

    if face_weight > 0:
        for near, owner in touched(corners, grid):
            _add(sums, keys, grid.key(near), planes[owner])
    if boundary_weight > 0:
        edges = _open_edges(faces)
        for near, owner in passed(shifted[edges] / size, grid):
            ends = shifted[edges[owner]]
            _add(sums, keys, grid.key(near), boundary_weight * line_sums(*ends.unbind(1)))

    centre = mean[:, :3] / mean[:, 3:]
    weight = regularization_weight * mean[:, 3]
    indices = grid.voxels(keys)
    dual = torch.cat(
        [
            lowest(sums[part], weight[part], centre[part], indices[part], size)
            for part in torch.arange(len(keys), device=device).split(traversal.CHUNK_ROWS)
        ]
    )
    return indices.int(), dual.float(), flags


def _box(aabb: Any, voxel_size: Any, grid_size: Any, device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the grid's lowest corner, a voxel's size and the number of voxels, along x, y, z."""
    if aabb is None:
        raise ValueError("the stand-in needs aabb")
    box = torch.as_tensor(aabb, dtype=torch.float64, device=device)
    if grid_size is not None:
        count = torch.as_tensor(grid_size, device=device).expand(3).long()
        return box[0], (box[1] - box[0]) / count, count
    if voxel_size is None:
        raise ValueError("either voxel_size or grid_size is needed")
    size = torch.as_tensor(voxel_size, dtype=torch.float64, device=device).expand(3)
    return box[0], size, ((box[1] - box[0]) / size).round().long()


def _add(sums: Tensor, keys: Tensor, near: Tensor, more: Tensor) -> None:
    """Add to the sums of the voxels that exist."""
    place = torch.searchsorted(keys, near).clamp_(max=len(keys) - 1)
    found = keys[place] == near
    sums.index_add_(0, place[found], more[found])


def _open_edges(faces: Tensor) -> Tensor:
    """Return the edges that only one face has, int64 [E, 2]."""
    wide = faces.long()
    edges = torch.cat([wide[:, [0, 1]], wide[:, [1, 2]], wide[:, [2, 0]]]).sort(dim=1).values
    unique, count = torch.unique(edges, dim=0, return_counts=True)
    return unique[count == 1]
