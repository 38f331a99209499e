"""Voxels of a grid that triangles and lines touch or cross.

All in float64 and without a loop over triangles: the rows of voxels that triangles touch are
listed for `CHUNK_ROWS` rows at a time. Positions are in voxels, from the grid's lowest corner.

Does not know: dual vertices, quadratic forms.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Rows listed at one time; each takes about a kilobyte.
CHUNK_ROWS: Final = 2**18
#: Shorter open edges are ignored, voxels.
_SHORTEST_EDGE: Final = 1e-6


class Grid:
    """Voxels as integer keys.

    Attributes:
        count: int64 [3], voxels along x, y, z.
    """

    def __init__(self, count: Tensor) -> None:
        self.count = count
        self._stride = torch.stack([count[1] * count[2], count[2], torch.ones_like(count[0])])

    def key(self, voxels: Tensor) -> Tensor:
        """Return the key of each voxel, [..., 3] → [...]."""
        return (voxels * self._stride).sum(dim=-1)

    def voxels(self, keys: Tensor) -> Tensor:
        """Return the voxel of each key, [N] → [N, 3]."""
        return keys[:, None] // self._stride % self.count

    def around(self, voxels: Tensor, axis: Tensor) -> Tensor:
        """Return the keys of the four voxels around each voxel's far edge along an axis, [4 N]."""
        first, second = self._stride[(axis + 1) % 3], self._stride[(axis + 2) % 3]
        key = self.key(voxels)
        return torch.cat([key, key + first, key + second, key + first + second])


