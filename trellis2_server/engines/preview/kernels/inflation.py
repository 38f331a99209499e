"""Even triangles, and the height of the surface over them.

Positions are in pixels, x to the right and y upward.
"""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, C901, PLR0912, PLR0913, PLR0915, PLR0917, PLR2004
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled


@inner_kernel
def _try_move(v, x, y, points, faces, start, members):
    """Move a vertex, or part of the way, unless a triangle would flip or become a sliver."""
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


@kernel("void(f8[:,::1], i4[:,::1], u1[::1], i8[::1], i4[::1], i8, f8, f8, f8, i8[::1])")
def relax(points, faces, outline, start, members, rounds, reach, low, high, flag) -> None:
    """Smooth the outline (Taubin, by `reach` pixels at most) and even the triangles inside.

    All points stay in the picture's square: x in [`low`, `high`], y in [-`high`, -`low`].
    G. Taubin, "A signal processing approach to fair surface design", SIGGRAPH 1995.
    """
    n = points.shape[0]
    origin = points.copy()
    before = np.full(n, -1, np.int32)
    after = np.full(n, -1, np.int32)
    for f in range(faces.shape[0]):
        if is_cancelled(flag):
            return
        for c in range(3):
            a, b = faces[f, c], faces[f, (c + 1) % 3]
            if outline[a] and outline[b]:
                after[a] = b
                before[b] = a
    target = np.empty_like(points)
    for step in range(2 * rounds):
        if is_cancelled(flag):
            return
        weight = 0.5 if step % 2 == 0 else -0.52
        for v in range(n):
            if v & 255 == 255 and is_cancelled(flag):
                return
            if outline[v]:
                a, b = before[v], after[v]
                for k in range(2):
                    pull = 0.5 * (points[a, k] + points[b, k]) - points[v, k]
                    target[v, k] = points[v, k] + weight * pull
        for v in range(n):
            if v & 255 == 255 and is_cancelled(flag):
                return
            if outline[v]:
                dx, dy = target[v, 0] - origin[v, 0], target[v, 1] - origin[v, 1]
                # A vertex may move twice as far along the outline as across it.
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
                if v & 255 == 255 and is_cancelled(flag):
                    return
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


@kernel("i8(f8[:,::1], i4[:,::1], u1[::1], i8[::1], i4[::1], f8[::1], f8, i8, i8[::1])")
def solve_poisson(points, faces, outline, start, members, u, tolerance, rounds, flag) -> int:
    """Solve ∇²u = -4 with u = 0 on the outline by linear elements and conjugate gradients.

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
        if v & 255 == 0 and is_cancelled(flag):
            return 0
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
        if v & 255 == 0 and is_cancelled(flag):
            return 0
        p[v] = r[v] / diagonal[v]
        rz += r[v] * p[v]
    first = rz
    for step in range(rounds):
        if is_cancelled(flag):
            return 0
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
