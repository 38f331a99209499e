"""Loops that classify the corners of a grid as inside or outside, and contour the boundary.

The grid's corners are stored in bricks of 8 x 8 x 8. A mask has eight words a brick: corner
(i, j, k) is bit 8 * j + k of word i. Only bricks near the surface have masks; any other brick is
uniform. Coordinates are in cells.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917
# ruff: noqa: PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_NONE = np.uint64(0)
_ONE = np.uint64(1)
_EIGHT = np.uint64(8)
_SEVEN = np.uint64(7)
_FIFTY_SIX = np.uint64(56)
_NOT_FIRST = np.uint64(0xFEFEFEFEFEFEFEFE)  # all but k = 0
_NOT_LAST = np.uint64(0x7F7F7F7F7F7F7F7F)  # all but k = 7
#: Half the thickness of the shell of a sheet, cells; each crossed edge has an end that close to the
#: surface.
_HALF = 0.505


@kernel
def to_grid(start, stop, vertices, low, scale, grid, flag):
    for v in range(start, stop):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(3):
            grid[v, k] = (vertices[v, k] - low[k]) * scale


@kernel
def bin_faces(grid, faces, reach, box, mode, first, members, flag):
    # The bricks within `reach` of each face. mode 0: mark them in `box`; 1: count the faces of
    # brick b in first[b + 1]; 2: write the faces to `members`, at the cursor first[b].
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for k in range(3):
            x, y, z = grid[a, k], grid[b, k], grid[c, k]
            # A brick includes the first corners of the next one.
            low[k] = max(0, int(np.ceil((min(x, y, z) - reach - 8.0) / 8.0)))
            high[k] = min(box.shape[k] - 1, int(np.floor((max(x, y, z) + reach) / 8.0)))
        ux, uy, uz = grid[b, 0] - grid[a, 0], grid[b, 1] - grid[a, 1], grid[b, 2] - grid[a, 2]
        vx, vy, vz = grid[c, 0] - grid[a, 0], grid[c, 1] - grid[a, 1], grid[c, 2] - grid[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        size = np.sqrt(nx * nx + ny * ny + nz * nz)
        is_large = (high[0] - low[0]) * (high[1] - low[1]) * (high[2] - low[2]) > 8 and size > 0.0
        # Half the diagonal of a brick, plus the reach.
        limit = 7.0 + reach
        for i in range(low[0], high[0] + 1):
            if is_cancelled(flag):
                return
            for j in range(low[1], high[1] + 1):
                for k in range(low[2], high[2] + 1):
                    if is_large:
                        x = 8.0 * i + 4.0 - grid[a, 0]
                        y = 8.0 * j + 4.0 - grid[a, 1]
                        z = 8.0 * k + 4.0 - grid[a, 2]
                        if abs(nx * x + ny * y + nz * z) > limit * size:
                            continue
                    if mode == 0:
                        box[i, j, k] = 0
                    elif box[i, j, k] < 0:
                        continue  # off the plane of a large face
                    elif mode == 1:
                        first[box[i, j, k] + 1] += 1
                    else:
                        members[first[box[i, j, k]]] = f
                        first[box[i, j, k]] += 1


@kernel
def number_bricks(box, place, flag):
    # Number the marked bricks; also write their positions if `place` is not empty.
    count = 0
    for i in range(box.shape[0]):
        if is_cancelled(flag):
            return 0
        for j in range(box.shape[1]):
            for k in range(box.shape[2]):
                if box[i, j, k] >= 0:
                    box[i, j, k] = count
                    if place.shape[0] > 0:
                        place[count, 0], place[count, 1], place[count, 2] = i, j, k
                    count += 1
    return count


@kernel
def side_of(px, py, qx, qy, x, y):
    return (qx - px) * (y - py) - (qy - py) * (x - px)


@kernel
def edge_side(grid, p, q, m, n, x, y):
    # The side of the edge p → q on which a point lies, exactly opposite for q → p: faces that share
    # the edge leave no gap.
    if p < q:
        return side_of(grid[p, m], grid[p, n], grid[q, m], grid[q, n], x, y)
    return -side_of(grid[q, m], grid[q, n], grid[p, m], grid[p, n], x, y)


@kernel
def line_crossing(grid, a, b, c, axis, m, n, x, y):
    # Where the line along `axis` through (x, y) intersects the face; NaN: nowhere.
    ab = edge_side(grid, a, b, m, n, x, y)
    bc = edge_side(grid, b, c, m, n, x, y)
    ca = edge_side(grid, c, a, m, n, x, y)
    if not ((ab >= 0.0 and bc >= 0.0 and ca >= 0.0) or (ab <= 0.0 and bc <= 0.0 and ca <= 0.0)):
        return np.nan
    total = ab + bc + ca
    if total == 0.0:
        return np.nan
    return (bc * grid[a, axis] + ca * grid[b, axis] + ab * grid[c, axis]) / total


@kernel
def normal_component(grid, a, b, c, axis):
    # Absolute component of the face's unit normal along the axis.
    ux, uy, uz = grid[b, 0] - grid[a, 0], grid[b, 1] - grid[a, 1], grid[b, 2] - grid[a, 2]
    vx, vy, vz = grid[c, 0] - grid[a, 0], grid[c, 1] - grid[a, 1], grid[c, 2] - grid[a, 2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    size = np.sqrt(nx * nx + ny * ny + nz * nz)
    if size <= 0.0:
        return 0.0
    return abs(nx if axis == 0 else ny if axis == 1 else nz) / size


@kernel
def mark_crossings(
    start, stop, grid, faces, place, first, members, crossed, near_low, near_high, flag
):
    # crossed[axis, brick, word]: the edge from a corner along the axis intersects a face; near_low,
    # near_high: its lower or upper end is within half a cell of the plane of that face.
    for brick in range(start, stop):
        if is_cancelled(flag):
            return
        origin = 8 * place[brick]
        for at in range(first[brick], first[brick + 1]):
            if at & 255 == 255 and is_cancelled(flag):
                return
            f = members[at]
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            for axis in range(3):
                m, n = (axis + 1) % 3, (axis + 2) % 3
                m0 = max(origin[m], int(np.ceil(min(grid[a, m], grid[b, m], grid[c, m]))))
                m1 = min(origin[m] + 7, int(np.floor(max(grid[a, m], grid[b, m], grid[c, m]))))
                n0 = max(origin[n], int(np.ceil(min(grid[a, n], grid[b, n], grid[c, n]))))
                n1 = min(origin[n] + 7, int(np.floor(max(grid[a, n], grid[b, n], grid[c, n]))))
                if m0 > m1 or n0 > n1:
                    continue
                component = -1.0
                for x in range(m0, m1 + 1):
                    for y in range(n0, n1 + 1):
                        depth = line_crossing(grid, a, b, c, axis, m, n, float(x), float(y))
                        if not (origin[axis] <= depth < origin[axis] + 8):
                            continue
                        if component < 0.0:
                            component = normal_component(grid, a, b, c, axis)
                        r = int(np.floor(depth))
                        s, t = x - origin[m], y - origin[n]
                        r_in = r - origin[axis]
                        i = r_in if axis == 0 else t if axis == 1 else s
                        j = s if axis == 0 else r_in if axis == 1 else t
                        k = t if axis == 0 else s if axis == 1 else r_in
                        bit = _ONE << np.uint64(8 * j + k)
                        crossed[axis, brick, i] |= bit
                        if (depth - r) * component <= _HALF:
                            near_low[axis, brick, i] |= bit
                        if (1.0 + r - depth) * component <= _HALF:
                            near_high[axis, brick, i] |= bit


@kernel
def read_words(masks, box, i, j, k, absent, out):
    # The words of a brick; `absent[i, j, k]` is the value of a brick without masks. False outside
    # the grid.
    if not (0 <= i < box.shape[0] and 0 <= j < box.shape[1] and 0 <= k < box.shape[2]):
        for w in range(8):
            out[w] = _NONE
        return False
    brick = box[i, j, k]
    if brick >= 0:
        for w in range(8):
            out[w] = masks[brick, w]
    else:
        value = _ALL if absent[i, j, k] == 1 else _NONE
        for w in range(8):
            out[w] = value
    return True


@kernel
def shift_mask(masks, box, i, j, k, absent, axis, step, near, far, out):
    # The shifted mask of a brick: `out` at a corner is the mask one step along the axis from it.
    read_words(masks, box, i, j, k, absent, near)
    read_words(
        masks, box, i + (step if axis == 0 else 0), j + (step if axis == 1 else 0),
        k + (step if axis == 2 else 0), absent, far,
    )  # fmt: skip
    for w in range(8):
        if axis == 0:
            if step > 0:
                out[w] = near[w + 1] if w < 7 else far[0]
            else:
                out[w] = near[w - 1] if w > 0 else far[7]
        elif axis == 1:
            if step > 0:
                out[w] = (near[w] >> _EIGHT) | (far[w] << _FIFTY_SIX)
            else:
                out[w] = (near[w] << _EIGHT) | (far[w] >> _FIFTY_SIX)
        elif step > 0:
            out[w] = ((near[w] >> _ONE) & _NOT_LAST) | ((far[w] << _SEVEN) & ~_NOT_LAST)
        else:
            out[w] = ((near[w] << _ONE) & _NOT_FIRST) | ((far[w] >> _SEVEN) & ~_NOT_FIRST)


@kernel
def mark_edge_ends(start, stop, box, place, crossed, absent, out, flag):
    # Both ends of every crossed edge.
    near, far, moved = np.empty(8, np.uint64), np.empty(8, np.uint64), np.empty(8, np.uint64)
    for brick in range(start, stop):
        if brick & 255 == 0 and is_cancelled(flag):
            return
        i, j, k = place[brick, 0], place[brick, 1], place[brick, 2]
        for w in range(8):
            out[brick, w] = crossed[0][brick, w] | crossed[1][brick, w] | crossed[2][brick, w]
        for axis in range(3):
            shift_mask(crossed[axis], box, i, j, k, absent, axis, -1, near, far, moved)
            for w in range(8):
                out[brick, w] |= moved[w]


@kernel
def dilate(start, stop, box, place, masks, absent, out, flag):
    # The mask and its six neighbours.
    near, far, moved = np.empty(8, np.uint64), np.empty(8, np.uint64), np.empty(8, np.uint64)
    for brick in range(start, stop):
        if brick & 255 == 0 and is_cancelled(flag):
            return
        i, j, k = place[brick, 0], place[brick, 1], place[brick, 2]
        for w in range(8):
            out[brick, w] = masks[brick, w]
        for axis in range(3):
            for step in (-1, 1):
                shift_mask(masks, box, i, j, k, absent, axis, step, near, far, moved)
                for w in range(8):
                    out[brick, w] |= moved[w]


@kernel
def reaches_side(masks, brick, axis, step):
    # Whether the mask contains a corner on that side of the brick.
    found = _NONE
    for w in range(8):
        if axis == 0:
            if w == (7 if step > 0 else 0):
                found |= masks[brick, w]
        elif axis == 1:
            found |= masks[brick, w] & (_ALL << _FIFTY_SIX if step > 0 else _ALL >> _FIFTY_SIX)
        else:
            found |= masks[brick, w] & (~_NOT_LAST if step > 0 else ~_NOT_FIRST)
    return found != _NONE


@kernel
def flood(box, free, masks, absent, flag):
    # Mark the corners that can be reached from the first corner of the grid through free corners.
    # Bricks without masks are free; `absent` becomes 1 for those that are reached.
    sides = box.shape
    total = sides[0] * sides[1] * sides[2]
    queued = np.zeros(total, np.uint8)
    queue = np.empty(total, np.int32)
    near, far, moved = np.empty(8, np.uint64), np.empty(8, np.uint64), np.empty(8, np.uint64)
    words = np.empty(8, np.uint64)
    if box[0, 0, 0] >= 0:
        masks[box[0, 0, 0], 0] |= _ONE & free[box[0, 0, 0], 0]
    queue[0], queued[0] = 0, 1
    head, length, is_first = 0, 1, True
    while length > 0:
        if is_cancelled(flag):
            return
        cell = queue[head]
        head = (head + 1) % total
        length -= 1
        queued[cell] = 0
        i, remainder = cell // (sides[1] * sides[2]), cell % (sides[1] * sides[2])
        j, k = remainder // sides[2], remainder % sides[2]
        brick = box[i, j, k]
        has_changed = is_first
        is_first = False
        if brick < 0:
            has_changed = True
            absent[i, j, k] = 1
        else:
            for w in range(8):
                words[w] = masks[brick, w]
            for axis in range(3):
                for step in (-1, 1):
                    shift_mask(masks, box, i, j, k, absent, axis, step, near, far, moved)
                    for w in range(8):
                        words[w] |= moved[w] & free[brick, w]
            is_growing = True
            while is_growing:
                is_growing = False
                for w in range(8):
                    x = words[w]
                    grown = x | ((x << _ONE) & _NOT_FIRST) | ((x >> _ONE) & _NOT_LAST)
                    grown |= (x << _EIGHT) | (x >> _EIGHT)
                    if w > 0:
                        grown |= words[w - 1]
                    if w < 7:
                        grown |= words[w + 1]
                    grown = x | (grown & free[brick, w])
                    if grown != x:
                        words[w] = grown
                        is_growing = True
            for w in range(8):
                if words[w] != masks[brick, w]:
                    has_changed = True
                    masks[brick, w] = words[w]
        if not has_changed:
            continue
        for axis in range(3):
            for step in (-1, 1):
                x = i + (step if axis == 0 else 0)
                y = j + (step if axis == 1 else 0)
                z = k + (step if axis == 2 else 0)
                if not (0 <= x < sides[0] and 0 <= y < sides[1] and 0 <= z < sides[2]):
                    continue
                if box[x, y, z] < 0:
                    # Only through a corner that has been reached.
                    if absent[x, y, z] == 1:
                        continue
                    if brick >= 0 and not reaches_side(masks, brick, axis, step):
                        continue
                next_cell = (x * sides[1] + y) * sides[2] + z
                if queued[next_cell] == 0:
                    queued[next_cell] = 1
                    queue[(head + length) % total] = next_cell
                    length += 1


@kernel
def grow_mask(masks, box, i, j, k, absent, blocked, nothing, near, far, moved, wall, grown):
    # The neighbours of the mask's corners along edges that are not blocked.
    for w in range(8):
        grown[w] = _NONE
    brick = box[i, j, k]
    for axis in range(3):
        shift_mask(masks, box, i, j, k, absent, axis, 1, near, far, moved)
        for w in range(8):
            grown[w] |= moved[w] & ~blocked[axis][brick, w]
        shift_mask(masks, box, i, j, k, absent, axis, -1, near, far, moved)
        shift_mask(blocked[axis], box, i, j, k, nothing, axis, -1, near, far, wall)
        for w in range(8):
            grown[w] |= moved[w] & ~wall[w]


@kernel
def grow_regions(box, place, blocked, outside, inside, absent_out, absent_in, flag):
    # Grow outside and inside, one edge at a time, into unassigned corners, never across the
    # surface. Corners that both reach in the same step become inside.
    count = place.shape[0]
    nothing = np.zeros(absent_out.shape, np.uint8)
    listed = np.ones(count, np.uint8)
    order = np.arange(count)
    length = count
    next_out = np.empty((count, 8), np.uint64)
    next_in = np.empty((count, 8), np.uint64)
    near, far, moved = np.empty(8, np.uint64), np.empty(8, np.uint64), np.empty(8, np.uint64)
    wall, grown = np.empty(8, np.uint64), np.empty(8, np.uint64)
    while length > 0:
        for n in range(length):
            if n & 63 == 0 and is_cancelled(flag):
                return
            brick = order[n]
            i, j, k = place[brick, 0], place[brick, 1], place[brick, 2]
            is_full = True
            for w in range(8):
                if (outside[brick, w] | inside[brick, w]) != _ALL:
                    is_full = False
            if is_full:
                for w in range(8):
                    next_out[n, w], next_in[n, w] = _NONE, _NONE
                continue
            grow_mask(
                outside, box, i, j, k, absent_out, blocked, nothing, near, far, moved, wall, grown
            )
            for w in range(8):
                next_out[n, w] = grown[w] & ~(outside[brick, w] | inside[brick, w])
            grow_mask(
                inside, box, i, j, k, absent_in, blocked, nothing, near, far, moved, wall, grown
            )
            for w in range(8):
                next_in[n, w] = grown[w] & ~(outside[brick, w] | inside[brick, w])
                next_out[n, w] &= ~next_in[n, w]
        has_changed = np.zeros(length, np.uint8)
        for n in range(length):
            if n & 63 == 0 and is_cancelled(flag):
                return
            brick = order[n]
            listed[brick] = 0
            for w in range(8):
                if (next_out[n, w] | next_in[n, w]) != _NONE:
                    has_changed[n] = 1
                    outside[brick, w] |= next_out[n, w]
                    inside[brick, w] |= next_in[n, w]
        changed = order[:length][has_changed == 1]
        length = 0
        for brick in changed:
            if is_cancelled(flag):
                return
            for direction in range(7):
                i, j, k = place[brick, 0], place[brick, 1], place[brick, 2]
                if direction < 3:
                    i, j, k = i - (direction == 0), j - (direction == 1), k - (direction == 2)
                elif direction < 6:
                    i, j, k = i + (direction == 3), j + (direction == 4), k + (direction == 5)
                if not (0 <= i < box.shape[0] and 0 <= j < box.shape[1] and 0 <= k < box.shape[2]):
                    continue
                other = box[i, j, k]
                if other >= 0 and listed[other] == 0:
                    listed[other] = 1
                    order[length] = other
                    length += 1


@kernel
def mark_sheets(
    start, stop, box, place, outside, absent, near_low, near_high, nothing, sheets, flag
):
    # Mark the corners near a sheet with outside on both sides.
    near, far, moved = np.empty(8, np.uint64), np.empty(8, np.uint64), np.empty(8, np.uint64)
    shifted_near = np.empty(8, np.uint64)
    for brick in range(start, stop):
        if brick & 255 == 0 and is_cancelled(flag):
            return
        i, j, k = place[brick, 0], place[brick, 1], place[brick, 2]
        for w in range(8):
            sheets[brick, w] = _NONE
        for axis in range(3):
            shift_mask(outside, box, i, j, k, absent, axis, 1, near, far, moved)
            for w in range(8):
                sheets[brick, w] |= near_low[axis][brick, w] & outside[brick, w] & moved[w]
            shift_mask(near_high[axis], box, i, j, k, nothing, axis, -1, near, far, shifted_near)
            shift_mask(outside, box, i, j, k, absent, axis, -1, near, far, moved)
            for w in range(8):
                sheets[brick, w] |= shifted_near[w] & outside[brick, w] & moved[w]


@kernel
def read_corners(masks, box, absent, place, brick, out):
    # The bits of corners -1 … 8 of a brick: uint8 [10, 10, 10].
    words = np.empty(8, np.uint64)
    i, j, k = place[brick, 0], place[brick, 1], place[brick, 2]
    for di in range(-1, 2):
        for dj in range(-1, 2):
            for dk in range(-1, 2):
                is_there = read_words(masks, box, i + di, j + dj, k + dk, absent, words)
                x0, x1 = (7, 8) if di < 0 else (0, 8) if di == 0 else (0, 1)
                y0, y1 = (7, 8) if dj < 0 else (0, 8) if dj == 0 else (0, 1)
                z0, z1 = (7, 8) if dk < 0 else (0, 8) if dk == 0 else (0, 1)
                for x in range(x0, x1):
                    for y in range(y0, y1):
                        for z in range(z0, z1):
                            bit = (words[x] >> np.uint64(8 * y + z)) & _ONE
                            # Beyond the grid, all is outside.
                            value = np.uint8(bit) if is_there else np.uint8(1)
                            out[8 * di + x + 1, 8 * dj + y + 1, 8 * dk + z + 1] = value


@kernel
def is_uniform(masks, box, absent, place, brick):
    # Whether a brick and all bricks around it have one common value.
    words = np.empty(8, np.uint64)
    value = masks[brick, 0]
    if value not in (_NONE, _ALL):
        return False
    for i in range(-1, 2):
        for j in range(-1, 2):
            for k in range(-1, 2):
                if not read_words(
                    masks, box, place[brick, 0] + i, place[brick, 1] + j, place[brick, 2] + k,
                    absent, words,
                ):  # fmt: skip
                    continue
                for w in range(8):
                    if words[w] != value:
                        return False
    return True


@kernel
def encode_cells(out, codes):
    # codes[i + 1, j + 1, k + 1]: bits of the inside corners of the cell at (i, j, k), -1 … 7.
    for i in range(9):
        for j in range(9):
            for k in range(9):
                code = 0
                for corner in range(8):
                    if out[i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1)] == 0:
                        code |= 1 << corner
                codes[i, j, k] = code


@kernel
def edge_slot(axis, s, t):
    # Number of the edge of a cell along `axis`, at offsets s and t along the next two axes.
    return 4 * axis + 2 * s + t


@kernel
def is_doubled(out, codes, sheets, axis, i, j, k):
    # Whether two strips of surface run through a face of a cell between the same two vertices. The
    # face is normal to `axis`; its lowest corner is (i, j, k).
    m, n = (axis + 1) % 3, (axis + 2) % 3
    mi, mj, mk = m == 0, m == 1, m == 2
    ni, nj, nk = n == 0, n == 1, n == 2
    a = out[i + 1, j + 1, k + 1]
    b = out[i + 1 + mi, j + 1 + mj, k + 1 + mk]
    c = out[i + 1 + ni, j + 1 + nj, k + 1 + nk]
    d = out[i + 1 + mi + ni, j + 1 + mj + nj, k + 1 + mk + nk]
    if a != d or b != c or a == b:
        return False
    upper = codes[i + 1, j + 1, k + 1]
    lower = codes[i + (axis != 0), j + (axis != 1), k + (axis != 2)]
    # The strips go around the outside corners: a and d, or b and c. Along m at n = 0, 1:
    for code, side in ((upper, 0), (lower, 1)):
        # edge_slot(m, offset along n, offset along axis)
        if sheets[code, edge_slot(m, 0, side)] != sheets[code, edge_slot(m, 1, side)]:
            return False
    return True


@kernel
def count_elements(start, stop, box, place, outside, absent, sheets, counts, flag):
    # counts[brick]: number of vertices, doubled faces and triangles.
    out = np.empty((10, 10, 10), np.uint8)
    codes = np.empty((9, 9, 9), np.uint8)
    for brick in range(start, stop):
        if is_cancelled(flag):
            return
        vertices, doubles, triangles = 0, 0, 0
        if not is_uniform(outside, box, absent, place, brick):
            read_corners(outside, box, absent, place, brick, out)
            encode_cells(out, codes)
            for i in range(8):
                for j in range(8):
                    for k in range(8):
                        here = out[i + 1, j + 1, k + 1]
                        code = codes[i + 1, j + 1, k + 1]
                        if code not in (0, 255):
                            vertices += int(sheets[code, 12])
                        for axis in range(3):
                            di, dj, dk = axis == 0, axis == 1, axis == 2
                            if code not in (0, 255) and is_doubled(
                                out, codes, sheets, axis, i, j, k
                            ):
                                doubles += 1
                            if here != out[i + 1 + di, j + 1 + dj, k + 1 + dk]:
                                triangles += 2 + doubled_faces_around(
                                    out, codes, sheets, axis, i, j, k
                                )
        counts[brick, 0], counts[brick, 1], counts[brick, 2] = vertices, doubles, triangles


@kernel
def doubled_faces_around(out, codes, sheets, axis, i, j, k):
    # Number of doubled faces among the four around an edge.
    m, n = (axis + 1) % 3, (axis + 2) % 3
    mi, mj, mk = m == 0, m == 1, m == 2
    ni, nj, nk = n == 0, n == 1, n == 2
    return (
        int(is_doubled(out, codes, sheets, m, i - ni, j - nj, k - nk))
        + int(is_doubled(out, codes, sheets, n, i, j, k))
        + int(is_doubled(out, codes, sheets, m, i, j, k))
        + int(is_doubled(out, codes, sheets, n, i - mi, j - mj, k - mk))
    )


@kernel
def closest_on_face(grid, a, b, c, x, y, z, point):
    # Ericson, "Real-Time Collision Detection" (2005), 5.1.5: by Voronoi regions.
    ax, ay, az = grid[a, 0], grid[a, 1], grid[a, 2]
    ux, uy, uz = grid[b, 0] - ax, grid[b, 1] - ay, grid[b, 2] - az
    vx, vy, vz = grid[c, 0] - ax, grid[c, 1] - ay, grid[c, 2] - az
    wx, wy, wz = x - ax, y - ay, z - az
    uu = ux * ux + uy * uy + uz * uz
    uv = ux * vx + uy * vy + uz * vz
    vv = vx * vx + vy * vy + vz * vz
    d1, d2 = ux * wx + uy * wy + uz * wz, vx * wx + vy * wy + vz * wz
    d3, d4, d5, d6 = d1 - uu, d2 - uv, d1 - uv, d2 - vv
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    s, t = 0.0, 0.0
    if d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        s = 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0 and d1 > d3:  # not if the edge is a point
        s = d1 / (d1 - d3)
    elif d6 >= 0.0 and d5 <= d6:
        t = 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        t = d2 / (d2 - d6) if d2 > d6 else 0.0
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        span = (d4 - d3) + (d5 - d6)
        t = (d4 - d3) / span if span > 0.0 else 0.0
        s = 1.0 - t
    else:
        whole = va + vb + vc
        if whole != 0.0:
            s, t = vb / whole, vc / whole
    point[0], point[1], point[2] = ax + s * ux + t * vx, ay + s * uy + t * vy, az + s * uz + t * vz
    dx, dy, dz = x - point[0], y - point[1], z - point[2]
    return dx * dx + dy * dy + dz * dz


@kernel
def intersect_edges(grid, faces, first, members, brick, origin, out, hits, flag):
    # The outermost intersection of each edge between inside and outside with the surface.
    # hits[axis, i, j, k]: position along the edge (-1: none), unit normal.
    for axis in range(3):
        for i in range(9):
            for j in range(9):
                for k in range(9):
                    hits[axis, i, j, k, 0] = -1.0
    for at in range(first[brick], first[brick + 1]):
        if at & 255 == 255 and is_cancelled(flag):
            return
        f = members[at]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        nx, ny, nz, is_known = 0.0, 0.0, 0.0, False
        for axis in range(3):
            m, n = (axis + 1) % 3, (axis + 2) % 3
            m0 = max(origin[m], int(np.ceil(min(grid[a, m], grid[b, m], grid[c, m]))))
            m1 = min(origin[m] + 8, int(np.floor(max(grid[a, m], grid[b, m], grid[c, m]))))
            n0 = max(origin[n], int(np.ceil(min(grid[a, n], grid[b, n], grid[c, n]))))
            n1 = min(origin[n] + 8, int(np.floor(max(grid[a, n], grid[b, n], grid[c, n]))))
            for x in range(m0, m1 + 1):
                for y in range(n0, n1 + 1):
                    depth = line_crossing(grid, a, b, c, axis, m, n, float(x), float(y))
                    if not (origin[axis] <= depth < origin[axis] + 8):
                        continue
                    s, t = x - origin[m], y - origin[n]
                    r = int(np.floor(depth)) - origin[axis]
                    fraction = depth - np.floor(depth)
                    i = r if axis == 0 else t if axis == 1 else s
                    j = s if axis == 0 else r if axis == 1 else t
                    k = t if axis == 0 else s if axis == 1 else r
                    here = out[i + 1, j + 1, k + 1]
                    if here == out[i + 1 + (axis == 0), j + 1 + (axis == 1), k + 1 + (axis == 2)]:
                        continue
                    known = hits[axis, i, j, k, 0]
                    # The outside end is the lower one if `here` is 1.
                    if known >= 0.0 and ((here == 1) == (fraction >= known)):
                        continue
                    if not is_known:
                        is_known = True
                        ux, uy, uz = (
                            grid[b, 0] - grid[a, 0],
                            grid[b, 1] - grid[a, 1],
                            grid[b, 2] - grid[a, 2],
                        )
                        vx, vy, vz = (
                            grid[c, 0] - grid[a, 0],
                            grid[c, 1] - grid[a, 1],
                            grid[c, 2] - grid[a, 2],
                        )
                        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
                        size = np.sqrt(nx * nx + ny * ny + nz * nz)
                        if size > 0.0:
                            nx, ny, nz = nx / size, ny / size, nz / size
                    hits[axis, i, j, k, 0] = fraction
                    hits[axis, i, j, k, 1] = nx
                    hits[axis, i, j, k, 2] = ny
                    hits[axis, i, j, k, 3] = nz


@kernel
def measure_distances(grid, faces, first, members, brick, origin, wanted, square, closest, flag):
    # Squared distance and closest point of the wanted corners 0 … 8, up to 1.5 cells from a face.
    point = np.empty(3)
    for i in range(9):
        for j in range(9):
            for k in range(9):
                square[i, j, k] = np.inf
    for at in range(first[brick], first[brick + 1]):
        if at & 63 == 63 and is_cancelled(flag):
            return
        f = members[at]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        i0 = max(0, int(np.ceil(min(grid[a, 0], grid[b, 0], grid[c, 0]) - 1.5)) - origin[0])
        i1 = min(8, int(np.floor(max(grid[a, 0], grid[b, 0], grid[c, 0]) + 1.5)) - origin[0])
        j0 = max(0, int(np.ceil(min(grid[a, 1], grid[b, 1], grid[c, 1]) - 1.5)) - origin[1])
        j1 = min(8, int(np.floor(max(grid[a, 1], grid[b, 1], grid[c, 1]) + 1.5)) - origin[1])
        k0 = max(0, int(np.ceil(min(grid[a, 2], grid[b, 2], grid[c, 2]) - 1.5)) - origin[2])
        k1 = min(8, int(np.floor(max(grid[a, 2], grid[b, 2], grid[c, 2]) + 1.5)) - origin[2])
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                for k in range(k0, k1 + 1):
                    if wanted[i, j, k] == 0:
                        continue
                    x, y, z = origin[0] + i, origin[1] + j, origin[2] + k
                    d = closest_on_face(grid, a, b, c, x, y, z, point)
                    if d < square[i, j, k]:
                        square[i, j, k] = d
                        closest[i, j, k, 0] = point[0]
                        closest[i, j, k, 1] = point[1]
                        closest[i, j, k, 2] = point[2]


@kernel
def offset_sheets(origin, out, free, square, closest, hits):
    # hits of edges that leave the shell of a sheet: where they are half a cell from the sheet.
    for axis in range(3):
        for i in range(9):
            for j in range(9):
                for k in range(9):
                    x, y, z = i + (axis == 0), j + (axis == 1), k + (axis == 2)
                    if max(x, y, z) > 8 or out[i + 1, j + 1, k + 1] == out[x + 1, y + 1, z + 1]:
                        continue
                    is_up = out[i + 1, j + 1, k + 1] == 0
                    # (p, q, r) is the inner end, (u, v, w) the outer one.
                    p, q, r = (i, j, k) if is_up else (x, y, z)
                    u, v, w = (x, y, z) if is_up else (i, j, k)
                    if free[p + 1, q + 1, r + 1] == 0:
                        continue  # the inner end is solid
                    inner, outer = np.sqrt(square[p, q, r]), np.sqrt(square[u, v, w])
                    t = 0.5
                    nx = 1.0 if axis == 0 else 0.0
                    ny = 1.0 if axis == 1 else 0.0
                    nz = 1.0 if axis == 2 else 0.0
                    if outer < np.inf and inner < np.inf:
                        dx = origin[0] + u - closest[u, v, w, 0]
                        dy = origin[1] + v - closest[u, v, w, 1]
                        dz = origin[2] + w - closest[u, v, w, 2]
                        ex = origin[0] + p - closest[p, q, r, 0]
                        ey = origin[1] + q - closest[p, q, r, 1]
                        ez = origin[2] + r - closest[p, q, r, 2]
                        # The inner end may lie on the other side of the sheet.
                        if dx * ex + dy * ey + dz * ez < 0.0:
                            inner = -inner
                        if outer - inner > 1e-3:
                            t = (_HALF - inner) / (outer - inner)
                        t = min(max(t, 0.02), 0.98)
                        if outer > 1e-6:
                            nx, ny, nz = dx / outer, dy / outer, dz / outer
                    hits[axis, i, j, k, 0] = t if is_up else 1.0 - t
                    hits[axis, i, j, k, 1] = nx
                    hits[axis, i, j, k, 2] = ny
                    hits[axis, i, j, k, 3] = nz


@kernel
def hit_point(hits, axis, i, j, k, point):
    # The position of a hit in the brick; the middle of the edge if there is none.
    t = hits[axis, i, j, k, 0]
    if t < 0.0:
        t = 0.5
    point[0] = i + (t if axis == 0 else 0.0)
    point[1] = j + (t if axis == 1 else 0.0)
    point[2] = k + (t if axis == 2 else 0.0)


@kernel
def place_vertex(hits, sheets, code, sheet, i, j, k, vertex):
    # The point of the cell that minimises the quadratic error to the planes at the hits of its
    # edges, regularised towards their mean (Ju, Losasso, Schaefer and Warren 2002).
    point = np.empty(3)
    mx, my, mz, count = 0.0, 0.0, 0.0, 0
    for slot in range(12):
        if sheets[code, slot] != sheet:
            continue
        axis, s, t = slot >> 2, (slot >> 1) & 1, slot & 1
        x = i + (t if axis == 1 else s if axis == 2 else 0)
        y = j + (s if axis == 0 else t if axis == 2 else 0)
        z = k + (t if axis == 0 else s if axis == 1 else 0)
        hit_point(hits, axis, x, y, z, point)
        mx += point[0]
        my += point[1]
        mz += point[2]
        count += 1
    mx, my, mz = mx / count, my / count, mz / count
    a, b, c, d, e, g, p, q, r = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for slot in range(12):
        if sheets[code, slot] != sheet:
            continue
        axis, s, t = slot >> 2, (slot >> 1) & 1, slot & 1
        x = i + (t if axis == 1 else s if axis == 2 else 0)
        y = j + (s if axis == 0 else t if axis == 2 else 0)
        z = k + (t if axis == 0 else s if axis == 1 else 0)
        if hits[axis, x, y, z, 0] < 0.0:
            continue
        hit_point(hits, axis, x, y, z, point)
        nx, ny, nz = hits[axis, x, y, z, 1], hits[axis, x, y, z, 2], hits[axis, x, y, z, 3]
        h = nx * (point[0] - mx) + ny * (point[1] - my) + nz * (point[2] - mz)
        a, b, c = a + nx * nx, b + nx * ny, c + nx * nz
        d, e, g = d + ny * ny, e + ny * nz, g + nz * nz
        p, q, r = p + nx * h, q + ny * h, r + nz * h
    pull = 0.01 * (a + d + g) + 1e-9
    a, d, g = a + pull, d + pull, g + pull
    c00, c01, c02 = d * g - e * e, c * e - b * g, b * e - c * d
    scale = 1.0 / (a * c00 + b * c01 + c * c02)
    c11, c12, c22 = a * g - c * c, b * c - a * e, a * d - b * b
    dx = (c00 * p + c01 * q + c02 * r) * scale
    dy = (c01 * p + c11 * q + c12 * r) * scale
    dz = (c02 * p + c12 * q + c22 * r) * scale
    # Clamp to the cell, along the line from the mean.
    share = 1.0
    if dx != 0.0:
        share = min(share, max(((i + 1 if dx > 0.0 else i) - mx) / dx, 0.0))
    if dy != 0.0:
        share = min(share, max(((j + 1 if dy > 0.0 else j) - my) / dy, 0.0))
    if dz != 0.0:
        share = min(share, max(((k + 1 if dz > 0.0 else k) - mz) / dz, 0.0))
    vertex[0], vertex[1], vertex[2] = mx + share * dx, my + share * dy, mz + share * dz


@kernel
def create_vertices(
    start, stop, bricks, grid, faces, box, place, first, members,
    outside, absent, free_masks, absent_free, sheets,
    first_vertex, first_double, cells, doubles, low, scale, vertices, flag,
):  # fmt: skip
    # Vertices of the listed bricks; cells: the number of the first vertex of each cell within its
    # brick; doubles: the code of each doubled face, which has two extra vertices.
    out = np.empty((10, 10, 10), np.uint8)
    codes = np.empty((9, 9, 9), np.uint8)
    free = np.empty((10, 10, 10), np.uint8)
    hits = np.empty((3, 9, 9, 9, 4), np.float32)
    square = np.empty((9, 9, 9))
    closest = np.empty((9, 9, 9, 3))
    wanted = np.empty((9, 9, 9), np.uint8)
    vertex, point, other = np.empty(3), np.empty(3), np.empty(3)
    for n in range(start, stop):
        if is_cancelled(flag):
            return
        brick = bricks[n]
        origin = 8 * place[brick]
        read_corners(outside, box, absent, place, brick, out)
        encode_cells(out, codes)
        read_corners(free_masks, box, absent_free, place, brick, free)
        intersect_edges(grid, faces, first, members, brick, origin, out, hits, flag)
        has_sheet = False
        for i in range(9):
            for j in range(9):
                for k in range(9):
                    wanted[i, j, k] = 0
        for i in range(9):
            for j in range(9):
                for k in range(9):
                    # Inside only because of the thickness of a sheet.
                    if out[i + 1, j + 1, k + 1] == 0 and free[i + 1, j + 1, k + 1] == 1:
                        has_sheet = True
                        wanted[i, j, k] = 1
                        for axis in range(3):
                            wanted[
                                min(8, i + (axis == 0)), min(8, j + (axis == 1)),
                                min(8, k + (axis == 2)),
                            ] = 1  # fmt: skip
                            wanted[
                                max(0, i - (axis == 0)), max(0, j - (axis == 1)),
                                max(0, k - (axis == 2)),
                            ] = 1  # fmt: skip
        if has_sheet:
            measure_distances(
                grid, faces, first, members, brick, origin, wanted, square, closest, flag
            )
            offset_sheets(origin, out, free, square, closest, hits)
        made = 0
        at = first_double[n]
        for i in range(8):
            for j in range(8):
                for k in range(8):
                    cells[n, 64 * i + 8 * j + k] = made
                    code = codes[i + 1, j + 1, k + 1]
                    if code in (0, 255):
                        continue
                    for sheet in range(sheets[code, 12]):
                        place_vertex(hits, sheets, code, sheet, i, j, k, vertex)
                        row = first_vertex[n] + made
                        for c in range(3):
                            vertices[row, c] = low[c] + (origin[c] + vertex[c]) / scale
                        made += 1
                    for axis in range(3):
                        if not is_doubled(out, codes, sheets, axis, i, j, k):
                            continue
                        doubles[at] = 3 * (64 * i + 8 * j + k) + axis
                        m, n_axis = (axis + 1) % 3, (axis + 2) % 3
                        mi, mj, mk = m == 0, m == 1, m == 2
                        ni, nj, nk = n_axis == 0, n_axis == 1, n_axis == 2
                        # The strip at side n = 0 of the face, then the one at n = 1.
                        for side in range(2):
                            hit_point(hits, m, i + side * ni, j + side * nj, k + side * nk, point)
                            # The strip goes to the edge along n at the outside end of this edge.
                            is_far = (
                                out[i + 1 + side * ni, j + 1 + side * nj, k + 1 + side * nk] == 0
                            )
                            hit_point(
                                hits, n_axis, i + is_far * mi, j + is_far * mj, k + is_far * mk,
                                other,
                            )  # fmt: skip
                            row = first_vertex[first_vertex.shape[0] - 1] + 2 * at + side
                            for c in range(3):
                                vertices[row, c] = (
                                    low[c] + (origin[c] + 0.5 * (point[c] + other[c])) / scale
                                )
                        at += 1


@kernel
def cell_vertex(box, place, brick, rows, cells, first_vertex, codes, sheets, i, j, k, slot):
    # The vertex of the cell at (i, j, k), -1 … 7, for the sheet on which the edge lies.
    code = codes[i + 1, j + 1, k + 1]
    x, y, z = place[brick, 0], place[brick, 1], place[brick, 2]
    x, y, z = x - (i < 0), y - (j < 0), z - (k < 0)
    row = rows[box[x, y, z]]
    cell = 64 * (i & 7) + 8 * (j & 7) + (k & 7)
    return first_vertex[row] + cells[row, cell] + sheets[code, slot]


@kernel
def doubled_vertex(
    box, place, brick, rows, doubles, first_double, total, out, axis, i, j, k, edge_axis, s
):  # fmt: skip
    # The extra vertex of a doubled face for the strip at one of its edges: the edge along
    # `edge_axis` at offset s along the other axis of the face.
    x, y, z = place[brick, 0], place[brick, 1], place[brick, 2]
    x, y, z = x - (i < 0), y - (j < 0), z - (k < 0)
    row = rows[box[x, y, z]]
    code = 3 * (64 * (i & 7) + 8 * (j & 7) + (k & 7)) + axis
    at = first_double[row]
    while doubles[at] != code:
        at += 1
    m = (axis + 1) % 3
    side = s
    if edge_axis != m:
        # An edge along n at offset s along m: the strip is the one at its outside end.
        is_out = out[i + 1 + s * (m == 0), j + 1 + s * (m == 1), k + 1 + s * (m == 2)] == 1
        side = 0 if is_out else 1
    return total + 2 * at + side


@kernel
def create_faces(
    start, stop, bricks, box, place, rows, outside, absent, sheets,
    first_vertex, first_double, first_face, cells, doubles, vertices, faces, flag,
):  # fmt: skip
    # Two triangles for each edge between inside and outside, more beside doubled faces.
    out = np.empty((10, 10, 10), np.uint8)
    codes = np.empty((9, 9, 9), np.uint8)
    ring = np.empty(8, np.int32)
    total = first_vertex[first_vertex.shape[0] - 1]
    for n in range(start, stop):
        if is_cancelled(flag):
            return
        brick = bricks[n]
        read_corners(outside, box, absent, place, brick, out)
        encode_cells(out, codes)
        face = first_face[n]
        for i in range(8):
            for j in range(8):
                for k in range(8):
                    here = out[i + 1, j + 1, k + 1]
                    for axis in range(3):
                        if (
                            here
                            == out[i + 1 + (axis == 0), j + 1 + (axis == 1), k + 1 + (axis == 2)]
                        ):
                            continue
                        b, c = (axis + 1) % 3, (axis + 2) % 3
                        bi, bj, bk = int(b == 0), int(b == 1), int(b == 2)
                        ci, cj, ck = int(c == 0), int(c == 1), int(c == 2)
                        length, start_corner = 0, -1
                        for corner in range(4):
                            # Counter-clockwise, looking against the axis.
                            s = 1 if corner in (0, 3) else 0
                            t = 1 if corner in (0, 1) else 0
                            ring[length] = cell_vertex(
                                box, place, brick, rows, cells, first_vertex, codes, sheets,
                                i - s * bi - t * ci, j - s * bj - t * cj, k - s * bk - t * ck,
                                edge_slot(axis, s, t),
                            )  # fmt: skip
                            length += 1
                            # The face between this cell and the next one.
                            if corner in (0, 2):
                                normal = b
                                shift = 1 if corner == 0 else 0
                                x, y, z = i - shift * ci, j - shift * cj, k - shift * ck
                            else:
                                normal = c
                                shift = 1 if corner == 3 else 0
                                x, y, z = i - shift * bi, j - shift * bj, k - shift * bk
                            if is_doubled(out, codes, sheets, normal, x, y, z):
                                if start_corner < 0:
                                    start_corner = length
                                ring[length] = doubled_vertex(
                                    box, place, brick, rows, doubles, first_double, total, out,
                                    normal, x, y, z, axis, shift,
                                )  # fmt: skip
                                length += 1
                        if start_corner < 0:
                            start_corner = flattest_split(vertices, ring)
                        for step in range(1, length - 1):
                            p = ring[start_corner]
                            q = ring[(start_corner + step) % length]
                            r = ring[(start_corner + step + 1) % length]
                            faces[face, 0] = p
                            faces[face, 1] = r if here == 1 else q
                            faces[face, 2] = q if here == 1 else r
                            face += 1


@kernel
def flattest_split(vertices, ring):
    # The corner from which to split a quad so that the normals of its halves differ least.
    best, best_start = -2.0, 0
    normal = np.empty((2, 3))
    for start_corner in range(2):
        p, q, r, s = (
            ring[start_corner],
            ring[start_corner + 1],
            ring[(start_corner + 2) % 4],
            ring[(start_corner + 3) % 4],
        )
        for half in range(2):
            a, b = (q, r) if half == 0 else (r, s)
            ux = vertices[a, 0] - vertices[p, 0]
            uy = vertices[a, 1] - vertices[p, 1]
            uz = vertices[a, 2] - vertices[p, 2]
            vx = vertices[b, 0] - vertices[p, 0]
            vy = vertices[b, 1] - vertices[p, 1]
            vz = vertices[b, 2] - vertices[p, 2]
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            size = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-30
            normal[half, 0], normal[half, 1], normal[half, 2] = nx / size, ny / size, nz / size
        alike = (
            normal[0, 0] * normal[1, 0] + normal[0, 1] * normal[1, 1] + normal[0, 2] * normal[1, 2]
        )
        if alike > best + 1e-6:
            best, best_start = alike, start_corner
    return best_start
