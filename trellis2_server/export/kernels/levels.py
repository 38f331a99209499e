"""Loops that decimate a mesh with texture coordinates, for its coarser levels of detail.

An edge is collapsed into one of its ends, whose texture coordinates remain, and which moves to the
place with the least error. Quadrics: Garland and Heckbert (1997).

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel

#: Vertices with more faces than this are not removed.
MOST_AROUND = 48
#: Bits of a vertex: an edge with one face, an edge with more than two.
BORDER, NON_MANIFOLD = 1, 2
#: Cost of a texture that stays while a corner of its face moves, by doubled area and squared
#: distance.
SHIFT = 0.3
#: A vertex moves no farther than this multiple of the square of the collapsed edge.
FARTHEST = 4.0


@kernel
def mark_vertices(faces, twin, kinds, flag):
    for h in range(twin.shape[0]):
        if h & 1023 == 0 and is_cancelled(flag):
            return
        if twin[h] < 0:
            bit = BORDER if twin[h] == -1 else NON_MANIFOLD
            kinds[faces[h // 3, h % 3]] |= bit
            kinds[faces[h // 3, (h % 3 + 1) % 3]] |= bit


@kernel
def add_plane(quadrics, v, nx, ny, nz, px, py, pz, weight):
    d = -(nx * px + ny * py + nz * pz)
    quadrics[v, 0] += weight * nx * nx
    quadrics[v, 1] += weight * nx * ny
    quadrics[v, 2] += weight * nx * nz
    quadrics[v, 3] += weight * nx * d
    quadrics[v, 4] += weight * ny * ny
    quadrics[v, 5] += weight * ny * nz
    quadrics[v, 6] += weight * ny * d
    quadrics[v, 7] += weight * nz * nz
    quadrics[v, 8] += weight * nz * d
    quadrics[v, 9] += weight * d * d


@kernel
def sum_quadrics(
    start, stop, vertices, faces, first, corners, face_weights, edge_weights, quadrics, flag
):
    # Planes of the faces by area times face_weights[face], and those through open edges and seams,
    # perpendicular to the face, by squared length times edge_weights[3 * face + k].
    for v in range(start, stop):
        if v & 255 == 0 and is_cancelled(flag):
            return
        for i in range(first[v], first[v + 1]):
            if i & 1023 == 1023 and is_cancelled(flag):
                return
            f, k = corners[i] // 3, corners[i] % 3
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            px, py, pz = (
                np.float64(vertices[a, 0]), np.float64(vertices[a, 1]), np.float64(vertices[a, 2]),
            )  # fmt: skip
            ux, uy, uz = vertices[b, 0] - px, vertices[b, 1] - py, vertices[b, 2] - pz
            wx, wy, wz = vertices[c, 0] - px, vertices[c, 1] - py, vertices[c, 2] - pz
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            if length < 1e-18:
                continue
            nx, ny, nz = nx / length, ny / length, nz / length
            add_plane(quadrics, v, nx, ny, nz, px, py, pz, 0.5 * length * face_weights[f])
            for e in range(2):
                side = k if e == 0 else (k + 2) % 3
                weight = edge_weights[3 * f + side]
                if weight == 0.0:
                    continue
                p, q = faces[f, side], faces[f, (side + 1) % 3]
                ex = np.float64(vertices[q, 0]) - vertices[p, 0]
                ey = np.float64(vertices[q, 1]) - vertices[p, 1]
                ez = np.float64(vertices[q, 2]) - vertices[p, 2]
                square = ex * ex + ey * ey + ez * ez
                mx, my, mz = ey * nz - ez * ny, ez * nx - ex * nz, ex * ny - ey * nx
                size = np.sqrt(mx * mx + my * my + mz * mz)
                if size < 1e-18:
                    continue
                add_plane(
                    quadrics, v, mx / size, my / size, mz / size, np.float64(vertices[p, 0]),
                    np.float64(vertices[p, 1]), np.float64(vertices[p, 2]), weight * square,
                )  # fmt: skip


@kernel
def error_at(quadrics, v, u, x, y, z):
    # Error of the sum of two vertices' quadrics at a place.
    q0, q1 = quadrics[v, 0] + quadrics[u, 0], quadrics[v, 1] + quadrics[u, 1]
    q2, q3 = quadrics[v, 2] + quadrics[u, 2], quadrics[v, 3] + quadrics[u, 3]
    q4, q5 = quadrics[v, 4] + quadrics[u, 4], quadrics[v, 5] + quadrics[u, 5]
    q6, q7 = quadrics[v, 6] + quadrics[u, 6], quadrics[v, 7] + quadrics[u, 7]
    q8, q9 = quadrics[v, 8] + quadrics[u, 8], quadrics[v, 9] + quadrics[u, 9]
    along_x = x * (q0 * x + 2.0 * (q1 * y + q2 * z + q3))
    along_y = y * (q4 * y + 2.0 * (q5 * z + q6))
    return max(0.0, along_x + along_y + z * (q7 * z + 2.0 * q8) + q9)


@kernel
def best_place(quadrics, v, u, x, y, z, hold):
    # The place with the least error of the sum of two vertices' quadrics, weakly held to (x, y, z):
    # along flat surfaces and straight creases nothing moves.
    q0, q1 = quadrics[v, 0] + quadrics[u, 0], quadrics[v, 1] + quadrics[u, 1]
    q2, q3 = quadrics[v, 2] + quadrics[u, 2], quadrics[v, 3] + quadrics[u, 3]
    q4, q5 = quadrics[v, 4] + quadrics[u, 4], quadrics[v, 5] + quadrics[u, 5]
    q6, q7 = quadrics[v, 6] + quadrics[u, 6], quadrics[v, 7] + quadrics[u, 7]
    q8 = quadrics[v, 8] + quadrics[u, 8]
    a = -(q0 * x + q1 * y + q2 * z + q3)
    b = -(q1 * x + q4 * y + q5 * z + q6)
    c = -(q2 * x + q5 * y + q7 * z + q8)
    held = hold * (q0 + q4 + q7) + 1e-30
    q0, q4, q7 = q0 + held, q4 + held, q7 + held
    c00, c01, c02 = q4 * q7 - q5 * q5, q2 * q5 - q1 * q7, q1 * q5 - q2 * q4
    c11, c12, c22 = q0 * q7 - q2 * q2, q1 * q2 - q0 * q5, q0 * q4 - q1 * q1
    scale = 1.0 / (q0 * c00 + q1 * c01 + q2 * c02)
    return (
        x + (c00 * a + c01 * b + c02 * c) * scale,
        y + (c01 * a + c11 * b + c12 * c) * scale,
        z + (c02 * a + c12 * b + c22 * c) * scale,
    )


@kernel
def has_corner(faces, f, u):
    return faces[f, 0] == u or faces[f, 1] == u or faces[f, 2] == u


@kernel
def moved_row(faces, rows, first, corners, v, u, row):
    # Row of the texture coordinates at u that takes the place of a row at v: that of a face with
    # both of them. -1: no face with both has this row.
    for i in range(first[v], first[v + 1]):
        f = corners[i] // 3
        if rows[f, corners[i] % 3] == row and has_corner(faces, f, u):
            for k in range(3):
                if faces[f, k] == u:
                    return rows[f, k]
    return -1


@kernel
def doubled_area(vertices, a, b, c):
    ux = np.float64(vertices[b, 0]) - vertices[a, 0]
    uy = np.float64(vertices[b, 1]) - vertices[a, 1]
    uz = np.float64(vertices[b, 2]) - vertices[a, 2]
    wx = np.float64(vertices[c, 0]) - vertices[a, 0]
    wy = np.float64(vertices[c, 1]) - vertices[a, 1]
    wz = np.float64(vertices[c, 2]) - vertices[a, 2]
    return uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx


@kernel
def doubled_texels(uv, a, b, c):
    return (np.float64(uv[b, 0]) - uv[a, 0]) * (np.float64(uv[c, 1]) - uv[a, 1]) - (
        np.float64(uv[b, 1]) - uv[a, 1]
    ) * (np.float64(uv[c, 0]) - uv[a, 0])


@kernel
def keeps_faces(vertices, faces, first, corners, v, u, x, y, z):
    # Whether no face at v, except those at u, turns over or shrinks to nothing with v at a place.
    for i in range(first[v], first[v + 1]):
        f, k = corners[i] // 3, corners[i] % 3
        if has_corner(faces, f, u):
            continue
        b, c = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
        ox, oy, oz = doubled_area(vertices, v, b, c)
        bx, by, bz = vertices[b, 0] - x, vertices[b, 1] - y, vertices[b, 2] - z
        cx, cy, cz = vertices[c, 0] - x, vertices[c, 1] - y, vertices[c, 2] - z
        nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        old, new = ox * ox + oy * oy + oz * oz, nx * nx + ny * ny + nz * nz
        cosine = ox * nx + oy * ny + oz * nz
        if cosine <= 0.0 or cosine * cosine < 0.1 * old * new or new < 1e-4 * old:
            return False
    return True


@kernel
def is_allowed(
    level, vertices, faces, rows, uv, first, corners, kinds, v, u, shared, near, count, x, y, z
):
    # Whether v may become u at a place. level: 0: nothing turns over, neither in space nor in the
    # texture, and the topology stays; 1: faces may turn over in the texture, borders may shrink,
    # edges may keep more than two faces; 2: the topology may change; 3: always.
    if level >= 3:
        return True
    if level == 0 and shared != (1 if kinds[v] & BORDER else 2):
        return False
    # Dey and others (1999): no other vertices than those of the shared faces see both.
    common = 0
    for n in range(count if level < 2 else 0):
        w = near[n]
        if w == u:
            continue
        for i in range(first[u], first[u + 1]):
            if has_corner(faces, corners[i] // 3, w):
                common += 1
                break
    if level < 2 and common != shared:
        return False
    if not (
        keeps_faces(vertices, faces, first, corners, v, u, x, y, z)
        and keeps_faces(vertices, faces, first, corners, u, v, x, y, z)
    ):
        return False
    for i in range(first[v], first[v + 1] if level == 0 else first[v]):
        f, k = corners[i] // 3, corners[i] % 3
        if has_corner(faces, f, u):
            continue
        row = moved_row(faces, rows, first, corners, v, u, rows[f, k])
        if row < 0:
            continue
        b, c = rows[f, (k + 1) % 3], rows[f, (k + 2) % 3]
        before, after = doubled_texels(uv, rows[f, k], b, c), doubled_texels(uv, row, b, c)
        if before * after < 1e-4 * before * before:
            return False
    return True


@kernel
def find_targets(
    start, stop, level, hold, finest, vertices, quadrics, faces, rows, uv, first, corners, kinds,
    targets, places, costs, flag,
):  # fmt: skip
    # The cheapest neighbour of each vertex that it may become, -1: none; and the place of both.
    near = np.empty(2 * MOST_AROUND, np.int64)
    often = np.empty(2 * MOST_AROUND, np.int64)
    for v in range(start, stop):
        if v & 15 == 0 and is_cancelled(flag):
            return
        targets[v], costs[v] = -1, np.inf
        around = first[v + 1] - first[v]
        if around == 0 or around > MOST_AROUND or (kinds[v] & NON_MANIFOLD and level < 1):
            continue
        count = 0
        for i in range(first[v], first[v + 1]):
            f, k = corners[i] // 3, corners[i] % 3
            for step in range(1, 3):
                w = faces[f, (k + step) % 3]
                n = 0
                while n < count and near[n] != w:
                    n += 1
                if n == count:
                    near[n], often[n] = w, 0
                    count += 1
                often[n] += 1
        for n in range(count):
            u = near[n]
            if first[u + 1] - first[u] > 2 * MOST_AROUND:
                continue
            ux, uy, uz = (
                np.float64(vertices[u, 0]), np.float64(vertices[u, 1]), np.float64(vertices[u, 2]),
            )  # fmt: skip
            edge = (
                (ux - vertices[v, 0]) ** 2 + (uy - vertices[v, 1]) ** 2 + (uz - vertices[v, 2]) ** 2
            )
            x, y, z = best_place(
                quadrics, v, u, np.float64(finest[u, 0]), np.float64(finest[u, 1]),
                np.float64(finest[u, 2]), hold,
            )  # fmt: skip
            if (x - ux) ** 2 + (y - uy) ** 2 + (z - uz) ** 2 > FARTHEST * edge:
                x, y, z = ux, uy, uz
            square = (
                (x - vertices[v, 0]) ** 2 + (y - vertices[v, 1]) ** 2 + (z - vertices[v, 2]) ** 2
            )
            # Short edges first where all is flat.
            cost = error_at(quadrics, v, u, x, y, z) + 1e-6 * square * square
            if cost >= costs[v]:
                continue
            for i in range(first[v], first[v + 1]):
                f, k = corners[i] // 3, corners[i] % 3
                if not has_corner(faces, f, u) and (
                    moved_row(faces, rows, first, corners, v, u, rows[f, k]) < 0
                ):
                    # The texture stays where it is while the place moves.
                    nx, ny, nz = doubled_area(vertices, faces[f, 0], faces[f, 1], faces[f, 2])
                    cost += SHIFT * np.sqrt(nx * nx + ny * ny + nz * nz) * square
            if cost < costs[v] and is_allowed(
                level, vertices, faces, rows, uv, first, corners, kinds, v, u, often[n], near,
                count, x, y, z,
            ):  # fmt: skip
                targets[v], costs[v] = u, cost
                places[v, 0], places[v, 1], places[v, 2] = x, y, z


@kernel
def collapse_all(
    order, wanted, targets, places, vertices, faces, rows, first, corners, quadrics, touched, flag
):
    # Collapse vertices in this order until so many faces are removed; not beside each other.
    # Returns the number of removed faces, whose first corner is -1.
    removed = 0
    fresh = np.empty(2 * MOST_AROUND, np.int32)
    for n in range(order.shape[0]):
        if n & 255 == 0 and is_cancelled(flag):
            return removed
        if removed >= wanted:
            break
        v = order[n]
        u = targets[v]
        if touched[v] or touched[u]:
            continue
        for i in range(first[u], first[u + 1]):
            for k in range(3):
                touched[faces[corners[i] // 3, k]] = True
        for i in range(first[v], first[v + 1]):
            f = corners[i] // 3
            for k in range(3):
                touched[faces[f, k]] = True
            row = rows[f, corners[i] % 3]
            moved = moved_row(faces, rows, first, corners, v, u, row)
            fresh[i - first[v]] = row if moved < 0 else moved
        for i in range(first[v], first[v + 1]):
            f, k = corners[i] // 3, corners[i] % 3
            if has_corner(faces, f, u):
                faces[f, 0] = -1
                removed += 1
            else:
                faces[f, k] = u
                rows[f, k] = fresh[i - first[v]]
        for c in range(3):
            vertices[u, c] = places[v, c]
        for c in range(10):
            quadrics[u, c] += quadrics[v, c]
    return removed
