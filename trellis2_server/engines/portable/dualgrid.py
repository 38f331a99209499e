"""Voxels with dual vertices → mesh: `o_voxel.convert.flexible_dual_grid_to_mesh`.

Each voxel has one vertex. The surface crosses each flagged edge of the grid: the four voxels
around it are a quad, which is split along the diagonal with the larger product of weights. See
"Native and Compact Structured Latents for 3D Generation", the O-Voxel section.

Does not know: models, how the voxels were made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable.lookup import Lookup, sortable

if TYPE_CHECKING:
    from collections.abc import Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Edges whose voxels are looked up at one time; each takes about 100 bytes.
CHUNK_EDGES: Final = 2**22
#: Other three voxels around an edge along x, y, z, in the order of the quad.
_AROUND: Final = (
    ((0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 1, 0), (1, 1, 0), (1, 0, 0)),
)
#: Two triangles of a quad that is split from corner 0 to 2, or from 1 to 3.
_SPLIT_02: Final = (0, 1, 2, 0, 2, 3)
_SPLIT_13: Final = (0, 1, 3, 3, 1, 2)


def flexible_dual_grid_to_mesh(  # noqa: PLR0913, PLR0917 - o_voxel's signature
    coords: Tensor,
    dual_vertices: Tensor,
    intersected_flag: Tensor,
    split_weight: Tensor | None,
    aabb: Sequence[Sequence[float]] | Tensor,
    voxel_size: float | Sequence[float] | Tensor | None = None,
    grid_size: int | Sequence[int] | Tensor | None = None,
    train: bool = False,  # noqa: FBT001, FBT002
) -> tuple[Tensor, Tensor]:
    """Return the mesh; vertex i belongs to voxel i.

    Args:
        coords: int32 [N, 3].
        dual_vertices: [N, 3], the vertex within the voxel, about 0 to 1.
        intersected_flag: bool [N, 3], whether the surface crosses the voxel's edge along x, y, z.
        split_weight: [N, 1], positive; None uses the flatter split.
        aabb: lowest and highest corner of the grid.
        voxel_size: edge of a voxel; alternative to `grid_size`.
        grid_size: voxels along x, y, z; alternative to `voxel_size`.
        train: must be False.

    Returns:
        Vertices float32 [N, 3], faces int64 [F, 3].

    Raises:
        NotImplementedError: the differentiable variant is requested.
        ValueError: both `voxel_size` and `grid_size` are None.
    """
    if train:
        raise NotImplementedError("the stand-in does not train")
    # Computed where the caller has them, usually on the CPU: one copy of six numbers.
    box = torch.as_tensor(aabb, dtype=torch.float32)
    if voxel_size is not None:
        size = torch.as_tensor(voxel_size, dtype=torch.float32, device=box.device)
    elif grid_size is not None:
        count = torch.as_tensor(grid_size, dtype=torch.int32, device=box.device)
        size = (box[1] - box[0]) / count
    else:
        raise ValueError("either voxel_size or grid_size is needed")
    size, low = torch.stack([size.expand(3), box[0]]).to(coords.device)
    vertices = (coords.float() + dual_vertices) * size + low
    quads = _quads(coords, intersected_flag)
    if split_weight is None:
        is_02 = _flatness(vertices, quads, _SPLIT_02) > _flatness(vertices, quads, _SPLIT_13)
    else:
        weight = split_weight.reshape(-1)[quads]
        is_02 = weight[:, 0] * weight[:, 2] > weight[:, 1] * weight[:, 3]
    corners = [
        torch.where(is_02, quads[:, i], quads[:, j])
        for i, j in zip(_SPLIT_02, _SPLIT_13, strict=True)
    ]
    return vertices, torch.stack(corners, dim=1).view(-1, 3)


def _quads(coords: Tensor, flags: Tensor) -> Tensor:
    """Voxels around each flagged edge, int64 [Q, 4]; without edges that lack a voxel."""
    device, coords, flags = coords.device, sortable(coords), sortable(flags)
    rows, axes = flags.nonzero(as_tuple=True)
    if not len(rows):
        return rows.new_zeros(0, 4).to(device)
    lookup = Lookup(torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1), (1, 1, 1))
    keys = torch.empty_like(lookup.keys)
    keys[lookup.order] = lookup.keys
    shifts = torch.stack([lookup.shift(offset) for around in _AROUND for offset in around])
    shifts = shifts.view(3, 3)
    quads: list[Tensor] = []
    for part, axis in zip(rows.split(CHUNK_EDGES), axes.split(CHUNK_EDGES), strict=True):
        place, found = lookup.find(keys[part, None] + shifts[axis])
        whole = found.all(dim=1).nonzero()[:, 0]
        quads.append(torch.cat([part[whole, None], lookup.order[place[whole]]], dim=1))
    return torch.cat(quads).to(device)


def _flatness(vertices: Tensor, quads: Tensor, split: tuple[int, ...]) -> Tensor:
    """Cosine between the two triangles of a split, [Q]."""
    corners = [vertices[quads[:, corner]] for corner in split]
    first, second = (
        torch.cross(corners[i + 1] - corners[i], corners[i + 2] - corners[i], dim=1) for i in (0, 3)
    )
    return torch.nn.functional.cosine_similarity(first, second, dim=1)
