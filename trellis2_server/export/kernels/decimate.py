"""Loops that collapse edges.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917
# ruff: noqa: PLR1714, PLR2004
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.kernel import kernel


@kernel
def chain(faces, head, following):
    # The corners at each vertex as a linked list, ascending.
    for v in range(head.shape[0]):
        head[v] = -1
    for f in range(faces.shape[0] - 1, -1, -1):
        for k in range(2, -1, -1):
            v = faces[f, k]
            following[3 * f + k] = head[v]
            head[v] = 3 * f + k


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
def sum_quadrics(start, stop, vertices, faces, head, following, rim_weight, quadrics):
    ring = np.empty((512, 2), np.int32)
    for v in range(start, stop):
        valence = 0
        i = head[v]
        while i >= 0 and valence < 512:
            f, k = i // 3, i % 3
            ring[valence, 0], ring[valence, 1] = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
            valence += 1
            i = following[i]
        x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        for n in range(valence):
            p, q = ring[n, 0], ring[n, 1]
            ux, uy, uz = vertices[p, 0] - x, vertices[p, 1] - y, vertices[p, 2] - z
            wx, wy, wz = vertices[q, 0] - x, vertices[q, 1] - y, vertices[q, 2] - z
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            if length <= 1e-30:
                continue
            nx, ny, nz = nx / length, ny / length, nz / length
            add_plane(quadrics, v, nx, ny, nz, -(nx * x + ny * y + nz * z), 0.5 * length)
            if valence == 512:
                continue
            for side in range(2):
                # An edge without exactly two faces is held by a plane upright on its face.
                other = ring[n, side]
                shared = 0
                for m in range(valence):
                    if ring[m, 0] == other or ring[m, 1] == other:
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
def merged(vertices, quadrics, v, u):
    # What it costs to merge v and u, and the best place for both.
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
    scale = 1.0 / (a2 * c00 + b * c01 + c * c02)
    c11, c12, c22 = a2 * g2 - c * c, b * c - a2 * e, a2 * d2 - b * b
    tx = (c00 * rx + c01 * ry + c02 * rz) * scale
    ty = (c01 * rx + c11 * ry + c12 * rz) * scale
    tz = (c02 * rx + c12 * ry + c22 * rz) * scale
    if not tx * tx + ty * ty + tz * tz <= 4.0 * square:
        tx, ty, tz = 0.0, 0.0, 0.0
    x, y, z = mx + tx, my + ty, mz + tz
    error = (
        x * (a * x + 2.0 * (b * y + c * z + p))
        + y * (d * y + 2.0 * (e * z + q))
        + z * (g * z + 2.0 * r)
        + s
    )
    return max(error, 0.0) + 1e-6 * trace * square + 1e-30 * square, x, y, z


@kernel
def price(start, stop, vertices, quadrics, faces, head, following, cell, avoid, partner, cost):
    # The cheapest edge to a later vertex. partner: -1 none, -2 has neighbours in other cells.
    seen = np.empty(1024, np.int32)
    for v in range(start, stop):
        partner[v] = -1
        count = 0
        best = np.inf
        i = head[v]
        while i >= 0:
            f, k = i // 3, i % 3
            i = following[i]
            if count > 1000:
                partner[v] = -2
                break
            for side in range(1, 3):
                u = faces[f, (k + side) % 3]
                if cell[u] != cell[v]:
                    partner[v] = -2
                    break
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
                error, _, _, _ = merged(vertices, quadrics, v, u)
                if error < best:
                    best = error
                    partner[v] = u
            if partner[v] == -2:
                break
        cost[v] = best


@kernel
def sort_cells(start, stop, vertices, low, scale, side, shift, cell):
    for v in range(start, stop):
        i = int((vertices[v, 0] - low[0]) * scale + shift)
        j = int((vertices[v, 1] - low[1]) * scale + shift)
        k = int((vertices[v, 2] - low[2]) * scale + shift)
        # Merging may move a vertex a little out of the box.
        i, j, k = min(max(i, 0), side - 1), min(max(j, 0), side - 1), min(max(k, 0), side - 1)
        cell[v] = (i * side + j) * side + k


@kernel
def fits(vertices, faces, head, following, v, u, x, y, z):
    # Whether the faces at v that do not hold u keep their side and do not become needles.
    i = head[v]
    while i >= 0:
        f, k = i // 3, i % 3
        i = following[i]
        p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
        if p == u or q == u:
            continue
        px, py, pz = vertices[p, 0], vertices[p, 1], vertices[p, 2]
        ex, ey, ez = vertices[q, 0] - px, vertices[q, 1] - py, vertices[q, 2] - pz
        ax, ay, az = vertices[v, 0] - px, vertices[v, 1] - py, vertices[v, 2] - pz
        bx, by, bz = x - px, y - py, z - pz
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
def prune(faces, head, following, v):
    # Unlink faces that are gone; how many are left.
    count = 0
    before = -1
    i = head[v]
    while i >= 0:
        after = following[i]
        if faces[i // 3, 0] < 0:
            if before < 0:
                head[v] = after
            else:
                following[before] = after
        else:
            count += 1
            before = i
        i = after
    return count


@kernel
def is_linked(faces, head, following, v, u, token, stamp, times):
    # The link condition: whether merging v and u leaves the topology as it is.
    # Neighbours of v, how often its faces name each, and the faces that hold u.
    shared, v_faces, u_faces, common = 0, 0, 0, 0
    c, d = -1, -1
    i = head[v]
    while i >= 0:
        f, k = i // 3, i % 3
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
        i = following[i]
    v_rim, v_cap, u_rim, u_cap = False, False, False, False
    i = head[v]
    while i >= 0:
        f, k = i // 3, i % 3
        p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
        if times[p] != 2 or times[q] != 2:
            v_rim = True
        if (p == c and q == d) or (p == d and q == c):
            v_cap = True
        i = following[i]
    i = head[u]
    while i >= 0:
        f, k = i // 3, i % 3
        u_faces += 1
        p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
        if (p == c and q == d) or (p == d and q == c):
            u_cap = True
        for w in (p, q):
            if stamp[w] == token:
                stamp[w] = token + 1
                times[w] = 0
                common += 1
            elif stamp[w] != token + 1 and stamp[w] != -token:
                # Neither at v: counted from scratch, below the tokens to come.
                stamp[w] = -token
                times[w] = 0
            times[w] += 1
        i = following[i]
    i = head[u]
    while i >= 0:
        f, k = i // 3, i % 3
        if times[faces[f, (k + 1) % 3]] != 2 or times[faces[f, (k + 2) % 3]] != 2:
            u_rim = True
        i = following[i]
    return not (
        common != shared
        or (v_cap and u_cap)
        or (v_faces == shared and u_faces == shared)
        or (v_rim and u_rim and shared == 2)
    )


@kernel
def sink(keys, ends, size, i):
    # Restore the heap below place i.
    key = keys[i]
    v, u, age = ends[i, 0], ends[i, 1], ends[i, 2]
    while True:
        j = 2 * i + 1
        if j >= size:
            break
        if j + 1 < size and keys[j + 1] < keys[j]:
            j += 1
        if keys[j] >= key:
            break
        keys[i] = keys[j]
        ends[i, 0], ends[i, 1], ends[i, 2] = ends[j, 0], ends[j, 1], ends[j, 2]
        i = j
    keys[i] = key
    ends[i, 0], ends[i, 1], ends[i, 2] = v, u, age


@kernel
def rise(keys, ends, i, key, v, u, age):
    # Put an entry at place i, or nearer to the root.
    while i > 0:
        j = (i - 1) // 2
        if keys[j] <= key:
            break
        keys[i] = keys[j]
        ends[i, 0], ends[i, 1], ends[i, 2] = ends[j, 0], ends[j, 1], ends[j, 2]
        i = j
    keys[i] = key
    ends[i, 0], ends[i, 1], ends[i, 2] = v, u, age


@kernel
def collapse(
    start, stop, order, first, budget, limit, level, vertices, quadrics, faces, head, following,
    partner, cost, avoid, age, stamp, times,
):  # fmt: skip
    # Each cell by itself, cheapest edges first; vertices with neighbours in other cells rest,
    # so no two cells write, or read what the other writes.
    for cell in range(start, stop):
        size = first[cell + 1] - first[cell]
        keys = np.empty(2 * size + 64)
        ends = np.empty((2 * size + 64, 3), np.int32)
        for i in range(size):
            v = order[first[cell] + i]
            keys[i] = cost[v]
            ends[i, 0], ends[i, 1], ends[i, 2] = v, partner[v], age[v] + age[partner[v]]
        for i in range(size // 2 - 1, -1, -1):
            sink(keys, ends, size, i)
        removed, token = 0, 0
        while size > 0 and removed < budget[cell]:
            v, u, when = ends[0, 0], ends[0, 1], ends[0, 2]
            size -= 1
            keys[0] = keys[size]
            ends[0, 0], ends[0, 1], ends[0, 2] = ends[size, 0], ends[size, 1], ends[size, 2]
            if size > 0:
                sink(keys, ends, size, 0)
            if head[v] < 0 or head[u] < 0 or age[v] + age[u] != when:
                continue
            if prune(faces, head, following, v) + prune(faces, head, following, u) > 512:
                continue
            token += 2
            if level < 2 and not is_linked(faces, head, following, v, u, token, stamp, times):
                avoid[min(v, u)] = max(v, u)
                continue
            _, x, y, z = merged(vertices, quadrics, v, u)
            if level < 1 and not (
                fits(vertices, faces, head, following, v, u, x, y, z)
                and fits(vertices, faces, head, following, u, v, x, y, z)
            ):
                avoid[min(v, u)] = max(v, u)
                continue
            vertices[v, 0], vertices[v, 1], vertices[v, 2] = x, y, z
            for k in range(10):
                quadrics[v, k] += quadrics[u, k]
            i = head[u]
            while i >= 0:
                f, k = i // 3, i % 3
                if faces[f, (k + 1) % 3] == v or faces[f, (k + 2) % 3] == v:
                    faces[f, 0] = -1
                    removed += 1
                else:
                    faces[f, k] = v
                last = i
                i = following[i]
            following[last] = head[v]
            head[v] = head[u]
            head[u] = -1
            prune(faces, head, following, v)
            age[v] += 1
            avoid[v] = -1
            token += 2
            i = head[v]
            while i >= 0:
                f, k = i // 3, i % 3
                i = following[i]
                for side in range(1, 3):
                    w = faces[f, (k + side) % 3]
                    if stamp[w] == token:
                        continue
                    stamp[w] = token
                    avoid[w] = -1
                    if partner[w] == -2:
                        continue
                    error, _, _, _ = merged(vertices, quadrics, v, w)
                    if error > limit:
                        continue
                    if size == keys.shape[0]:
                        wider = np.empty(2 * size)
                        wider[:size] = keys
                        keys = wider
                        longer = np.empty((2 * size, 3), np.int32)
                        longer[:size] = ends
                        ends = longer
                    rise(keys, ends, size, error, v, w, age[v] + age[w])
                    size += 1


@kernel
def squeeze(faces):
    # Move the faces that are left to the front; how many they are.
    left = 0
    for f in range(faces.shape[0]):
        if faces[f, 0] >= 0:
            faces[left, 0], faces[left, 1], faces[left, 2] = faces[f, 0], faces[f, 1], faces[f, 2]
            left += 1
    return left
