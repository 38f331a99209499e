"""Loops that collapse edges.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917, PLR1714, PLR2004
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.kernel import kernel


@kernel
def add_plane(quadrics, v, nx, ny, nz, d, weight):
    # The plane n·x + d = 0 with a unit normal, times the weight.
    quadrics[v, 0] += weight * nx * nx
    quadrics[v, 1] += weight * nx * ny
    quadrics[v, 2] += weight * nx * nz
    quadrics[v, 3] += weight * ny * ny
    quadrics[v, 4] += weight * ny * nz
    quadrics[v, 5] += weight * nz * nz
    quadrics[v, 6] += weight * nx * d
    quadrics[v, 7] += weight * ny * d
    quadrics[v, 8] += weight * nz * d
    quadrics[v, 9] += weight * d * d


@kernel
def sum_quadrics(start, stop, vertices, faces, first, corners, rim_weight, quadrics):
    for v in range(start, stop):
        for i in range(first[v], first[v + 1]):
            f, k = corners[i] // 3, corners[i] % 3
            p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
            x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
            ux, uy, uz = vertices[p, 0] - x, vertices[p, 1] - y, vertices[p, 2] - z
            wx, wy, wz = vertices[q, 0] - x, vertices[q, 1] - y, vertices[q, 2] - z
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            if length <= 1e-30:
                continue
            nx, ny, nz = nx / length, ny / length, nz / length
            add_plane(quadrics, v, nx, ny, nz, -(nx * x + ny * y + nz * z), 0.5 * length)
            if first[v + 1] - first[v] > 512:
                continue
            for side in range(2):
                # An edge without exactly two faces is held by a plane upright on its face.
                other = p if side == 0 else q
                shared = 0
                for j in range(first[v], first[v + 1]):
                    g, m = corners[j] // 3, corners[j] % 3
                    if faces[g, (m + 1) % 3] == other or faces[g, (m + 2) % 3] == other:
                        shared += 1
                if shared == 2:
                    continue
                ex, ey, ez = (ux, uy, uz) if side == 0 else (wx, wy, wz)
                mx, my, mz = ey * nz - ez * ny, ez * nx - ex * nz, ex * ny - ey * nx
                size = np.sqrt(mx * mx + my * my + mz * mz)
                if size > 1e-30:
                    mx, my, mz = mx / size, my / size, mz / size
                    d = -(mx * x + my * y + mz * z)
                    add_plane(quadrics, v, mx, my, mz, d, rim_weight * size * size)


@kernel
def price(start, stop, vertices, quadrics, faces, first, corners, avoid, partner, cost, place):
    seen = np.empty(1024, np.int32)
    for v in range(start, stop):
        partner[v] = -1
        valence = first[v + 1] - first[v]
        if valence == 0 or valence > 512:
            continue
        count = 0
        best = np.inf
        for i in range(first[v], first[v + 1]):
            f, k = corners[i] // 3, corners[i] % 3
            for side in range(1, 3):
                u = faces[f, (k + side) % 3]
                if u < v or u == avoid[v]:
                    continue
                is_new = True
                for j in range(count):
                    if seen[j] == u:
                        is_new = False
                        break
                if not is_new:
                    continue
                seen[count] = u
                count += 1
                a = quadrics[v, 0] + quadrics[u, 0]
                b = quadrics[v, 1] + quadrics[u, 1]
                c = quadrics[v, 2] + quadrics[u, 2]
                d = quadrics[v, 3] + quadrics[u, 3]
                e = quadrics[v, 4] + quadrics[u, 4]
                g = quadrics[v, 5] + quadrics[u, 5]
                p = quadrics[v, 6] + quadrics[u, 6]
                q = quadrics[v, 7] + quadrics[u, 7]
                r = quadrics[v, 8] + quadrics[u, 8]
                s = quadrics[v, 9] + quadrics[u, 9]
                mx = 0.5 * (vertices[v, 0] + vertices[u, 0])
                my = 0.5 * (vertices[v, 1] + vertices[u, 1])
                mz = 0.5 * (vertices[v, 2] + vertices[u, 2])
                hx = vertices[v, 0] - vertices[u, 0]
                hy = vertices[v, 1] - vertices[u, 1]
                hz = vertices[v, 2] - vertices[u, 2]
                square = hx * hx + hy * hy + hz * hz
                # A weak pull to the middle decides where the planes do not.
                trace = a + d + g
                pull = 1e-5 * trace + 1e-30
                a2, d2, g2 = a + pull, d + pull, g + pull
                # Solve for the step from the middle.
                rx = -(a * mx + b * my + c * mz + p)
                ry = -(b * mx + d * my + e * mz + q)
                rz = -(c * mx + e * my + g * mz + r)
                c00, c01, c02 = d2 * g2 - e * e, c * e - b * g2, b * e - c * d2
                det = a2 * c00 + b * c01 + c * c02
                c11, c12, c22 = a2 * g2 - c * c, b * c - a2 * e, a2 * d2 - b * b
                tx = (c00 * rx + c01 * ry + c02 * rz) / det
                ty = (c01 * rx + c11 * ry + c12 * rz) / det
                tz = (c02 * rx + c12 * ry + c22 * rz) / det
                away = tx * tx + ty * ty + tz * tz
                if not away <= 4.0 * square:
                    tx, ty, tz = 0.0, 0.0, 0.0
                x, y, z = mx + tx, my + ty, mz + tz
                error = (
                    x * (a * x + 2.0 * (b * y + c * z + p))
                    + y * (d * y + 2.0 * (e * z + q))
                    + z * (g * z + 2.0 * r)
                    + s
                )
                error = max(error, 0.0) + 1e-6 * trace * square + 1e-30 * square
                if error < best:
                    best = error
                    partner[v] = u
                    place[v, 0], place[v, 1], place[v, 2] = x, y, z
        cost[v] = best
        avoid[v] = -1


@kernel
def fits(vertices, faces, first, corners, v, u, place, row):
    # Whether the faces at v that do not hold u keep their side and do not become needles.
    for i in range(first[v], first[v + 1]):
        f, k = corners[i] // 3, corners[i] % 3
        if faces[f, 0] < 0:
            continue
        p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
        if p == u or q == u:
            continue
        ex, ey, ez = (
            vertices[q, 0] - vertices[p, 0],
            vertices[q, 1] - vertices[p, 1],
            vertices[q, 2] - vertices[p, 2],
        )
        ax, ay, az = (
            vertices[v, 0] - vertices[p, 0],
            vertices[v, 1] - vertices[p, 1],
            vertices[v, 2] - vertices[p, 2],
        )
        bx, by, bz = (
            place[row, 0] - vertices[p, 0],
            place[row, 1] - vertices[p, 1],
            place[row, 2] - vertices[p, 2],
        )
        nx, ny, nz = ey * az - ez * ay, ez * ax - ex * az, ex * ay - ey * ax
        mx, my, mz = ey * bz - ez * by, ez * bx - ex * bz, ex * by - ey * bx
        old = np.sqrt(nx * nx + ny * ny + nz * nz)
        new = np.sqrt(mx * mx + my * my + mz * mz)
        edge = ex * ex + ey * ey + ez * ez
        old_size = edge + ax * ax + ay * ay + az * az
        new_size = edge + bx * bx + by * by + bz * bz
        if nx * mx + ny * my + nz * mz < 0.3 * old * new:
            return False
        if new < 0.03 * new_size and new * old_size < old * new_size:
            return False
    return True


@kernel
def collapse(
    order, partner, place, vertices, quadrics, faces, first, corners,
    touched, avoid, stamp, times, to_remove, level,
):  # fmt: skip
    removed = 0
    token = 0
    for n in range(order.shape[0]):
        if removed >= to_remove:
            break
        v = order[n]
        u = partner[v]
        if touched[v] or touched[u] or first[u + 1] - first[u] > 512:
            continue
        # Neighbours of v, how often its faces name each, and the faces that hold u.
        token += 2
        shared, v_faces, u_faces = 0, 0, 0
        c, d = -1, -1
        for i in range(first[v], first[v + 1]):
            f, k = corners[i] // 3, corners[i] % 3
            if faces[f, 0] < 0:
                continue
            v_faces += 1
            p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
            if p == u or q == u:
                shared += 1
                d = c
                c = q if p == u else p
            for w in (p, q):
                if stamp[w] != token:
                    stamp[w] = token
                    times[w] = 0
                times[w] += 1
        if shared == 0:
            continue
        if level < 2:
            v_rim, v_cap = False, False
            for i in range(first[v], first[v + 1]):
                f, k = corners[i] // 3, corners[i] % 3
                if faces[f, 0] < 0:
                    continue
                p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
                if times[p] != 2 or times[q] != 2:
                    v_rim = True
                if (p == c and q == d) or (p == d and q == c):
                    v_cap = True
            common = 0
            u_cap = False
            for i in range(first[u], first[u + 1]):
                f, k = corners[i] // 3, corners[i] % 3
                if faces[f, 0] < 0:
                    continue
                u_faces += 1
                p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
                if (p == c and q == d) or (p == d and q == c):
                    u_cap = True
                for w in (p, q):
                    if stamp[w] == token:
                        stamp[w] = token + 1
                        times[w] = 0
                        common += 1
                    elif stamp[w] != token + 1:
                        # Neither at v: counted from scratch, below the tokens to come.
                        stamp[w] = -token
                        times[w] = 0
            for i in range(first[u], first[u + 1]):
                f, k = corners[i] // 3, corners[i] % 3
                if faces[f, 0] >= 0:
                    times[faces[f, (k + 1) % 3]] += 1
                    times[faces[f, (k + 2) % 3]] += 1
            u_rim = False
            for i in range(first[u], first[u + 1]):
                f, k = corners[i] // 3, corners[i] % 3
                if faces[f, 0] >= 0 and (
                    times[faces[f, (k + 1) % 3]] != 2 or times[faces[f, (k + 2) % 3]] != 2
                ):
                    u_rim = True
            if (
                common != shared
                or (v_cap and u_cap)
                or (v_faces == shared and u_faces == shared)
                or (v_rim and u_rim and shared == 2)
            ):
                avoid[v] = u
                continue
        if level < 1 and not (
            fits(vertices, faces, first, corners, v, u, place, v)
            and fits(vertices, faces, first, corners, u, v, place, v)
        ):
            avoid[v] = u
            continue
        for k in range(3):
            vertices[v, k] = place[v, k]
        for k in range(10):
            quadrics[v, k] += quadrics[u, k]
        for i in range(first[u], first[u + 1]):
            f, k = corners[i] // 3, corners[i] % 3
            if faces[f, 0] < 0:
                continue
            if faces[f, (k + 1) % 3] == v or faces[f, (k + 2) % 3] == v:
                faces[f, 0] = -1
            else:
                faces[f, k] = v
        touched[v], touched[u] = 1, 1
        removed += shared
    left = 0
    for f in range(faces.shape[0]):
        if faces[f, 0] >= 0:
            faces[left, 0], faces[left, 1], faces[left, 2] = faces[f, 0], faces[f, 1], faces[f, 2]
            left += 1
    return left
