"""From a mesh to voxels with dual vertices: `o_voxel.convert.mesh_to_flexible_dual_grid`.

The way back is `dualgrid`. A voxel is there when the surface crosses a grid edge next to it;
its vertex minimises the squared distances to the planes of the triangles that cross it, to
the mesh's open edges in it and, weakly, to the mean of the crossings, within the voxel. See
"Native and Compact Structured Latents for 3D Generation", the O-Voxel section.

All in float64 and without a loop over triangles: what a triangle touches is listed row by
row, for so many triangles at a time that the lists stay short.
"""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Rows of triangles listed at one time; each takes about a kilobyte.
CHUNK_ROWS: Final = 2**18
_SHORTEST_EDGE: Final = 1e-6
#: Entries of a symmetric 3 x 3 matrix as they are summed, then those of a vector.
_UPPER: Final = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_SUMS: Final = 9
#: Rows of `_UPPER` that make the whole matrix.
_SYMMETRIC: Final = (0, 1, 2, 1, 3, 4, 2, 4, 5)
#: Of a ridge that keeps a matrix of one plane solvable, relative to its trace.
_RIDGE: Final = 1e-12


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
    """The voxels along a surface.

    Args:
        vertices: [V, 3].
        faces: integer [F, 3].
        voxel_size: edge of a voxel; or
        grid_size: voxels along x, y, z.
        aabb: lowest and highest corner of the grid.
        face_weight: over 0: all triangles that touch a voxel count, else those alone that
            cross its edges. As in o_voxel it is no more than that switch.
        boundary_weight: of the mesh's open edges.
        regularization_weight: of the mean of the crossings.
        timing: not looked at.

    Returns:
        Voxels int32 [N, 3]; their vertices float32 [N, 3], from the grid's lowest corner; for
        each whether the surface crosses its edge along x, y, z, bool [N, 3].

    Raises:
        ValueError: neither `voxel_size` nor `grid_size` is given, or no `aabb`.
    """
    del timing
    device = vertices.device
    low, size, count = _box(aabb, voxel_size, grid_size, device)
    # Of float32 coordinates, as o_voxel has them, so that the same edges are crossed.
    shifted = (vertices.float() - low.float()).double()
    grid = _Grid(count)
    corners = (shifted / size)[faces.long()]
    normals = torch.cross(
        *(shifted[faces[:, i + 1].long()] - shifted[faces[:, i].long()] for i in (0, 1)), dim=1
    )
    normals = torch.nn.functional.normalize(normals, dim=1, eps=1e-30)
    planes = _plane_sums(normals, shifted[faces[:, 0].long()])

    voxels, crossed, where, triangle = _crossings(corners, grid)
    if not len(voxels):
        none = vertices.new_zeros(0, 3)
        return none.int(), none.float(), none.bool()
    around = grid.around(voxels, crossed)
    keys, place = torch.unique(around, return_inverse=True)
    sums = torch.zeros(len(keys), _SUMS, dtype=torch.float64, device=device)
    mean = torch.zeros(len(keys), 4, dtype=torch.float64, device=device)
    hit = torch.cat([where * size, torch.ones_like(where[:, :1])], dim=1)
    for corner in place.view(4, -1):
        for part in torch.arange(len(corner), device=device).split(CHUNK_ROWS):
            sums.index_add_(0, corner[part], planes[triangle[part]])
            mean.index_add_(0, corner[part], hit[part])
    flags = torch.zeros(len(keys), 3, dtype=torch.bool, device=device)
    flags[place.view(4, -1)[0], crossed] = True

    if face_weight > 0:
        for near, owner in _touched(corners, grid):
            _add(sums, keys, grid.key(near), planes[owner])
    if boundary_weight > 0:
        edges = _open_edges(faces)
        for near, owner in _passed(shifted[edges] / size, grid):
            ends = shifted[edges[owner]]
            _add(sums, keys, grid.key(near), boundary_weight * _line_sums(*ends.unbind(1)))

    centre = mean[:, :3] / mean[:, 3:]
    weight = regularization_weight * mean[:, 3]
    places = grid.place(keys)
    dual = torch.cat(
        [
            _lowest(sums[part], weight[part], centre[part], places[part], size)
            for part in torch.arange(len(keys), device=device).split(CHUNK_ROWS)
        ]
    )
    return places.int(), dual.float(), flags


