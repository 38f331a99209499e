"""Closest points of a surface, in PyTorch.

Does not know: textures, voxels.
"""

from __future__ import annotations

from typing import Final

from trellis2_server.export.device.tensors import Tensor, batches, row_items, torch

#: Distance of the searched box of cells from the cell with the point, in turn.
_RINGS: Final = (0, 1, 2, 4, 8, 16, 32)


def closest_points(points: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the closest point of the surface to each of the points, float64 [N, 3].

    Faces are listed in the cells of a uniform grid. Growing boxes of cells around a point are
    searched until nothing outside the box can be closer.

    Args:
        points: float64 [N, 3].
        vertices: float32 [V, 3].
        faces: int32 [F, 3].
    """
    vertices, faces = vertices.double(), faces.long()
    corner = vertices[faces]
    low, high = vertices.amin(0), vertices.amax(0)
    longest = float((high - low).max().clamp(min=1e-6))
    cell = max(longest / 256, 2.0 * longest * (2.0 / len(faces)) ** 0.5)
    sides = ((high - low) / cell).long() + 1
    first, members = _list_faces(corner, low, cell, sides)
    found = points.clone()
    square = torch.full((len(points),), torch.inf, dtype=torch.float64, device=points.device)
    home = torch.minimum(((points - low) / cell).floor().long().clamp(min=0), sides - 1)
    pending = torch.arange(len(points), device=points.device)
    for ring in _RINGS:
        if len(pending) == 0:
            break
        _search(pending, points, home, ring, sides, first, members, corner, found, square)
        # Distance from the point to the nearest side of the box of cells.
        offset = points[pending] - low
        reach = torch.minimum(
            offset - (home[pending] - ring) * cell, (home[pending] + ring + 1) * cell - offset
        ).amin(1)
        pending = pending[square[pending].sqrt() > reach]
    if len(pending):
        _search(
            pending, points, home, int(sides.max()), sides, first, members, corner, found, square
        )
    return found


def _list_faces(corner: Tensor, low: Tensor, cell: float, sides: Tensor) -> tuple[Tensor, Tensor]:
    """List the faces whose bounding boxes touch each cell.

    Returns:
        first: int64 [cells + 1].
        members: int64 [...], the faces of cell c at `first[c]:first[c + 1]`, ascending.
    """
    start = torch.minimum(((corner.amin(1) - low) / cell).long(), sides - 1)
    stop = torch.minimum(((corner.amax(1) - low) / cell).long(), sides - 1)
    extent = stop - start + 1
    count = extent.prod(1)
    row, item = row_items(count)
    k = start[row, 2] + item % extent[row, 2]
    item = item // extent[row, 2]
    j = start[row, 1] + item % extent[row, 1]
    i = start[row, 0] + item // extent[row, 1]
    cells = (i * sides[1] + j) * sides[2] + k
    order = torch.argsort(cells, stable=True)
    amount = torch.bincount(cells, minlength=int(sides.prod()))
    first = torch.zeros(len(amount) + 1, dtype=torch.int64, device=corner.device)
    torch.cumsum(amount, 0, out=first[1:])
    return first, row[order]


def _search(  # noqa: PLR0913, PLR0917 - points, cells and results
    which: Tensor,
    points: Tensor,
    home: Tensor,
    ring: int,
    sides: Tensor,
    first: Tensor,
    members: Tensor,
    corner: Tensor,
    found: Tensor,
    square: Tensor,
) -> None:
    """Search the box of cells around some points for closer faces; update `found` and `square`.

    Args:
        which: int64 [K], rows of `points` to search for.
        points: float64 [N, 3].
        home: int64 [N, 3], the cell of each point.
        ring: distance of the box of cells from that cell.
        sides: int64 [3], number of cells along each axis.
        first: see `_list_faces`.
        members: see `_list_faces`.
        corner: float64 [F, 3, 3], the corners of each face.
        found: float64 [N, 3], the closest points.
        square: float64 [N], squared distances.
    """
    low = (home[which] - ring).clamp(min=0)
    high = torch.minimum(home[which] + ring, sides - 1)
    # A row of cells along the last axis is one range of members.
    across = high[:, :2] - low[:, :2] + 1
    rows, item = row_items(across.prod(1))
    i = low[rows, 0] + item // across[rows, 1]
    j = low[rows, 1] + item % across[rows, 1]
    cell_row = (i * sides[1] + j) * sides[2]
    low_of, high_of = corner.amin(1), corner.amax(1)
    begin, end = first[cell_row + low[rows, 2]], first[cell_row + high[rows, 2] + 1]
    for start, stop in batches(end - begin):
        row, item = row_items((end - begin)[start:stop])
        point = which[rows[start + row]]
        face = members[begin[start + row] + item]
        # Skip faces whose bounding boxes are farther than the closest point found so far.
        beyond = torch.maximum(low_of[face] - points[point], points[point] - high_of[face])
        near = (beyond.clamp(min=0.0) ** 2).sum(1) <= square[point]
        point, face = point[near], face[near]
        if len(face) == 0:
            continue
        closest = closest_on_faces(points[point], corner[face])
        distance = ((closest - points[point]) ** 2).sum(1)
        best = torch.full_like(square, torch.inf)
        best.scatter_reduce_(0, point, distance, "amin")
        is_best = (distance == best[point]) & (distance < square[point])
        # Equally close faces share that point: any of them may be written last.
        found[point[is_best]] = closest[is_best]
        square[point[is_best]] = distance[is_best]


def closest_on_faces(p: Tensor, corner: Tensor) -> Tensor:
    """Return the closest point of a face to a point, for each pair, float64 [N, 3].

    Ericson, "Real-Time Collision Detection" (2005), 5.1.5: by Voronoi regions.

    Args:
        p: float64 [N, 3], points.
        corner: float64 [N, 3, 3], the corners of the faces.
    """
    a = corner[:, 0]
    u, v, w = corner[:, 1] - a, corner[:, 2] - a, p - a
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    d1, d2 = (u * w).sum(1), (v * w).sum(1)
    d3, d4, d5, d6 = d1 - uu, d2 - uv, d1 - uv, d2 - vv
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    zero, one = torch.zeros_like(d1), torch.ones_like(d1)
    whole = va + vb + vc
    span = (d4 - d3) + (d5 - d6)

    def part(value: Tensor, total: Tensor) -> Tensor:
        return torch.where(total > 0, value / torch.where(total > 0, total, one), zero)

    along = part(d4 - d3, span)
    safe = torch.where(whole == 0, one, whole)
    inside = torch.where(whole == 0, zero, vb / safe), torch.where(whole == 0, zero, vc / safe)
    regions = (
        ((d1 <= 0) & (d2 <= 0), zero, zero),
        ((d3 >= 0) & (d4 <= d3), one, zero),
        ((vc <= 0) & (d1 >= 0) & (d3 <= 0), part(d1, d1 - d3), zero),
        ((d6 >= 0) & (d5 <= d6), zero, one),
        ((vb <= 0) & (d2 >= 0) & (d6 <= 0), zero, part(d2, d2 - d6)),
        ((va <= 0) & (d4 - d3 >= 0) & (d5 - d6 >= 0), one - along, along),
    )
    s, t = inside
    for is_here, here_s, here_t in reversed(regions):
        s, t = torch.where(is_here, here_s, s), torch.where(is_here, here_t, t)
    return a + s[:, None] * u + t[:, None] * v
