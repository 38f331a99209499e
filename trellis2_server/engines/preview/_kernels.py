"""The compiled loops of the embedded engine; imported on its first use, for numba's sake.

Every kernel is compiled for one signature when this module is imported, or read from
numba's cache. All of them leave the interpreter's lock alone while they run.

Naming: the *grid* has a node for each pixel's centre and a frame of empty nodes around them;
a *cell* at level k is a square with an edge of 2^k nodes' distances. Positions are in
pixels, x to the right and y upward, so that counter-clockwise has its usual sign.
"""

# The bodies are numba's: types come from the signatures, and loops stand where numpy's
# temporary arrays would cost more than the work.
# ruff: noqa: ANN001, ANN202, C901, PLR0912, PLR0913, PLR0915, PLR0917, PLR2004
# pyright: basic
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba as nb
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

OUTSIDE, INSIDE, CUT = 0, 1, 2
#: Alpha up to which one looks through.
CLEAR = 0.15
TOP_LEVEL = 5
TOP_CUT_LEVEL = 3
#: Outline error of a cell that one straight line cannot stand for.
IMPOSSIBLE = np.float32(1e9)


def kernel(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` without the lock, cached on disk where there is a writable place."""
    jit: Any = nb.njit

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return jit(signature, nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError:  # "no locator available": there is no place for a cache
            return jit(signature, nogil=True, error_model="numpy")(function)

    return compile_


#: For loops that only other loops call.
inner = nb.njit(nogil=True, error_model="numpy")


# --- the mask ---------------------------------------------------------------------------


@kernel("i8(f4[:,::1], u1[:,::1], i8, i8)")
def drop_specks(field, seen, smallest_part, smallest_hole) -> int:
    """Empty the parts of `field` (iso 0.5) that are too small and fill such holes.

    Parts hang together over edges, the outside over corners too. A hole through which one
    sees nowhere clearly (a window pane) is filled as well. Returns the area kept.
    """
    height, width = field.shape
    stack = np.empty(height * width, np.int32)
    kept = 0
    for start in range(height * width):
        i, j = start // width, start % width
        if seen[i, j]:
            continue
        inside = field[i, j] >= 0.5
        seen[i, j] = 1
        stack[0] = start
        clearest = field[i, j]
        count = 1
        done = 0
        while done < count:  # the stack is never popped, so that it ends as the list of members
            p, q = stack[done] // width, stack[done] % width
            clearest = min(clearest, field[p, q])
            done += 1
            for dp in range(-1, 2):
                for dq in range(-1, 2):
                    if inside and dp != 0 and dq != 0:
                        continue
                    r, s = p + dp, q + dq
                    if r < 0 or s < 0 or r >= height or s >= width or seen[r, s]:
                        continue
                    if (field[r, s] >= 0.5) == inside:
                        seen[r, s] = 1
                        stack[count] = r * width + s
                        count += 1
        if inside and count < smallest_part:
            for k in range(count):
                field[stack[k] // width, stack[k] % width] = 0.0
        elif not inside and start != 0 and (count < smallest_hole or clearest > CLEAR):
            for k in range(count):
                field[stack[k] // width, stack[k] % width] = 1.0
            kept += count
        elif inside:
            kept += count
    return kept


# --- the adaptive grid ------------------------------------------------------------------


@inner
def _outline_error(field, i0, j0, s):
    """How far (pixels) one straight cut through the cell is from the mask in it."""
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
    # The corner of the inside that lies farthest from the cut tells its sign.
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


@kernel("void(f4[:,::1], i8[::1], u1[::1], f4[::1])")
def classify(field, offsets, kind, error) -> None:
    """Per cell of every level whether it is outside, inside or cut, and its outline error."""
    n = field.shape[0] - 1
    for i in range(n):
        for j in range(n):
            count = 0
            for di in range(2):
                for dj in range(2):
                    count += field[i + di, j + dj] >= 0.5
            kind[i * n + j] = OUTSIDE if count == 0 else (INSIDE if count == 4 else CUT)
    for k in range(1, TOP_LEVEL + 1):
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


@kernel("void(f4[:,::1])")
def chamfer(distance) -> None:
    """Zeros stay, everything else becomes its distance to the nearest of them (± 4 %)."""
    height, width = distance.shape
    diagonal = np.float32(math.sqrt(2.0))
    one = np.float32(1.0)
    for i in range(height):
        for j in range(width):
            d = distance[i, j]
            if d == 0.0:
                continue
            if j > 0:
                d = min(d, distance[i, j - 1] + one)
            if i > 0:
                d = min(d, distance[i - 1, j] + one)
                if j > 0:
                    d = min(d, distance[i - 1, j - 1] + diagonal)
                if j < width - 1:
                    d = min(d, distance[i - 1, j + 1] + diagonal)
            distance[i, j] = d
    for i in range(height - 1, -1, -1):
        for j in range(width - 1, -1, -1):
            d = distance[i, j]
            if d == 0.0:
                continue
            if j < width - 1:
                d = min(d, distance[i, j + 1] + one)
            if i < height - 1:
                d = min(d, distance[i + 1, j] + one)
                if j < width - 1:
                    d = min(d, distance[i + 1, j + 1] + diagonal)
                if j > 0:
                    d = min(d, distance[i + 1, j - 1] + diagonal)
            distance[i, j] = d


@inner
def _plan(n, offsets, kind, error, room, coarseness, outline_coarseness, split):
    """Into `split` which cells have children, neighbours at most one level apart.

    A cell inside may grow with its distance from the outline; one that is cut splits
    where a straight line through it would be off, and where the part is thin for its size.
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


@inner
def _node(i, j, node_id, points, state):
    """The vertex at a node, made on first use; `state[0]` counts the vertices."""
    v = node_id[i, j]
    if v < 0:
        v = state[0]
        state[0] += 1
        node_id[i, j] = v
        points[v, 0] = j
        points[v, 1] = -i
    return v


@inner
def _crossing(field, i0, j0, i1, j1, across_id, down_id, points, outline, state):
    """The outline's vertex between two nodes of a row or column, one in and one out."""
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


@inner
def _perimeter(n, offsets, k, i, j, split, ring):
    """Nodes around a leaf, counter-clockwise from the lower left; returns how many."""
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


@inner
def _leaf(field, offsets, k, i, j, split, ring, polygon, ids, points, faces, outline, state, dry):
    """Triangles of one leaf: how many, and unless `dry` the triangles themselves."""
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
        # Runs of inside nodes, each between two crossings: at a saddle they stay separate.
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
        # A fan must start where it joins no two outline vertices (the last two of a run).
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
    " f8[:,::1], i4[:,::1], u1[::1], i8[::1])"
)
def triangulate(
    field, offsets, kind, error, room, coarseness, outline_coarseness, split, ids,
    points, faces, outline, state,
) -> int:  # fmt: skip
    """One sheet's triangles on the adaptive grid: how many, and where `faces` has room, they.

    `ids` [3, n+1, n+1] starts at -1; `state` comes back as the numbers of vertices and faces.
    Coarseness is the edge (pixels) that a cell may have one pixel behind the outline; `room`
    says per cell of level 1 how many times that it may have there.
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


# --- relaxing and inflating ---------------------------------------------------------------


@inner
def _try_move(v, x, y, points, faces, start, members):
    """Move a vertex unless a triangle would turn over or become a sliver on the way."""
    old_x, old_y = points[v, 0], points[v, 1]
    for attempt in range(3):
        w = 1.0 / (1 << attempt)
        nx, ny = old_x + w * (x - old_x), old_y + w * (y - old_y)
        good = True
        for m in range(start[v], start[v + 1]):
            f, c = members[m] // 3, members[m] % 3
            a, b = faces[f, (c + 1) % 3], faces[f, (c + 2) % 3]
            ux, uy = points[a, 0], points[a, 1]
            ex, ey = points[b, 0] - ux, points[b, 1] - uy
            area = ex * (ny - uy) - ey * (nx - ux)
            before = ex * (old_y - uy) - ey * (old_x - ux)
            longest = ex * ex + ey * ey
            longest += (nx - ux) ** 2 + (ny - uy) ** 2
            longest += (nx - points[b, 0]) ** 2 + (ny - points[b, 1]) ** 2
            if area < 0.07 * longest and area < 0.999 * before:
                good = False
                break
        if good:
            points[v, 0] = nx
            points[v, 1] = ny
            return


@kernel("void(f8[:,::1], i4[:,::1], u1[::1], i8[::1], i4[::1], i8, f8, f8, f8)")
def relax(points, faces, outline, start, members, rounds, reach, low, high) -> None:
    """Even out the outline (Taubin, at most `reach` pixels) and the triangles behind it.

    Nothing leaves the picture's square, `low` to `high` in x and as much below zero in y.
    G. Taubin, "A signal processing approach to fair surface design", SIGGRAPH 1995.
    """
    n = points.shape[0]
    origin = points.copy()
    before = np.full(n, -1, np.int32)
    after = np.full(n, -1, np.int32)
    for f in range(faces.shape[0]):
        for c in range(3):
            a, b = faces[f, c], faces[f, (c + 1) % 3]
            if outline[a] and outline[b]:
                after[a] = b
                before[b] = a
    target = np.empty_like(points)
    for step in range(2 * rounds):
        weight = 0.5 if step % 2 == 0 else -0.52
        for v in range(n):
            if outline[v]:
                a, b = before[v], after[v]
                for k in range(2):
                    pull = 0.5 * (points[a, k] + points[b, k]) - points[v, k]
                    target[v, k] = points[v, k] + weight * pull
        for v in range(n):
            if outline[v]:
                dx, dy = target[v, 0] - origin[v, 0], target[v, 1] - origin[v, 1]
                # Along the outline a vertex may slide; across it only so far.
                a, b = before[v], after[v]
                tx, ty = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
                length = math.sqrt(tx * tx + ty * ty) + 1e-12
                tx /= length
                ty /= length
                along = dx * tx + dy * ty
                across = -dx * ty + dy * tx
                across = min(max(across, -reach), reach)
                along = min(max(along, -2 * reach), 2 * reach)
                x = origin[v, 0] + along * tx - across * ty
                y = origin[v, 1] + along * ty + across * tx
                x = min(max(x, low), high)
                y = min(max(y, -high), -low)
                _try_move(v, x, y, points, faces, start, members)
        if step % 2 == 0:
            for v in range(n):
                if not outline[v]:
                    x, y, count = 0.0, 0.0, 0
                    for m in range(start[v], start[v + 1]):
                        f, c = members[m] // 3, members[m] % 3
                        a = faces[f, (c + 1) % 3]
                        x += points[a, 0]
                        y += points[a, 1]
                        count += 1
                    _try_move(
                        v,
                        points[v, 0] + 0.6 * (x / count - points[v, 0]),
                        points[v, 1] + 0.6 * (y / count - points[v, 1]),
                        points, faces, start, members,
                    )  # fmt: skip


@kernel("i8(f8[:,::1], i4[:,::1], u1[::1], i8[::1], i4[::1], f8[::1], f8, i8)")
def solve_poisson(points, faces, outline, start, members, u, tolerance, rounds) -> int:
    """∇²u = -4 with u = 0 on the outline: linear elements, conjugate gradients.

    Returns the number of iterations.
    """
    n = points.shape[0]
    row = np.zeros(n + 1, np.int64)
    columns = np.empty(members.shape[0] * 2, np.int32)
    weights = np.empty(members.shape[0] * 2, np.float64)
    diagonal = np.zeros(n)
    load = np.zeros(n)
    filled = 0
    for v in range(n):
        row[v] = filled
        if outline[v]:
            diagonal[v] = 1.0
            continue
        for m in range(start[v], start[v + 1]):
            f, c = members[m] // 3, members[m] % 3
            a, b = faces[f, (c + 1) % 3], faces[f, (c + 2) % 3]
            ax, ay = points[a, 0] - points[v, 0], points[a, 1] - points[v, 1]
            bx, by = points[b, 0] - points[v, 0], points[b, 1] - points[v, 1]
            area = ax * by - ay * bx  # twice the triangle's
            area = max(area, 1e-9)
            ex, ey = bx - ax, by - ay
            load[v] += 4.0 * area / 6.0
            diagonal[v] += (ex * ex + ey * ey) / (2.0 * area)
            for side in range(2):
                if side == 0:
                    other, value = a, -(ex * bx + ey * by) / (2.0 * area)
                else:
                    other, value = b, (ex * ax + ey * ay) / (2.0 * area)
                if outline[other]:
                    continue
                found = False
                for k in range(row[v], filled):
                    if columns[k] == other:
                        weights[k] += value
                        found = True
                        break
                if not found:
                    columns[filled] = other
                    weights[filled] = value
                    filled += 1
    row[n] = filled
    r = load.copy()
    p = np.empty(n)
    q = np.empty(n)
    rz = 0.0
    for v in range(n):
        p[v] = r[v] / diagonal[v]
        rz += r[v] * p[v]
    first = rz
    for step in range(rounds):
        if rz <= tolerance * tolerance * first:
            return step
        pq = 0.0
        for v in range(n):
            total = diagonal[v] * p[v]
            for k in range(row[v], row[v + 1]):
                total += weights[k] * p[columns[k]]
            q[v] = total
            pq += total * p[v]
        alpha = rz / pq
        new = 0.0
        for v in range(n):
            u[v] += alpha * p[v]
            r[v] -= alpha * q[v]
            new += r[v] * r[v] / diagonal[v]
        beta = new / rz
        rz = new
        for v in range(n):
            p[v] = r[v] / diagonal[v] + beta * p[v]
    return rounds


# --- the voxel field ------------------------------------------------------------------------


@kernel("void(f8[:,::1], i4[:,::1], f4[:,::1], f4[:,::1])")
def height_ranges(points, faces, low, high) -> None:
    """Per square column of the field the lowest and highest the front sheet gets in it.

    `points` are x, z and height in voxels. `low` starts at infinity, `high` below zero.
    The bound is conservative: a triangle's plane over the column, within its own heights.
    """
    size = low.shape[0]
    box = np.empty((3, 4))
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for axis in range(3):
            p, q, r = points[a, axis], points[b, axis], points[c, axis]
            box[axis, 0] = min(min(p, q), r)  # noqa: PLW3301 (compiles faster)
            box[axis, 1] = max(max(p, q), r)  # noqa: PLW3301
            box[axis, 2] = q - p
            box[axis, 3] = r - p
        ux, uz, uh = box[0, 2], box[1, 2], box[2, 2]
        vx, vz, vh = box[0, 3], box[1, 3], box[2, 3]
        h0, h1 = box[2, 0], box[2, 1]
        area = ux * vz - uz * vx
        gx, gz = 0.0, 0.0
        if abs(area) > 1e-12:
            gx = (uh * vz - uz * vh) / area
            gz = (ux * vh - uh * vx) / area
        spread = 0.5 * (abs(gx) + abs(gz))
        for i in range(max(0, math.floor(box[0, 0])), min(size - 1, math.floor(box[0, 1])) + 1):
            for k in range(max(0, math.floor(box[1, 0])), min(size - 1, math.floor(box[1, 1])) + 1):
                # Outside one of the triangle's edges by more than the column is wide?
                apart = False
                for side in range(3):
                    s, t = faces[f, side], faces[f, (side + 1) % 3]
                    ex, ez = points[t, 0] - points[s, 0], points[t, 1] - points[s, 1]
                    d = ex * (k + 0.5 - points[s, 1]) - ez * (i + 0.5 - points[s, 0])
                    apart |= d < -0.5 * (abs(ex) + abs(ez))
                if apart:
                    continue
                mid = points[a, 2] + gx * (i + 0.5 - points[a, 0]) + gz * (k + 0.5 - points[a, 1])
                low[i, k] = min(low[i, k], max(h0, min(h1, mid - spread)))
                high[i, k] = max(high[i, k], min(h1, max(h0, mid + spread)))


@inner
def _rows(low, high, size, reach):
    """First and last voxel of the front's and of the back's run in a column."""
    middle = size / 2
    a = math.floor(middle - high - 0.5 - reach)
    b = math.floor(middle - low - 0.5 + reach) + 1
    c = math.floor(middle + low - 0.5 - reach)
    d = math.floor(middle + high - 0.5 + reach) + 1
    if c <= b:
        c = b + 1
    return max(a, 0), b, c, min(d, size - 1)


@kernel("i8(f4[:,::1], f4[:,::1], f8, f4[:,:,::1], f4[:,:,::1], f4, i4[:,::1], f4[:,::1])")
def fill_voxels(low, high, reach, front, back, roughness, coords, attributes) -> int:
    """The field's voxels by x, z and y: how many, and where `coords` has room, they.

    Colours are per column, `front` up to the middle, `back` behind it.
    """
    size = low.shape[0]
    dry = coords.shape[0] == 0
    at = 0
    for i in range(size):
        for k in range(size):
            if high[i, k] < 0:
                continue
            a, b, c, d = _rows(low[i, k], high[i, k], size, reach)
            if dry:
                at += b - a + 1 + d - c + 1
                continue
            for j in range(a, d + 1):
                if b < j < c:
                    continue
                coords[at, 0] = i
                coords[at, 1] = j
                coords[at, 2] = k
                # Two voxels to either side of the middle the two sheets' colours mix.
                w = min(max((j + 0.5 - 0.5 * size) / 4.0 + 0.5, 0.0), 1.0)
                for channel in range(3):
                    f = front[i, k, channel]
                    attributes[at, channel] = f + w * (back[i, k, channel] - f)
                attributes[at, 3] = 0.0
                attributes[at, 4] = roughness
                attributes[at, 5] = 1.0
                at += 1
    return at


@kernel("void(u1[:,:,::1], f8, f8, f4[:,:,::1])")
def resample(picture, margin, scale, out) -> None:
    """The picture on the field's columns: `out[x, z]` is RGB times weight, and weight.

    A column shows the pixels under it, box filtered over `scale` pixels, at least one. A
    pixel with alpha 0 has no weight, any other has a full one.
    """
    size = picture.shape[0]
    n = out.shape[0]
    half = 0.5 * max(1.0, scale)
    norm = 1.0 / (4.0 * half * half)
    for x in range(n):
        px = (x + 0.5 - margin) * scale
        left = max(math.floor(px - half), 0)
        right = min(math.floor(px + half), size - 1)
        for z in range(n):
            py = size - (z + 0.5 - margin) * scale
            for c in range(4):
                out[x, z, c] = 0.0
            for i in range(max(math.floor(py - half), 0), min(math.floor(py + half), size - 1) + 1):
                wi = norm * (min(py + half, i + 1.0) - max(py - half, float(i)))
                for j in range(left, right + 1):
                    if picture[i, j, 3] == 0:
                        continue
                    w = wi * (min(px + half, j + 1.0) - max(px - half, float(j)))
                    for c in range(3):
                        out[x, z, c] += w * picture[i, j, c] / 255.0
                    out[x, z, 3] += w


@kernel("void(f4[:,:,::1], f4[:,:,::1], f4[:,::1], f4, f4[:,:,::1])")
def refine(coarse, level, distance, detail, out) -> None:
    """The next finer picture: `coarse` doubled, and `level`'s own detail put in.

    `level` is premultiplied, with its weight. Its detail comes in full where `distance`
    (from the outline) is below `detail`, and not at all beyond twice that.
    """
    height, width = out.shape[0], out.shape[1]
    ch, cw = coarse.shape[0], coarse.shape[1]
    for i in range(height):
        ci = i >> 1
        di = min(max(ci + (1 if i & 1 else -1), 0), ch - 1)
        for j in range(width):
            cj = j >> 1
            dj = min(max(cj + (1 if j & 1 else -1), 0), cw - 1)
            # A quarter of a column is enough to know its colour: what is known grows outward
            # by the shortest way.
            weight = min(4.0 * level[i, j, 3], 1.0)
            gain = weight / level[i, j, 3] if weight > 0.0 else 0.0
            keep = min(max(2.0 - distance[i, j] / detail, 0.0), 1.0)
            keep = keep * keep * (3.0 - 2.0 * keep)
            for c in range(3):
                up = 0.75 * (0.75 * coarse[ci, cj, c] + 0.25 * coarse[ci, dj, c]) + 0.25 * (
                    0.75 * coarse[di, cj, c] + 0.25 * coarse[di, dj, c]
                )
                filled = gain * level[i, j, c] + (1.0 - weight) * up
                out[i, j, c] = up + keep * (filled - up)