def _box(aabb: Any, voxel_size: Any, grid_size: Any, device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The grid's lowest corner, a voxel's size, and how many there are, each along x, y, z."""
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


class _Grid:
    """Voxels as integer keys."""

    def __init__(self, count: Tensor) -> None:
        self.count = count
        self._stride = torch.stack([count[1] * count[2], count[2], torch.ones_like(count[0])])

    def key(self, voxels: Tensor) -> Tensor:
        return (voxels * self._stride).sum(dim=-1)

    def place(self, keys: Tensor) -> Tensor:
        return keys[:, None] // self._stride % self.count

    def around(self, voxels: Tensor, axis: Tensor) -> Tensor:
        """Keys of the four voxels around each one's far edge along an axis, [4 N]."""
        first, second = self._stride[(axis + 1) % 3], self._stride[(axis + 2) % 3]
        key = self.key(voxels)
        return torch.cat([key, key + first, key + second, key + first + second])


def _plane_sums(normals: Tensor, points: Tensor) -> Tensor:
    """What a plane adds: the upper half of n nᵀ, and n times its distance from 0, [F, 9]."""
    away = -(normals * points).sum(dim=1, keepdim=True)
    upper = [normals[:, i] * normals[:, j] for i, j in _UPPER]
    return torch.cat([torch.stack(upper, dim=1), normals * away], dim=1)


def _line_sums(start: Tensor, end: Tensor) -> Tensor:
    """What a line adds: the same of the projection across it."""
    along = torch.nn.functional.normalize(end - start, dim=1)
    upper = [float(i == j) - along[:, i] * along[:, j] for i, j in _UPPER]
    across = start - along * (along * start).sum(dim=1, keepdim=True)
    return torch.cat([torch.stack(upper, dim=1), -across], dim=1)


def _add(sums: Tensor, keys: Tensor, near: Tensor, what: Tensor) -> None:
    """Add to those voxels that are there."""
    place = torch.searchsorted(keys, near).clamp_(max=len(keys) - 1)
    found = keys[place] == near
    sums.index_add_(0, place[found], what[found])


def _spread(count: Tensor) -> tuple[Tensor, Tensor]:
    """For `count[i]` things each: whose each is, and its number among them."""
    owner = torch.arange(len(count), device=count.device).repeat_interleave(count)
    first = count.cumsum(0) - count
    return owner, torch.arange(len(owner), device=count.device) - first[owner]


def _portions(count: Tensor) -> Iterator[Tensor]:
    """Rows whose counts add up to about `CHUNK_ROWS`."""
    number = (count.cumsum(0) - 1).clamp_(min=0) // CHUNK_ROWS
    lengths = torch.unique_consecutive(number, return_counts=True)[1].tolist()
    yield from torch.arange(len(count), device=count.device).split(lengths)


def _between(a: Tensor, b: Tensor, at: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """Linear between (a, of_a) and (b, of_b); of_a where they coincide."""
    share = torch.where(a == b, 0.0, (at - a) / torch.where(a == b, 1.0, b - a))
    return of_a + share * (of_b - of_a)


def _crossings(corners: Tensor, grid: _Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where triangles cross lines of the grid, in voxels.

    Returns:
        The voxel at whose far edge it is, int64 [H, 3]; the edge's axis [H]; the point
        [H, 3]; the triangle [H].
    """
    found: list[tuple[Tensor, ...]] = []
    for axis in range(3):
        order = [(axis + 1) % 3, (axis + 2) % 3, axis]
        last = grid.count[order] - 1
        turned = corners[:, :, order]
        by_row = turned[:, :, 1].argsort(dim=1, stable=True)
        turned = turned.gather(1, by_row[:, :, None].expand(-1, -1, 3))
        rows = turned[:, :, 1].long().clamp(min=0)
        rows = torch.minimum(rows, last[1])
        for part in _portions(rows[:, 2] - rows[:, 0]):
            owner, number = _spread(rows[part, 2] - rows[part, 0])
            owner = part[owner]
            row = rows[owner, 0] + number
            low, middle, high = turned[owner].unbind(1)
            at = (row + 1).double()
            is_lower = row < rows[owner, 1]
            other = torch.where(is_lower[:, None], low, high)
            ends = [
                torch.stack(
                    [_between(other[:, 1], end[:, 1], at, other[:, i], end[:, i]) for i in (0, 2)],
                    dim=1,
                )
                for end in (middle, torch.where(is_lower[:, None], high, low))
            ]
            swap = (ends[0][:, :1] > ends[1][:, :1]).expand(-1, 2)
            left, right = torch.where(swap, ends[1], ends[0]), torch.where(swap, ends[0], ends[1])
            columns = torch.stack([left[:, 0], right[:, 0]], dim=1).long().clamp(min=0)
            columns = torch.minimum(columns, last[0])
            line, number = _spread(columns[:, 1] - columns[:, 0])
            column = columns[line, 0] + number
            x = (column + 1).double()
            z = _between(left[line, 0], right[line, 0], x, left[line, 1], right[line, 1])
            inside = (z >= 0) & (z < grid.count[axis])
            line, column, x, z = line[inside], column[inside], x[inside], z[inside]
            voxel = torch.empty(len(line), 3, dtype=torch.long, device=corners.device)
            voxel[:, order[0]], voxel[:, order[1]], voxel[:, axis] = column, row[line], z.long()
            where = torch.empty_like(voxel, dtype=torch.float64)
            where[:, order[0]], where[:, order[1]], where[:, axis] = x, at[line], z
            found.append((voxel, torch.full_like(line, axis), where, owner[line]))
    none = corners.new_zeros(0, 3)
    found.append((none.long(), none[:, 0].long(), none, none[:, 0].long()))
    voxel, edge, where, triangle = (torch.cat(parts) for parts in zip(*found, strict=True))
    return voxel, edge, where, triangle


def _touched(corners: Tensor, grid: _Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """Voxels that triangles touch, int64 [K, 3], and the triangles [K], portion by portion.

    Rows and columns are those of the plane that the triangle faces most, so that a column
    holds at most a few voxels of it.
    """
    normals = torch.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1], dim=1)
    faced = normals.abs().argmax(dim=1)
    for axis in range(3):
        mine = ((faced == axis) & normals.any(dim=1)).nonzero()[:, 0]
        order = [(axis + 1) % 3, (axis + 2) % 3, axis]
        last = grid.count[order] - 1
        turned, normal = corners[mine][:, :, order], normals[mine][:, order]
        low, high = turned.amin(dim=1), turned.amax(dim=1)
        first, final = low.long().clamp(min=0), torch.minimum(high.long(), last)
        for part in _portions((final[:, 1] - first[:, 1] + 1).clamp_(min=0)):
            owner, number = _spread((final[part, 1] - first[part, 1] + 1).clamp_(min=0))
            owner = part[owner]
            row = first[owner, 1] + number
            reach = _reach(turned[owner], row)
            begin = torch.maximum(reach[:, 0].floor().long(), first[owner, 0])
            end = torch.minimum(reach[:, 1].floor().long(), final[owner, 0])
            line, number = _spread((end - begin + 1).clamp_(min=0))
            column, row, owner = begin[line] + number, row[line], owner[line]
            n, point = normal[owner], turned[owner, 0]
            # The plane's height over the column's corners.
            slope = n[:, :2] / n[:, 2:]
            flat = torch.stack([column, row], dim=1) - point[:, :2]
            height = point[:, 2] - (slope * flat).sum(dim=1)
            lowest = height - slope.clamp(min=0).sum(dim=1)
            highest = height - slope.clamp(max=0).sum(dim=1)
            begin = torch.maximum(lowest.floor().long(), first[owner, 2])
            end = torch.minimum(highest.floor().long(), final[owner, 2])
            line, number = _spread((end - begin + 1).clamp_(min=0))
            voxel = torch.stack([column[line], row[line], begin[line] + number], dim=1)
            owner = owner[line]
            kept = _overlaps(turned[owner], n[line], voxel, (1, 2)) & _overlaps(
                turned[owner], n[line], voxel, (2, 0)
            )
            back = torch.empty_like(voxel[kept])
            back[:, order] = voxel[kept]
            yield back, mine[owner[kept]]


def _reach(triangles: Tensor, row: Tensor) -> Tensor:
    """From where to where triangles reach along their first axis within a row, [R, 2]."""
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
    """Whether triangles and voxels overlap as seen along the axis that `plane` leaves out."""
    i, j = plane
    sign = torch.where(normals[:, 3 - i - j] < 0, -1.0, 1.0)
    inside = torch.ones(len(voxels), dtype=torch.bool, device=voxels.device)
    for k in range(3):
        start, edge = triangles[:, k], triangles[:, (k + 1) % 3] - triangles[:, k]
        inward = torch.stack([-sign * edge[:, j], sign * edge[:, i]], dim=1)
        from_start = voxels[:, [i, j]] - start[:, [i, j]]
        furthest = (inward * from_start).sum(dim=1) + inward.clamp(min=0).sum(dim=1)
        inside &= furthest >= 0
    return inside


def _open_edges(faces: Tensor) -> Tensor:
    """Edges of one face alone, int64 [E, 2]."""
    wide = faces.long()
    edges = torch.cat([wide[:, [0, 1]], wide[:, [1, 2]], wide[:, [2, 0]]]).sort(dim=1).values
    unique, count = torch.unique(edges, dim=0, return_counts=True)
    return unique[count == 1]


def _passed(lines: Tensor, grid: _Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """Voxels that lines [L, 2, 3] pass, int64 [K, 3], and the lines [K], portion by portion."""
    start, way = lines[:, 0], lines[:, 1] - lines[:, 0]
    low = lines.amin(dim=1).floor().long()
    steps = lines.amax(dim=1).floor().long() - low
    for part in _portions(steps.sum(dim=1) + 1):
        owners, times = [part], [torch.zeros(len(part), dtype=torch.float64, device=way.device)]
        for axis in range(3):
            owner, number = _spread(steps[part, axis])
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
        kept = (following > time) & (way[owner].abs().amax(dim=1) > _SHORTEST_EDGE)
        kept &= ((voxel >= 0) & (voxel < grid.count)).all(dim=1)
        yield voxel[kept], owner[kept]


def _lowest(sums: Tensor, weight: Tensor, centre: Tensor, voxels: Tensor, size: Tensor) -> Tensor:
    """Where within its voxel each sum of squares is lowest, [N, 3]."""
    matrix = sums[:, list(_SYMMETRIC)].view(-1, 3, 3)
    ridge = weight + _RIDGE * matrix.diagonal(dim1=1, dim2=2).sum(dim=1) + _RIDGE
    matrix = matrix + ridge[:, None, None] * torch.eye(3, dtype=sums.dtype, device=sums.device)
    vector = sums[:, 6:] - ridge[:, None] * centre
    # From the voxel's lowest corner, in voxels.
    corner = voxels * size
    vector = (vector + (matrix @ corner[:, :, None])[:, :, 0]) * size
    matrix = matrix * size[:, None] * size
    best = torch.linalg.solve(matrix, -vector)
    outside = ((best < 0) | (best > 1)).any(dim=1).nonzero()[:, 0]
    if len(outside):
        best[outside] = _lowest_on_the_border(matrix[outside], vector[outside])
    return corner + best * size


def _lowest_on_the_border(matrix: Tensor, vector: Tensor) -> Tensor:
    """Of each convex quadratic, its lowest point on the unit cube's faces, edges, corners."""
    best = torch.zeros_like(vector)
    least = torch.full_like(vector[:, 0], torch.inf)
    for fixed in itertools.product((None, 0.0, 1.0), repeat=3):
        free = [axis for axis in range(3) if fixed[axis] is None]
        if len(free) == len(fixed):
            continue
        point = vector.new_tensor([value or 0.0 for value in fixed]).expand_as(vector).clone()
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
        best[better], least[better] = point[better], error[better]
    return best
