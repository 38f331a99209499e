"""The triangles of a silhouette, on an adaptive grid.

The *grid* has a node for each pixel's centre, and a frame of empty nodes around them. A *cell*
of level k is a square with an edge of 2^k nodes' distances. Positions are in pixels, x to the
right and y upward, so that counter-clockwise has its usual sign.
"""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, C901, PLR0912, PLR0913, PLR0915, PLR0917, PLR2004
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled

OUTSIDE, INSIDE, CUT = 0, 1, 2
TOP_LEVEL = 5
TOP_CUT_LEVEL = 3
#: Outline error of a cell that one straight line cannot represent.
IMPOSSIBLE = np.float32(1e9)


@inner_kernel
def _outline_error(field, i0, j0, s):
    """Distance, in pixels, of one straight cut through the cell from the mask in it."""
    xs = np.zeros(2)
    ys = np.zeros(2)
    total = 0
    in_i, in_j = 0, 0
    for side in range(4):
        changes = 0
        for t in range(s):
            if side == 0:
                a, b, c, d = i0, j0 + t, i0, j0 + t + 1
            elif side == 1:
                a, b, c, d = i0 + t, j0 + s, i0 + t + 1, j0 + s
            elif side == 2:
                a, b, c, d = i0 + s, j0 + t, i0 + s, j0 + t + 1
            else:
                a, b, c, d = i0 + t, j0, i0 + t + 1, j0
            f0, f1 = field[a, b], field[c, d]
            if (f0 >= 0.5) != (f1 >= 0.5):
                changes += 1
                if total >= 2 or changes > 1:
                    return IMPOSSIBLE
                w = (0.5 - f0) / (f1 - f0)
                ys[total] = a + w * (c - a)
                xs[total] = b + w * (d - b)
                total += 1
            if f0 >= 0.5:
                in_i, in_j = a, b
            elif f1 >= 0.5:
                in_i, in_j = c, d
    if total != 2:
        return IMPOSSIBLE
    nx, ny = ys[0] - ys[1], xs[1] - xs[0]
    length = math.sqrt(nx * nx + ny * ny)
    if length < 1e-6:
        return IMPOSSIBLE
    nx /= length
    ny /= length
    # The inside's corner with the largest distance from the cut gives the sign.
    best = 0.0
    for c in range(4):
        i, j = i0 + s * (c & 1), j0 + s * (c >> 1)
        if field[i, j] >= 0.5:
            dist = (j - xs[0]) * nx + (i - ys[0]) * ny
            if abs(dist) > abs(best):
                best = dist
    if best == 0.0:
        best = (in_j - xs[0]) * nx + (in_i - ys[0]) * ny
    if best < 0:
        nx, ny = -nx, -ny
    worst = 0.0
    for i in range(i0, i0 + s + 1):
        for j in range(j0, j0 + s + 1):
            dist = (j - xs[0]) * nx + (i - ys[0]) * ny
            worst = max(worst, -dist if field[i, j] >= 0.5 else dist)
    return worst


@kernel("void(f4[:,::1], i8[::1], u1[::1], f4[::1], i8[::1])")
def classify(field, offsets, kind, error, flag) -> None:
    """Set the kind of each cell of every level (outside, inside, cut) and its outline error."""
    n = field.shape[0] - 1
    for i in range(n):
        if is_cancelled(flag):
            return
        for j in range(n):
            count = 0
            for di in range(2):
                for dj in range(2):
                    count += field[i + di, j + dj] >= 0.5
            kind[i * n + j] = OUTSIDE if count == 0 else (INSIDE if count == 4 else CUT)
    for k in range(1, TOP_LEVEL + 1):
        if is_cancelled(flag):
            return
        size = n >> k
        here = offsets[k]
        below = offsets[k - 1]
        for i in range(size):
            for j in range(size):
                child = below + 2 * i * (2 * size) + 2 * j
                first = kind[child]
                same = (
                    kind[child + 1] == first
                    and kind[child + 2 * size] == first
                    and kind[child + 2 * size + 1] == first
                )
                if same and first != CUT:
                    kind[here + i * size + j] = first
                    error[here + i * size + j] = 0.0
                    continue
                kind[here + i * size + j] = CUT
                if k > TOP_CUT_LEVEL:
                    error[here + i * size + j] = IMPOSSIBLE
                else:
                    error[here + i * size + j] = _outline_error(field, i << k, j << k, 1 << k)


