"""Loops that find triangles that touch each other, in a tree of boxes: see `kernels.trees`.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0911, PLR0913, PLR0917
# ruff: noqa: PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel

#: Bounds of the rounding errors of `orientation` and `turn` in float64, relative to the sum of the
#: absolute terms (Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997).
_ERROR_3D = 7.8e-16
_ERROR_2D = 3.4e-16


@kernel
def orientation(vertices, a, b, c, d):
    # The sign of the volume of a tetrahedron; 0 also if rounding may have changed it.
    dx, dy, dz = np.float64(vertices[d, 0]), np.float64(vertices[d, 1]), np.float64(vertices[d, 2])
    ax, ay, az = vertices[a, 0] - dx, vertices[a, 1] - dy, vertices[a, 2] - dz
    bx, by, bz = vertices[b, 0] - dx, vertices[b, 1] - dy, vertices[b, 2] - dz
    cx, cy, cz = vertices[c, 0] - dx, vertices[c, 1] - dy, vertices[c, 2] - dz
    x = bx * cy - cx * by
    y = cx * ay - ax * cy
    z = ax * by - bx * ay
    volume = az * x + bz * y + cz * z
    size = (
        (abs(bx * cy) + abs(cx * by)) * abs(az)
        + (abs(cx * ay) + abs(ax * cy)) * abs(bz)
        + (abs(ax * by) + abs(bx * ay)) * abs(cz)
    )
    if abs(volume) <= _ERROR_3D * size:
        return 0
    return 1 if volume > 0.0 else -1


@kernel
def turn(vertices, a, b, c, k, m):
    # The sign of the area of a triangle, projected along the axis other than k and m; 0 also if
    # rounding may have changed it.
    cx, cy = np.float64(vertices[c, k]), np.float64(vertices[c, m])
    left = (vertices[a, k] - cx) * (vertices[b, m] - cy)
    right = (vertices[a, m] - cy) * (vertices[b, k] - cx)
    if abs(left - right) <= _ERROR_2D * (abs(left) + abs(right)):
        return 0
    return 1 if left > right else -1


@kernel
def is_between(vertices, p, a, b, k, m):
    # Whether p lies in the box of a and b.
    return min(vertices[a, k], vertices[b, k]) <= vertices[p, k] <= max(
        vertices[a, k], vertices[b, k]
    ) and min(vertices[a, m], vertices[b, m]) <= vertices[p, m] <= max(
        vertices[a, m], vertices[b, m]
    )


@kernel
def segments_touch(vertices, p, q, a, b, k, m):
    # Whether two segments in a plane have a common point.
    one, two = turn(vertices, p, q, a, k, m), turn(vertices, p, q, b, k, m)
    three, four = turn(vertices, a, b, p, k, m), turn(vertices, a, b, q, k, m)
    if one * two < 0 and three * four < 0:
        return True
    return (
        (one == 0 and is_between(vertices, a, p, q, k, m))
        or (two == 0 and is_between(vertices, b, p, q, k, m))
        or (three == 0 and is_between(vertices, p, a, b, k, m))
        or (four == 0 and is_between(vertices, q, a, b, k, m))
    )


@kernel
def largest_normal(vertices, a, b, c):
    # The axis along which a triangle has the largest projection, and twice its area there.
    best, best_size = 0, -1.0
    for axis in range(3):
        k, m = (axis + 1) % 3, (axis + 2) % 3
        ux, uy = (
            np.float64(vertices[b, k]) - vertices[a, k],
            np.float64(vertices[b, m]) - vertices[a, m],
        )
        vx, vy = (
            np.float64(vertices[c, k]) - vertices[a, k],
            np.float64(vertices[c, m]) - vertices[a, m],
        )
        size = abs(ux * vy - uy * vx)
        if size > best_size:
            best, best_size = axis, size
    return best, best_size


@kernel
def segment_touches(vertices, p, q, a, b, c):
    # Whether the segment from p to q has a common point with the triangle a, b, c.
    at_p, at_q = orientation(vertices, a, b, c, p), orientation(vertices, a, b, c, q)
    if at_p * at_q > 0:
        return False
    if at_p != 0 or at_q != 0:
        one = orientation(vertices, p, q, a, b)
        two = orientation(vertices, p, q, b, c)
        three = orientation(vertices, p, q, c, a)
        return (one >= 0 and two >= 0 and three >= 0) or (one <= 0 and two <= 0 and three <= 0)
    axis, _ = largest_normal(vertices, a, b, c)
    k, m = (axis + 1) % 3, (axis + 2) % 3
    one, two, three = (
        turn(vertices, a, b, p, k, m),
        turn(vertices, b, c, p, k, m),
        turn(vertices, c, a, p, k, m),
    )
    if (one >= 0 and two >= 0 and three >= 0) or (one <= 0 and two <= 0 and three <= 0):
        return True
    return (
        segments_touch(vertices, p, q, a, b, k, m)
        or segments_touch(vertices, p, q, b, c, k, m)
        or segments_touch(vertices, p, q, c, a, k, m)
    )


@kernel
def folds(vertices, v, w, a, b):
    # Whether two triangles at the edge from v to w, with the corners a and b opposite to it, lie on
    # each other.
    if orientation(vertices, v, w, a, b) != 0:
        return False
    ex, ey, ez = (
        np.float64(vertices[w, 0]) - vertices[v, 0],
        np.float64(vertices[w, 1]) - vertices[v, 1],
        np.float64(vertices[w, 2]) - vertices[v, 2],
    )
    ax, ay, az = (
        vertices[a, 0] - vertices[v, 0],
        vertices[a, 1] - vertices[v, 1],
        vertices[a, 2] - vertices[v, 2],
    )
    bx, by, bz = (
        vertices[b, 0] - vertices[v, 0],
        vertices[b, 1] - vertices[v, 1],
        vertices[b, 2] - vertices[v, 2],
    )
    nx, ny, nz = ey * az - ez * ay, ez * ax - ex * az, ex * ay - ey * ax
    mx, my, mz = ey * bz - ez * by, ez * bx - ex * bz, ex * by - ey * bx
    return nx * mx + ny * my + nz * mz >= 0.0


@kernel
def boxes_meet(vertices, a, b, c, p, q, r):
    for k in range(3):
        if max(vertices[a, k], vertices[b, k], vertices[c, k]) < min(
            vertices[p, k], vertices[q, k], vertices[r, k]
        ) or max(vertices[p, k], vertices[q, k], vertices[r, k]) < min(
            vertices[a, k], vertices[b, k], vertices[c, k]
        ):
            return False
    return True


@kernel
def faces_touch(vertices, faces, f, g):
    # Whether two faces have common points beside the corners and the edge that they share.
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    p, q, r = faces[g, 0], faces[g, 1], faces[g, 2]
    if not boxes_meet(vertices, a, b, c, p, q, r):
        return False
    shared, i, j = 0, -1, -1
    for k in range(3):
        for m in range(3):
            if faces[f, k] == faces[g, m]:
                shared += 1
                # With one shared corner it is that one; with two, the sums tell the others.
                i, j = (k, m) if shared == 1 else (3 - i - k, 3 - j - m)
    if shared == 3:
        return True
    if shared == 2:
        return folds(
            vertices, faces[f, (i + 1) % 3], faces[f, (i + 2) % 3], faces[f, i], faces[g, j]
        )
    if shared == 1:
        a, b, c = faces[f, i], faces[f, (i + 1) % 3], faces[f, (i + 2) % 3]
        q, r = faces[g, (j + 1) % 3], faces[g, (j + 2) % 3]
        if orientation(vertices, a, b, c, q) * orientation(vertices, a, b, c, r) > 0:
            return False
        return segment_touches(vertices, b, c, a, q, r) or segment_touches(vertices, q, r, a, b, c)
    at_p, at_q, at_r = (
        orientation(vertices, a, b, c, p),
        orientation(vertices, a, b, c, q),
        orientation(vertices, a, b, c, r),
    )
    if abs(at_p + at_q + at_r) == 3:  # the other face is on one side
        return False
    return (
        segment_touches(vertices, a, b, p, q, r)
        or segment_touches(vertices, b, c, p, q, r)
        or segment_touches(vertices, c, a, p, q, r)
        or segment_touches(vertices, p, q, a, b, c)
        or segment_touches(vertices, q, r, a, b, c)
        or segment_touches(vertices, r, p, a, b, c)
    )


@kernel
def find_touching(
    start, stop, wanted, vertices, faces, order, left, right, boxes, partner, flag
):  # fmt: skip
    # A face that each wanted face touches, -1: none. A face without an area touches itself.
    stack = np.empty(128, np.int64)
    low, high = np.empty(3), np.empty(3)
    for i in range(start, stop):
        if i & 63 == 0 and is_cancelled(flag):
            return
        f = wanted[i]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        partner[i] = -1
        if largest_normal(vertices, a, b, c)[1] <= 0.0:
            partner[i] = f
            continue
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            low[k], high[k] = min(x, y, z), max(x, y, z)
        stack[0] = 0
        top = 1
        steps = 0
        while top > 0 and partner[i] < 0:
            steps += 1
            if steps & 4095 == 0 and is_cancelled(flag):
                return
            top -= 1
            node = stack[top]
            if (
                boxes[node, 0] > high[0]
                or boxes[node, 1] > high[1]
                or boxes[node, 2] > high[2]
                or boxes[node, 3] < low[0]
                or boxes[node, 4] < low[1]
                or boxes[node, 5] < low[2]
            ):
                continue
            if left[node] < 0:
                stack[top], stack[top + 1] = node + 1, -1 - left[node]
                top += 2
                continue
            for n in range(left[node], right[node]):
                g = order[n]
                if g != f and faces_touch(vertices, faces, f, g):
                    partner[i] = g
                    break


@kernel
def count_fans(twin, is_seen, flag):
    # The number of closed fans of faces around vertices; one for each vertex of a manifold.
    count = 0
    for first in range(twin.shape[0]):
        if first & 1023 == 0 and is_cancelled(flag):
            return 0
        if is_seen[first]:
            continue
        count += 1
        h = first
        steps = 0
        while not is_seen[h]:
            steps += 1
            if steps & 4095 == 0 and is_cancelled(flag):
                return 0
            is_seen[h] = True
            # The half-edge before it in its face ends at the same vertex; its twin starts there.
            h = twin[h - 1 if h % 3 else h + 2]
    return count