def crossings(corners: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find where triangles cross edges of the grid.

    Args:
        corners: [F, 3, 3].
        grid: the grid.

    Returns:
        For each crossing: the voxel whose far edge is crossed, int64 [H, 3]; the edge's axis,
        [H]; the point, [H, 3]; the triangle, [H].
    """
    found: list[tuple[Tensor, ...]] = []
    for axis in range(3):
        order = [(axis + 1) % 3, (axis + 2) % 3, axis]
        last = _turned(grid.count, order) - 1
        turned = _turned(corners, order)
        by_row = turned[:, :, 1].argsort(dim=1, stable=True)
        turned = turned.gather(1, by_row[:, :, None].expand(-1, -1, 3))
        rows = turned[:, :, 1].long().clamp(min=0)
        rows = torch.minimum(rows, last[1])
        for part in _chunks(rows[:, 2] - rows[:, 0]):
            owner, number = _repeat(rows[part, 2] - rows[part, 0])
            owner = part[owner]
            row = rows[owner, 0] + number
            low, middle, high = turned[owner].unbind(1)
            at = (row + 1).double()
            is_lower = row < rows[owner, 1]
            other = torch.where(is_lower[:, None], low, high)
            ends = [
                torch.stack(
                    [
                        _interpolate(other[:, 1], end[:, 1], at, other[:, i], end[:, i])
                        for i in (0, 2)
                    ],
                    dim=1,
                )
                for end in (middle, torch.where(is_lower[:, None], high, low))
            ]
            swap = (ends[0][:, :1] > ends[1][:, :1]).expand(-1, 2)
            left, right = torch.where(swap, ends[1], ends[0]), torch.where(swap, ends[0], ends[1])
            columns = torch.stack([left[:, 0], right[:, 0]], dim=1).long().clamp(min=0)
            columns = torch.minimum(columns, last[0])
            line, number = _repeat(columns[:, 1] - columns[:, 0])
            column = columns[line, 0] + number
            x = (column + 1).double()
            z = _interpolate(left[line, 0], right[line, 0], x, left[line, 1], right[line, 1])
            inside = (z >= 0) & (z < grid.count[axis])
            kept = inside.nonzero()[:, 0]
            line, column, x, z = line[kept], column[kept], x[kept], z[kept]
            voxel = torch.empty(len(line), 3, dtype=torch.long, device=corners.device)
            voxel[:, order[0]], voxel[:, order[1]], voxel[:, axis] = column, row[line], z.long()
            where = torch.empty_like(voxel, dtype=torch.float64)
            where[:, order[0]], where[:, order[1]], where[:, axis] = x, at[line], z
            found.append((voxel, torch.full_like(line, axis), where, owner[line]))
    none = corners.new_zeros(0, 3)
    found.append((none.long(), none[:, 0].long(), none, none[:, 0].long()))
    voxel, edge, where, triangle = (torch.cat(parts) for parts in zip(*found, strict=True))
    return voxel, edge, where, triangle


def touched(corners: Tensor, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """List the voxels that triangles touch, int64 [K, 3], and the triangles, [K], in chunks.

    Rows and columns are those of the coordinate plane that the triangle faces most, so that a
    column has only a few of its voxels.
    """
    normals = torch.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1], dim=1)
    faced = normals.abs().argmax(dim=1)
    for axis in range(3):
        mine = ((faced == axis) & normals.any(dim=1)).nonzero()[:, 0]
        order = [(axis + 1) % 3, (axis + 2) % 3, axis]
        last = _turned(grid.count, order) - 1
        turned, normal = _turned(corners[mine], order), _turned(normals[mine], order)
        low, high = turned.amin(dim=1), turned.amax(dim=1)
        first, final = low.long().clamp(min=0), torch.minimum(high.long(), last)
        for part in _chunks((final[:, 1] - first[:, 1] + 1).clamp_(min=0)):
            owner, number = _repeat((final[part, 1] - first[part, 1] + 1).clamp_(min=0))
            owner = part[owner]
            row = first[owner, 1] + number
            extent = _extent(turned[owner], row)
            begin = torch.maximum(extent[:, 0].floor().long(), first[owner, 0])
            end = torch.minimum(extent[:, 1].floor().long(), final[owner, 0])
            line, number = _repeat((end - begin + 1).clamp_(min=0))
            column, row, owner = begin[line] + number, row[line], owner[line]
            n, point = normal[owner], turned[owner, 0]
            # Height of the plane over the column's corners.
            slope = n[:, :2] / n[:, 2:]
            flat = torch.stack([column, row], dim=1) - point[:, :2]
            height = point[:, 2] - (slope * flat).sum(dim=1)
            lowest = height - slope.clamp(min=0).sum(dim=1)
            highest = height - slope.clamp(max=0).sum(dim=1)
            begin = torch.maximum(lowest.floor().long(), first[owner, 2])
            end = torch.minimum(highest.floor().long(), final[owner, 2])
            line, number = _repeat((end - begin + 1).clamp_(min=0))
            voxel = torch.stack([column[line], row[line], begin[line] + number], dim=1)
            owner = owner[line]
            triangle, n = turned[owner], n[line]
            is_touched = _overlaps(triangle, n, voxel, (1, 2)) & _overlaps(
                triangle, n, voxel, (2, 0)
            )
            kept = is_touched.nonzero()[:, 0]
            voxel = voxel[kept]
            yield (
                torch.stack([voxel[:, order.index(i)] for i in range(3)], dim=1),
                mine[owner[kept]],
            )


def passed(lines: Tensor, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """List the voxels that lines [L, 2, 3] pass, int64 [K, 3], and the lines, [K], in chunks."""
    start, way = lines[:, 0], lines[:, 1] - lines[:, 0]
    low = lines.amin(dim=1).floor().long()
    steps = lines.amax(dim=1).floor().long() - low
    for part in _chunks(steps.sum(dim=1) + 1):
        owners, times = [part], [torch.zeros(len(part), dtype=torch.float64, device=way.device)]
        for axis in range(3):
            owner, number = _repeat(steps[part, axis])
            owner = part[owner]
            at = (low[owner, axis] + number + 1 - start[owner, axis]) / way[owner, axis]
            owners.append(owner)
            times.append(at.clamp(0, 1))
        owner, time = torch.cat(owners), torch.cat(times)
        order = time.argsort()
        order = order[owner[order].argsort(stable=True)]
        owner, time = owner[order], time[order]
        following = torch.cat([time[1:], time.new_ones(1)])
        is_last = torch.cat([owner[1:] != owner[:-1], owner.new_ones(1, dtype=torch.bool)])
        following = torch.where(is_last, 1.0, following)
        middle = start[owner] + way[owner] * ((time + following) / 2)[:, None]
        voxel = middle.floor().long()
        is_passed = (following > time) & (way[owner].abs().amax(dim=1) > _SHORTEST_EDGE)
        is_passed &= ((voxel >= 0) & (voxel < grid.count)).all(dim=1)
        kept = is_passed.nonzero()[:, 0]
        yield voxel[kept], owner[kept]


def _turned(coordinates: Tensor, order: list[int]) -> Tensor:
    """Reorder the last axis; a list as an index would be copied to the device."""
    return torch.stack([coordinates[..., axis] for axis in order], dim=-1)


def _repeat(count: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat each index i `count[i]` times; return the indices and a number within each."""
    owner = torch.arange(len(count), device=count.device).repeat_interleave(count)
    first = count.cumsum(0) - count
    return owner, torch.arange(len(owner), device=count.device) - first[owner]


def _chunks(count: Tensor) -> Iterator[Tensor]:
    """Split indices into chunks whose counts add up to about `CHUNK_ROWS`."""
    number = (count.cumsum(0) - 1).clamp_(min=0) // CHUNK_ROWS
    lengths = torch.unique_consecutive(number, return_counts=True)[1].tolist()
    yield from torch.arange(len(count), device=count.device).split(lengths)


def _interpolate(a: Tensor, b: Tensor, at: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """Interpolate linearly between (a, of_a) and (b, of_b); of_a where a equals b."""
    share = torch.where(a == b, 0.0, (at - a) / torch.where(a == b, 1.0, b - a))
    return of_a + share * (of_b - of_a)


def _extent(triangles: Tensor, row: Tensor) -> Tensor:
    """Extent of triangles along their first axis within a row, [R, 2]."""
    low = torch.full((len(row),), torch.inf, dtype=torch.float64, device=row.device)
    high = -low
    for i, j in ((0, 1), (1, 2), (2, 0)):
        a, b = triangles[:, i], triangles[:, j]
        rise = b[:, 1] - a[:, 1]
        is_flat = rise == 0
        safe = torch.where(is_flat, 1.0, rise)
        begin, end = (row - a[:, 1]) / safe, (row + 1 - a[:, 1]) / safe
        begin, end = torch.minimum(begin, end).clamp(min=0), torch.maximum(begin, end).clamp(max=1)
        begin, end = torch.where(is_flat, 0.0, begin), torch.where(is_flat, 1.0, end)
        outside = (begin > end) | (is_flat & ((a[:, 1] < row) | (a[:, 1] > row + 1)))
        width = b[:, 0] - a[:, 0]
        ends = torch.stack([a[:, 0] + begin * width, a[:, 0] + end * width])
        low = torch.where(outside, low, torch.minimum(low, ends.amin(dim=0)))
        high = torch.where(outside, high, torch.maximum(high, ends.amax(dim=0)))
    return torch.stack([low, high.clamp(min=-1)], dim=1).clamp(max=2.0**40)


def _overlaps(triangles: Tensor, normals: Tensor, voxels: Tensor, plane: tuple[int, int]) -> Tensor:
    """Whether triangles and voxels overlap in the projection to two axes."""
    i, j = plane
    sign = torch.where(normals[:, 3 - i - j] < 0, -1.0, 1.0)
    inside = torch.ones(len(voxels), dtype=torch.bool, device=voxels.device)
    for k in range(3):
        start, edge = triangles[:, k], triangles[:, (k + 1) % 3] - triangles[:, k]
        x, y = -sign * edge[:, j], sign * edge[:, i]
        from_start = x * (voxels[:, i] - start[:, i]) + y * (voxels[:, j] - start[:, j])
        furthest = from_start + (x.clamp(min=0) + y.clamp(min=0))
        inside &= furthest >= 0
    return inside