@inner_kernel
def _plan(n, offsets, kind, error, room, coarseness, outline_coarseness, split):
    """Set in `split` which cells have children; neighbours differ by one level at most.

    The size of a cell inside is limited by its distance from the outline. A cut cell is split
    where a straight line through it has too large an error, and where the part is thinner than
    the cell.
    """
    for k in range(1, TOP_LEVEL + 1):
        size = n >> k
        here = offsets[k]
        edge = 1 << k
        for i in range(size):
            for j in range(size):
                c = here + i * size + j
                state = kind[c]
                if state == OUTSIDE:
                    split[c] = 0
                elif state == INSIDE:
                    half = edge >> 2
                    split[c] = (
                        edge > coarseness * room[(i * edge >> 1) + half, (j * edge >> 1) + half]
                    )
                elif (
                    k > TOP_CUT_LEVEL
                    or edge > 2.0 * outline_coarseness
                    or error[c] > 0.12 * outline_coarseness
                ):
                    split[c] = 1
                else:
                    thick = False
                    for di in range(-1, 2):
                        for dj in range(-1, 2):
                            p, q = i + di, j + dj
                            if 0 <= p < size and 0 <= q < size:
                                thick |= kind[here + p * size + q] == INSIDE
                    split[c] = not thick
    for k in range(1, TOP_LEVEL):
        size = n >> k
        here = offsets[k]
        up = offsets[k + 1]
        above = size >> 1
        for i in range(size):
            for j in range(size):
                if split[here + i * size + j]:
                    split[up + (i >> 1) * above + (j >> 1)] = 1
                    if i > 0:
                        split[up + ((i - 1) >> 1) * above + (j >> 1)] = 1
                    if i < size - 1:
                        split[up + ((i + 1) >> 1) * above + (j >> 1)] = 1
                    if j > 0:
                        split[up + (i >> 1) * above + ((j - 1) >> 1)] = 1
                    if j < size - 1:
                        split[up + (i >> 1) * above + ((j + 1) >> 1)] = 1


@inner_kernel
def _node(i, j, node_id, points, state):
    """Vertex at a node, created on first use; `state[0]` counts the vertices."""
    v = node_id[i, j]
    if v < 0:
        v = state[0]
        state[0] += 1
        node_id[i, j] = v
        points[v, 0] = j
        points[v, 1] = -i
    return v


@inner_kernel
def _crossing(field, i0, j0, i1, j1, across_id, down_id, points, outline, state):
    """Vertex of the outline between an inner and an outer node of one row or column."""
    steps = max(abs(i1 - i0), abs(j1 - j0))
    di, dj = (i1 - i0) // steps, (j1 - j0) // steps
    start = field[i0, j0] >= 0.5
    i, j = i0, j0
    for _ in range(steps):
        if (field[i + di, j + dj] >= 0.5) != start:
            break
        i += di
        j += dj
    a, b = min(i, i + di), min(j, j + dj)
    v = across_id[a, b] if di == 0 else down_id[a, b]
    if v >= 0:
        return v
    v = state[0]
    state[0] += 1
    f0 = field[a, b]
    f1 = field[a, b + 1] if di == 0 else field[a + 1, b]
    w = min(max((0.5 - f0) / (f1 - f0), 0.02), 0.98)
    if di == 0:
        across_id[a, b] = v
        points[v, 0] = b + w
        points[v, 1] = -a
    else:
        down_id[a, b] = v
        points[v, 0] = b
        points[v, 1] = -(a + w)
    outline[v] = 1
    return v


@inner_kernel
def _perimeter(n, offsets, k, i, j, split, ring):
    """List the nodes around a leaf, counter-clockwise from the lower left; return the number."""
    size = n >> k
    here = offsets[k]
    s = 1 << k
    i0, j0 = i << k, j << k
    half = s >> 1
    count = 0
    for side in range(4):
        if side == 0:
            a, b, p, q, ma, mb = i0 + s, j0, i + 1, j, i0 + s, j0 + half
        elif side == 1:
            a, b, p, q, ma, mb = i0 + s, j0 + s, i, j + 1, i0 + half, j0 + s
        elif side == 2:
            a, b, p, q, ma, mb = i0, j0 + s, i - 1, j, i0, j0 + half
        else:
            a, b, p, q, ma, mb = i0, j0, i, j - 1, i0 + half, j0
        ring[count, 0] = a
        ring[count, 1] = b
        count += 1
        if k > 0 and 0 <= p < size and 0 <= q < size and split[here + p * size + q]:
            ring[count, 0] = ma
            ring[count, 1] = mb
            count += 1
    return count


