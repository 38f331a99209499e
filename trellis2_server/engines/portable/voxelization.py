"""Mesh → voxels with dual vertices: `o_voxel.convert.mesh_to_flexible_dual_grid`.

`dualgrid` is the inverse. A voxel exists where the surface crosses a grid edge next to it. Its
vertex minimises the squared distances to the planes of the triangles that cross it, to the
mesh's open edges in it and, with a small weight, to the mean of the crossings, within the
voxel. See "Native and Compact Structured Latents for 3D Generation", the O-Voxel section.

TRELLIS.2 passes meshes on the CPU, as o_voxel needs them, and moves the voxels to its device.
`compute_on` names a device where the work is done instead: mesh and voxels are moved once each.
Sums are float64, so devices without it (Apple's, some of Intel's) are not used.

Does not know: models, files.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from trellis2_server.engines.portable import traversal
from trellis2_server.engines.portable.quadrics import SUMS, line_sums, lowest, plane_sums
from trellis2_server.engines.portable.traversal import Grid, crossings, passed, touched

if TYPE_CHECKING:
    from collections.abc import Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any
logger = logging.getLogger(__name__)


class _Place:
    """Where meshes on the CPU are voxelised.

    Attributes:
        device: of type `torch.device`; None: on the CPU.
    """

    device: Any = None


_place = _Place()


def compute_on(device: str) -> None:
    """Voxelise meshes on a device, for example "cuda:1", from now on."""
    chosen = torch.device(device)
    _place.device = chosen if _has_float64(chosen) else None


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
    weights = (face_weight, boundary_weight, regularization_weight)
    home, away = vertices.device, _place.device
    if home.type == "cpu" and away is not None:
        try:
            found = _voxelize(
                vertices.to(away), faces.to(away), _box(aabb, voxel_size, grid_size, away), *weights
            )
            return found[0].to(home), found[1].to(home), found[2].to(home)
        except torch.cuda.OutOfMemoryError as error:
            # Slower, but the mesh that the user sent needs no smaller one.
            why = str(error).partition("\n")[0]
        logger.warning("Mesh voxelised on the CPU: no device memory", extra={"why": why})
    return _voxelize(vertices, faces, _box(aabb, voxel_size, grid_size, home), *weights)


def _has_float64(device: Any) -> bool:
    """Whether a device other than the CPU computes in float64."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type == "cuda"


def _voxelize(  # noqa: PLR0913, PLR0917 - the weights of o_voxel's function
    vertices: Tensor,
    faces: Tensor,
    box: tuple[Tensor, Tensor, Tensor],
    face_weight: float,
    boundary_weight: float,
    regularization_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `mesh_to_flexible_dual_grid`, on the device of the mesh and of the box (see `_box`)."""
    device = vertices.device
    low, size, count = box
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
    # The planes of the triangles, then the sum of the crossings and their number.
    sums = torch.zeros(len(keys), SUMS + 4, dtype=torch.float64, device=device)
    hit = torch.cat([where * size, torch.ones_like(where[:, :1])], dim=1)
    rows = traversal.CHUNK_ROWS
    for corner in place.view(4, -1):
        for at, of, point in zip(*(t.split(rows) for t in (corner, triangle, hit)), strict=True):
            _accumulate(sums, at, torch.cat([planes[of], point], dim=1))
    sums, mean = sums[:, :SUMS].contiguous(), sums[:, SUMS:].contiguous()
    flags = torch.zeros(len(keys), 3, dtype=torch.bool, device=device)
    flags[place.view(4, -1)[0], crossed] = True

    if face_weight > 0:
        for near, owner in touched(corners, grid):
            place, kept = _existing(keys, grid.key(near))
            _accumulate(sums, place, planes[owner[kept]])
    if boundary_weight > 0:
        lines = shifted[_open_edges(faces, len(vertices))]
        for near, owner in passed(lines / size, grid):
            place, kept = _existing(keys, grid.key(near))
            ends = lines[owner[kept]]
            _accumulate(sums, place, boundary_weight * line_sums(*ends.unbind(1)))

    centre = mean[:, :3] / mean[:, 3:]
    weight = regularization_weight * mean[:, 3]
    indices = grid.voxels(keys)
    split = [t.split(rows) for t in (sums, weight, centre, indices)]
    dual = torch.cat([lowest(*part, size=size) for part in zip(*split, strict=True)])
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


def _existing(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices in `keys` of those wanted keys that exist, and which these are."""
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    kept = (keys[place] == wanted).nonzero()[:, 0]
    return place[kept], kept


def _accumulate(sums: Tensor, place: Tensor, more: Tensor) -> None:
    """Add rows to the sums, in an order that is the same each time.

    On a GPU, `index_add_` adds in any order, and the rounding differs from run to run;
    `index_put_` sorts the rows first. On a CPU it is the other way round.
    """
    if sums.device.type == "cpu":
        sums.index_add_(0, place, more)
    else:
        sums.index_put_((place,), more, accumulate=True)


def _open_edges(faces: Tensor, vertices: int) -> Tensor:
    """Return the edges that only one face has, int64 [E, 2], in ascending order."""
    wide = faces.long()
    following = wide.roll(-1, dims=1)
    low, high = torch.minimum(wide, following), torch.maximum(wide, following)
    unique, count = torch.unique(low * vertices + high, return_counts=True)
    key = unique[(count == 1).nonzero()[:, 0]]
    return torch.stack([key // vertices, key % vertices], dim=1)
