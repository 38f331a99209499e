"""Grouping of faces by the direction of their normals, in PyTorch.

The groups are as good as those of `export.grouping`, but not equal: all adjacent groups that fit
each other best are merged at once. Sums are computed in integers, so that they do not depend on the
order of the summands: equal input gives equal groups.

Does not know: how groups become charts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.device.tensors import Tensor, to_tensor, torch
from trellis2_server.export.grouping import (
    DIRECTIONS,
    MAX_BEND,
    MAX_BEND_SMALL,
    SMALL_TEXELS,
    SMOOTHINGS,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.grouping import Grouping

#: The area of the surface, and the length of all borders, as an integer.
_TOTAL: Final = float(1 << 40)


def grouping_on(device: Any) -> Grouping:
    """Return an implementation of `export.grouping.group_faces` on the device."""

    def group(
        vertices: NDArray[np.float32],
        faces: NDArray[np.int32],
        twin: NDArray[np.int32],
        normals: NDArray[np.float32],
        density: float,
    ) -> NDArray[np.int32]:
        found = _group(
            to_tensor(vertices, device),
            to_tensor(faces, device),
            to_tensor(twin, device),
            to_tensor(normals, device),
            density,
        )
        return found.cpu().numpy().astype(np.int32)

    return group


def _group(
    vertices: Tensor, faces: Tensor, twin: Tensor, normals: Tensor, density: float
) -> Tensor:
    """Return the group of each face, int64 [F], numbered from 0 without gaps."""
    twin = twin.long()
    half = (twin > torch.arange(len(twin), device=twin.device)).nonzero()[:, 0]
    low, high = half // 3, twin[half] // 3
    label = _label(normals[:, :3], twin)
    is_inside = label[low] == label[high]
    group = _connect(low[is_inside], high[is_inside], len(faces))
    corner = faces.reshape(-1).long()
    ends = torch.where(half % 3 == 2, half - 2, half + 1)  # noqa: PLR2004
    length = (vertices[corner[half]] - vertices[corner[ends]]).double().norm(dim=1)
    length = (length * (_TOTAL / length.sum().clamp(min=1e-30))).round().long() + 1
    sums, unit = _sum_normals(normals.double(), group)
    small = SMALL_TEXELS / (density * density * unit)
    low, high = group[low], group[high]
    while True:
        low, high, length = _borders(low, high, length, len(sums))
        rim = torch.zeros(len(sums), dtype=torch.int64, device=low.device)
        rim.index_add_(0, low, length).index_add_(0, high, length)
        both = sums[low] + sums[high]
        is_small = torch.minimum(sums[low, 0], sums[high, 0]) < small
        is_fit = _bend(both) <= torch.where(is_small, MAX_BEND_SMALL, MAX_BEND)
        share = length.double() / torch.minimum(rim[low], rim[high])
        share = torch.where(is_fit, share, -1.0)
        rank = torch.empty_like(low)
        order = torch.sort(share, descending=True, stable=True).indices
        rank[order] = torch.arange(len(low), device=low.device)
        best = torch.full_like(rim, len(low))
        best.scatter_reduce_(0, low, rank, "amin").scatter_reduce_(0, high, rank, "amin")
        is_best = is_fit & (best[low] == rank) & (best[high] == rank)
        if not bool(is_best.any()):
            return group
        parent = torch.arange(len(sums), device=low.device)
        parent[high[is_best]] = low[is_best]
        names, parent = torch.unique(parent, return_inverse=True)
        sums = torch.zeros_like(sums).index_add_(0, parent, sums)[: len(names)]
        group, low, high = parent[group], parent[low], parent[high]


def _label(normal: Tensor, twin: Tensor) -> Tensor:
    """Return the direction that fits each face and its neighbours best, int64 [F]."""
    fit = normal @ torch.tensor(DIRECTIONS, device=normal.device).T
    label = fit.argmax(1)
    has_twin, near = twin.reshape(-1, 3) >= 0, twin.clamp(min=0).reshape(-1, 3) // 3
    for _ in range(SMOOTHINGS):
        around = torch.where(has_twin, label[near], -1)
        option = torch.cat([around, label[:, None]], 1)
        alike = (option[:, :, None] == around[:, None, :]).sum(2)
        score = fit.gather(1, option.clamp(min=0)) + 0.16 * alike
        score = torch.where(option < 0, -torch.inf, score)
        is_best = score == score.amax(1, keepdim=True)
        label = torch.where(is_best, option, len(DIRECTIONS)).amin(1)
    return label


def _connect(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Return the connected component of each of `count` nodes, numbered from 0 without gaps.

    Args:
        a: int64 [E], one node of each edge.
        b: int64 [E], the other node.
        count: number of nodes.
    """
    root = torch.arange(count, device=a.device)
    while True:
        first, second = root[a], root[b]
        least = torch.minimum(first, second)
        hooked = root.clone()
        hooked.scatter_reduce_(0, first, least, "amin").scatter_reduce_(0, second, least, "amin")
        while not torch.equal(hooked, hooked[hooked]):
            hooked = hooked[hooked]
        if torch.equal(hooked, root):
            return torch.unique(root, return_inverse=True)[1]
        root = hooked


def _sum_normals(normals: Tensor, group: Tensor) -> tuple[Tensor, float]:
    """Sum area, area times normal, and area times the six products of its components.

    Args:
        normals: float64 [F, 4], unit normals and areas.
        group: int64 [F].

    Returns:
        sums: int64 [G, 10], in the unit below.
        unit: area.
    """
    x, y, z, area = normals.unbind(1)
    one = torch.ones_like(area)
    terms = torch.stack([one, x, y, z, x * x, x * y, x * z, y * y, y * z, z * z], 1)
    # On the CPU: a sum of floats on a device depends on the order of its threads.
    unit = max(float(area.cpu().sum()), 1e-30) / _TOTAL
    terms = (terms * area[:, None] / unit).round().long()
    sums = torch.zeros((int(group.max()) + 1, 10), dtype=torch.int64, device=group.device)
    return sums.index_add_(0, group, terms), unit


def _bend(sums: Tensor) -> Tensor:
    """Return the mean squared sine between the normals of a group and their mean, float64 [G]."""
    area, x, y, z, xx, xy, xz, yy, yz, zz = sums.double().unbind(1)
    square = x * x + y * y + z * z
    along = x * x * xx + y * y * yy + z * z * zz + 2.0 * (x * y * xy + x * z * xz + y * z * yz)
    bend = 1.0 - along / (square * area).clamp(min=1.0)
    # Normals that cancel out have no mean direction.
    bend = torch.where(square < 0.25 * area * area, torch.inf, bend)
    return torch.where(area > 0, bend, 0.0)


def _borders(
    low: Tensor, high: Tensor, length: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pair of adjacent groups once, with the total length of their common border."""
    keys = torch.minimum(low, high) * count + torch.maximum(low, high)
    is_apart = low != high
    keys, where = torch.unique(keys[is_apart], return_inverse=True)
    total = torch.zeros(len(keys), dtype=torch.int64, device=low.device)
    total.index_add_(0, where, length[is_apart])
    return torch.div(keys, count, rounding_mode="floor"), keys % count, total