@inner_kernel
def _leaf(field, offsets, k, i, j, split, ring, polygon, ids, points, faces, outline, state, dry):
    """Count the triangles of one leaf; unless `dry`, write them."""
    node_id, across_id, down_id = ids
    count = _perimeter(field.shape[0] - 1, offsets, k, i, j, split, ring)
    first_out = -1
    for r in range(count):
        ring[r, 2] = field[ring[r, 0], ring[r, 1]] >= 0.5
        if not ring[r, 2]:
            first_out = r
    made = 0
    r = 0
    while r < count:
        # Runs of inside nodes, each between two crossings; at a saddle there are two.
        here = (first_out + 1 + r) % count
        length = 0
        while length < count and ring[(here + length) % count, 2]:
            length += 1
        r += max(length, 1)
        if length == 0:
            continue
        whole = length == count
        m = length if whole else length + 2
        plain = count == 4 or m == 3
        made += m - 2 if plain else m
        if dry:
            continue
        for t in range(length):
            c = (here + t) % count
            polygon[t] = _node(ring[c, 0], ring[c, 1], node_id, points, state)
        if not whole:
            for end in range(2):
                c = (here + length - 1) % count if end == 0 else here
                d = (here + length) % count if end == 0 else (here + count - 1) % count
                polygon[length + end] = _crossing(
                    field, ring[c, 0], ring[c, 1], ring[d, 0], ring[d, 1],
                    across_id, down_id, points, outline, state,
                )  # fmt: skip
        # A fan must not connect two outline vertices, which are the last two of a run.
        apex = 0
        if not plain:
            if whole:
                half = (1 << k) >> 1
                apex = _node((i << k) + half, (j << k) + half, node_id, points, state)
            else:
                apex = state[0]
                state[0] += 1
                x, y = 0.0, 0.0
                for t in range(m):
                    x += points[polygon[t], 0]
                    y += points[polygon[t], 1]
                points[apex, 0] = x / m
                points[apex, 1] = y / m
            first, last = 0, m
        else:
            turn = 0
            if m == 5:
                turn = 1
            elif whole:
                turn = (i + j) & 1
            elif m == 4:
                a, b, c, d = polygon[0], polygon[1], polygon[2], polygon[3]
                p = (points[a, 0] - points[c, 0]) ** 2 + (points[a, 1] - points[c, 1]) ** 2
                q = (points[b, 0] - points[d, 0]) ** 2 + (points[b, 1] - points[d, 1]) ** 2
                turn = 0 if p < q else 1
            apex = polygon[turn]
            first, last = turn + 1, turn + m - 1
        for t in range(first, last):
            f = state[1]
            state[1] += 1
            faces[f, 0] = apex
            faces[f, 1] = polygon[t % m]
            faces[f, 2] = polygon[(t + 1) % m]
    return made


@kernel(
    "i8(f4[:,::1], i8[::1], u1[::1], f4[::1], f4[:,::1], f8, f8, u1[::1], i4[:,:,::1],"
    " f8[:,::1], i4[:,::1], u1[::1], i8[::1], i8[::1])"
)
def triangulate(
    field, offsets, kind, error, room, coarseness, outline_coarseness, split, ids,
    points, faces, outline, state, flag,
) -> int:  # fmt: skip
    """Count one sheet's triangles on the adaptive grid; unless `faces` is empty, write them.

    `ids` [3, n+1, n+1] is -1 at first; `state` returns the numbers of vertices and faces.
    Coarseness is the largest edge of a cell one pixel behind the outline, in pixels; `room` is
    the factor by which that grows, per cell of level 1.
    """
    n = field.shape[0] - 1
    _plan(n, offsets, kind, error, room, coarseness, outline_coarseness, split)
    dry = faces.shape[0] == 0
    ring = np.empty((8, 3), np.int64)
    polygon = np.empty(10, np.int64)
    maps = (ids[0], ids[1], ids[2])
    total = 0
    # Leaves are the unsplit children of split cells; above the top, everything is split.
    for k in range(TOP_LEVEL + 1):
        if is_cancelled(flag):
            return 0
        size = n >> k
        above = size >> 1
        for p in range(above):
            for q in range(above):
                if k < TOP_LEVEL and not split[offsets[k + 1] + p * above + q]:
                    continue
                for child in range(4):
                    i, j = 2 * p + (child >> 1), 2 * q + (child & 1)
                    c = offsets[k] + i * size + j
                    if kind[c] == OUTSIDE or (k > 0 and split[c]):
                        continue
                    total += _leaf(
                        field, offsets, k, i, j, split, ring, polygon, maps, points, faces,
                        outline, state, dry,
                    )  # fmt: skip
    return total
