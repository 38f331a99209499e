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
def find_cells(start, stop, vertices, low, scale, side, shift, cell):
    for v in range(start, stop):
        i = int((vertices[v, 0] - low[0]) * scale + shift)
        j = int((vertices[v, 1] - low[1]) * scale + shift)
        k = int((vertices[v, 2] - low[2]) * scale + shift)
        # Merging may move a vertex a little out of the box.
        i, j, k = min(max(i, 0), side - 1), min(max(j, 0), side - 1), min(max(k, 0), side - 1)
        cell[v] = (i * side + j) * side + k


@kernel
def count(cell, head, faces, sizes, face_sizes):
    # How many vertices that are left, and faces, lie in each cell: a face where its first does.
    for v in range(cell.shape[0]):
        if head[v] >= 0:
            sizes[cell[v]] += 1
    for f in range(faces.shape[0]):
        face_sizes[cell[faces[f, 0]]] += 1


@kernel
def sort(cell, head, faces, starts, face_starts, name, moved):
    # Number the vertices anew, cell by cell, and put the faces in that order.
    for v in range(cell.shape[0]):
        name[v] = -1
        if head[v] >= 0:
            name[v] = starts[cell[v]]
            starts[cell[v]] += 1
    for f in range(faces.shape[0]):
        a = faces[f, 0]
        to = face_starts[cell[a]]
        face_starts[cell[a]] = to + 1
        moved[to, 0], moved[to, 1], moved[to, 2] = name[a], name[faces[f, 1]], name[faces[f, 2]]


@kernel
def move(start, stop, name, vertices, moved):
    for v in range(start, stop):
        to = name[v]
        if to >= 0:
            for k in range(vertices.shape[1]):
                moved[to, k] = vertices[v, k]


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
def sum_quadrics(start, stop, faces, head, following, rim_weight, vertices):
    # Of the planes through each vertex: only the second-order part is not zero there.
    ring = np.empty((513, 3), np.int32)
    for v in range(start, stop):
        count = gather(faces, head, following, v, ring)
        x, y, z = np.float64(vertices[v, 0]), np.float64(vertices[v, 1]), np.float64(vertices[v, 2])
        a, b, c, d, e, g = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for n in range(min(count, 512)):
            p, q = ring[n, 1], ring[n, 2]
            ux, uy, uz = vertices[p, 0] - x, vertices[p, 1] - y, vertices[p, 2] - z
            wx, wy, wz = vertices[q, 0] - x, vertices[q, 1] - y, vertices[q, 2] - z
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            if length <= 1e-30:
                continue
            weight = 0.5 / length
            a, b, c = a + weight * nx * nx, b + weight * nx * ny, c + weight * nx * nz
            d, e, g = d + weight * ny * ny, e + weight * ny * nz, g + weight * nz * nz
            if count > 512:
                continue
            for side in range(2):
                # An edge without exactly two faces is held by a plane upright on its face.
                other = ring[n, 1 + side]
                shared = 0
                for m in range(count):
                    if ring[m, 1] == other or ring[m, 2] == other:
                        shared += 1
                if shared == 2:
                    continue
                ex, ey, ez = (ux, uy, uz) if side == 0 else (wx, wy, wz)
                mx, my, mz = ey * nz - ez * ny, ez * nx - ex * nz, ex * ny - ey * nx
                weight = rim_weight / (length * length)
                a, b, c = a + weight * mx * mx, b + weight * mx * my, c + weight * mx * mz
                d, e, g = d + weight * my * my, e + weight * my * mz, g + weight * mz * mz
        vertices[v, 3], vertices[v, 4], vertices[v, 5] = a, b, c
        vertices[v, 6], vertices[v, 7], vertices[v, 8] = d, e, g
        vertices[v, 9], vertices[v, 10], vertices[v, 11], vertices[v, 12] = 0.0, 0.0, 0.0, 0.0


@kernel
def merge(vertices, v, u, x, y, z):
    # Move v to that place and give it both quadrics.
    vx, vy, vz = vertices[v, 0], vertices[v, 1], vertices[v, 2]
    vertices[v, 0], vertices[v, 1], vertices[v, 2] = x, y, z
    a, b, c, d, e, g, p, q, r, s = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for side in range(2):
        w = v if side == 0 else u
        wx, wy, wz = (vx, vy, vz) if side == 0 else (vertices[u, 0], vertices[u, 1], vertices[u, 2])
        hx = np.float64(vertices[v, 0]) - np.float64(wx)
        hy = np.float64(vertices[v, 1]) - np.float64(wy)
        hz = np.float64(vertices[v, 2]) - np.float64(wz)
        a1, b1, c1 = (
            np.float64(vertices[w, 3]),
            np.float64(vertices[w, 4]),
            np.float64(vertices[w, 5]),
        )
        d1, e1, g1 = (
            np.float64(vertices[w, 6]),
            np.float64(vertices[w, 7]),
            np.float64(vertices[w, 8]),
        )
        p1, q1, r1 = (
            np.float64(vertices[w, 9]),
            np.float64(vertices[w, 10]),
            np.float64(vertices[w, 11]),
        )
        kx = a1 * hx + b1 * hy + c1 * hz
        ky = b1 * hx + d1 * hy + e1 * hz
        kz = c1 * hx + e1 * hy + g1 * hz
        s += vertices[w, 12] + hx * (kx + 2.0 * p1) + hy * (ky + 2.0 * q1) + hz * (kz + 2.0 * r1)
        p, q, r = p + p1 + kx, q + q1 + ky, r + r1 + kz
        a, b, c, d, e, g = a + a1, b + b1, c + c1, d + d1, e + e1, g + g1
    vertices[v, 3], vertices[v, 4], vertices[v, 5] = a, b, c
    vertices[v, 6], vertices[v, 7], vertices[v, 8] = d, e, g
    vertices[v, 9], vertices[v, 10], vertices[v, 11], vertices[v, 12] = p, q, r, max(s, 0.0)


@kernel
def gather(faces, head, following, v, ring):
    # The corners at v, and the other two of each face; faces that are gone are unlinked.
    # More than fit into the ring count, but are not in it.
    count = 0
    before = -1
    i = head[v]
    while i >= 0:
        after = following[i]
        f = i // 3
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if a < 0:
            if before < 0:
                head[v] = after
            else:
                following[before] = after
        else:
            k = i - 3 * f
            if count < ring.shape[0]:
                ring[count, 0] = i
                ring[count, 1] = b if k == 0 else (c if k == 1 else a)
                ring[count, 2] = c if k == 0 else (a if k == 1 else b)
            count += 1
            before = i
        i = after
    return count


@kernel
def lock(start, stop, faces, head, following, cell, vertices):
    # Vertices with neighbours in other cells.
    for v in range(start, stop):
        vertices[v, 13] = 0.0
        i = head[v]
        while i >= 0:
            f = i // 3
            if (
                cell[faces[f, 0]] != cell[v]
                or cell[faces[f, 1]] != cell[v]
                or cell[faces[f, 2]] != cell[v]
            ):
                vertices[v, 13] = 1.0
                break
            i = following[i]


@kernel
def bucket_of(cost):
    # Eight to a power of two.
    return min(max((np.float32(cost).view(np.int32) >> 20) - 128, 0), 1023)


@kernel
def put(buckets, counts, cell, after, partner, when, age, spot, v, near, at, price):
    u = near[at, 0]
    bucket = bucket_of(price[at, 0])
    partner[v] = u
    when[v] = age[v] + age[u]
    spot[v, 0], spot[v, 1], spot[v, 2] = price[at, 1], price[at, 2], price[at, 3]
    after[v] = buckets[cell, bucket]
    buckets[cell, bucket] = v
    counts[cell, bucket] += 1


@kernel
def name_neighbours(ring, count, near):
    # Each neighbour once, and how many of the faces have it.
    number = 0
    for n in range(count):
        for side in range(1, 3):
            u = ring[n, side]
            at = -1
            for j in range(number):
                if near[j, 0] == u:
                    at = j
                    break
            if at < 0:
                near[number, 0] = u
                near[number, 1] = 0
                at = number
                number += 1
            near[at, 1] += 1
    return number


@kernel
def weigh(vertices, v, near, number, lane, price):
    # What it costs to merge v with each neighbour, infinite where that one rests, and the best
    # place for both, from v. Eight neighbours at a time, in lanes that the machine's vectors take
    # several of. Each quadric is about its own vertex: half the digits are good enough.
    x0, y0, z0 = vertices[v, 0], vertices[v, 1], vertices[v, 2]
    va, vb, vc = vertices[v, 3], vertices[v, 4], vertices[v, 5]
    vd, ve, vg = vertices[v, 6], vertices[v, 7], vertices[v, 8]
    vp, vq, vr = vertices[v, 9], vertices[v, 10], vertices[v, 11]
    vs = vertices[v, 12]
    none, half, one, two = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
    weak, small, tiny = np.float32(1e-4), np.float32(1e-6), np.float32(1e-30)
    for base in range(0, number, 8):
        for n in range(min(8, number - base)):
            u = near[base + n, 0]
            lane[n] = vertices[u, 0] - x0
            lane[8 + n] = vertices[u, 1] - y0
            lane[16 + n] = vertices[u, 2] - z0
            for k in range(3, 13):
                lane[8 * k + n] = vertices[u, k]
        for n in range(8):
            hx, hy, hz = lane[n], lane[8 + n], lane[16 + n]
            a, b, c = lane[24 + n], lane[32 + n], lane[40 + n]
            d, e, g = lane[48 + n], lane[56 + n], lane[64 + n]
            p, q, r = lane[72 + n], lane[80 + n], lane[88 + n]
            # The quadric of u, seen from v.
            kx = a * hx + b * hy + c * hz
            ky = b * hx + d * hy + e * hz
            kz = c * hx + e * hy + g * hz
            s = (
                vs
                + lane[96 + n]
                + (hx * (kx - two * p) + hy * (ky - two * q) + hz * (kz - two * r))
            )
            p, q, r = p - kx + vp, q - ky + vq, r - kz + vr
            a, b, c, d, e, g = a + va, b + vb, c + vc, d + vd, e + ve, g + vg
            square = hx * hx + hy * hy + hz * hz
            trace = a + d + g
            # Solve for the step from the middle, with a trace of one. A weak pull to the middle
            # decides where the planes do not.
            unit = one / (trace + tiny)
            a1, b1, c1, d1, e1, g1 = a * unit, b * unit, c * unit, d * unit, e * unit, g * unit
            a2, d2, g2 = a1 + weak, d1 + weak, g1 + weak
            mx, my, mz = half * hx, half * hy, half * hz
            rx = -(a1 * mx + b1 * my + c1 * mz + p * unit)
            ry = -(b1 * mx + d1 * my + e1 * mz + q * unit)
            rz = -(c1 * mx + e1 * my + g1 * mz + r * unit)
            c00, c01, c02 = d2 * g2 - e1 * e1, c1 * e1 - b1 * g2, b1 * e1 - c1 * d2
            scale = one / (a2 * c00 + b1 * c01 + c1 * c02)
            c11, c12, c22 = a2 * g2 - c1 * c1, b1 * c1 - a2 * e1, a2 * d2 - b1 * b1
            tx = (c00 * rx + c01 * ry + c02 * rz) * scale
            ty = (c01 * rx + c11 * ry + c12 * rz) * scale
            tz = (c02 * rx + c12 * ry + c22 * rz) * scale
            near_enough = tx * tx + ty * ty + tz * tz <= two * two * square
            x = mx + (tx if near_enough else none)
            y = my + (ty if near_enough else none)
            z = mz + (tz if near_enough else none)
            error = (
                x * (a * x + two * (b * y + c * z + p))
                + y * (d * y + two * (e * z + q))
                + z * (g * z + two * r)
                + s
            )
            lane[104 + n] = max(error, none) + small * trace * square + tiny * square
            lane[112 + n], lane[120 + n], lane[128 + n] = x, y, z
        for n in range(min(8, number - base)):
            rests = vertices[near[base + n, 0], 13] != none
            price[base + n, 0] = np.float32(np.inf) if rests else lane[104 + n]
            price[base + n, 1] = lane[112 + n]
            price[base + n, 2] = lane[120 + n]
            price[base + n, 3] = lane[128 + n]


@kernel
def cheapest(near, number, price):
    # Which neighbour costs least, of several the one with the smallest name; -1: none is left.
    at, cost, end = -1, np.float32(np.inf), -1
    for n in range(number):
        if price[n, 0] < cost or (price[n, 0] == cost and near[n, 0] < end):
            at, cost, end = n, price[n, 0], near[n, 0]
    return at


@kernel
def strike_out(near, number, price, u):
    # The one that failed, and those that cost less: each has failed before, or waits with v.
    bar = np.float32(0.0)
    for n in range(number):
        if near[n, 0] == u:
            bar = price[n, 0]
    for n in range(number):
        if price[n, 0] < bar or (price[n, 0] == bar and near[n, 0] <= u):
            price[n, 0] = np.inf


@kernel
def line_up(
    start, stop, first, vertices, faces, head, following, buckets, counts, after, partner, when,
    age, spot,
):  # fmt: skip
    ring, near = np.empty((513, 3), np.int32), np.empty((1026, 2), np.int32)
    lane, price = np.zeros(136, np.float32), np.empty((1026, 4), np.float32)
    for cell in range(start, stop):
        for b in range(1024):
            buckets[cell, b] = -1
            counts[cell, b] = 0
        for v in range(first[cell + 1] - 1, first[cell] - 1, -1):
            if vertices[v, 13] != 0.0:
                continue
            count = gather(faces, head, following, v, ring)
            if count > 512:
                continue
            number = name_neighbours(ring, count, near)
            weigh(vertices, v, near, number, lane, price)
            at = cheapest(near, number, price)
            if at >= 0:
                put(buckets, counts, cell, after, partner, when, age, spot, v, near, at, price)


@kernel
def fits(vertices, ring, count, v, u, x, y, z):
    # Whether the faces at v that do not hold u keep their side and do not become needles.
    vx, vy, vz = np.float64(vertices[v, 0]), np.float64(vertices[v, 1]), np.float64(vertices[v, 2])
    for n in range(count):
        p, q = ring[n, 1], ring[n, 2]
        if p == u or q == u:
            continue
        px, py, pz = (
            np.float64(vertices[p, 0]),
            np.float64(vertices[p, 1]),
            np.float64(vertices[p, 2]),
        )
        ex, ey, ez = vertices[q, 0] - px, vertices[q, 1] - py, vertices[q, 2] - pz
        ax, ay, az = vx - px, vy - py, vz - pz
        bx, by, bz = x - px, y - py, z - pz
        nx, ny, nz = ey * az - ez * ay, ez * ax - ex * az, ex * ay - ey * ax
        mx, my, mz = ey * bz - ez * by, ez * bx - ex * bz, ex * by - ey * bx
        # Squares of twice the areas: no roots.
        old = nx * nx + ny * ny + nz * nz
        new = mx * mx + my * my + mz * mz
        along = nx * mx + ny * my + nz * mz
        if along < 0.0 or along * along < 0.09 * old * new:
            return False
        edge = ex * ex + ey * ey + ez * ez
        old_size = edge + ax * ax + ay * ay + az * az
        new_size = edge + bx * bx + by * by + bz * bz
        if new < 9e-4 * new_size * new_size and (
            new * old_size * old_size < old * new_size * new_size
        ):
            return False
    return True


@kernel
def is_linked(v_ring, v_count, v_near, v_number, u_ring, u_count, u_near, u_number, u):
    # The link condition: whether merging v and u leaves the topology as it is.
    shared, c, d = 0, -1, -1
    for n in range(v_count):
        p, q = v_ring[n, 1], v_ring[n, 2]
        if p == u or q == u:
            shared += 1
            d = c
            c = q if p == u else p
    if v_count == shared and u_count == shared:
        return False
    v_rim, v_cap, u_rim, u_cap = False, False, False, False
    common = 0
    for n in range(v_number):
        v_rim |= v_near[n, 1] != 2
        for m in range(u_number):
            common += v_near[n, 0] == u_near[m, 0]
    for m in range(u_number):
        u_rim |= u_near[m, 1] != 2
    if common != shared or (v_rim and u_rim and shared == 2):
        return False
    for n in range(v_count):
        p, q = v_ring[n, 1], v_ring[n, 2]
        v_cap |= (p == c and q == d) or (p == d and q == c)
    for n in range(u_count):
        p, q = u_ring[n, 1], u_ring[n, 2]
        u_cap |= (p == c and q == d) or (p == d and q == c)
    return not (v_cap and u_cap)


@kernel
def collapse(
    start, stop, budget, limit, alike, level, vertices, faces, head, following, buckets, counts,
    after, partner, when, age, spot, gone,
):  # fmt: skip
    # Each cell by itself, cheapest edges first; vertices with neighbours in other cells rest,
    # so no two cells write, or read what the other writes.
    # Each vertex waits with an edge that costs no more than any of its own did then. A change
    # makes edges of one vertex new, and that vertex waits anew: so every edge costs at least
    # what one of its ends waits with, and what has become stale meanwhile is looked at again
    # when its turn comes.
    v_ring, u_ring = np.empty((513, 3), np.int32), np.empty((513, 3), np.int32)
    v_near, u_near = np.empty((1026, 2), np.int32), np.empty((1026, 2), np.int32)
    lane, price = np.zeros(136, np.float32), np.empty((1026, 4), np.float32)
    for cell in range(start, stop):
        removed, now = 0, 0
        while removed < budget[cell]:
            while now <= limit and buckets[cell, now] < 0:
                now += 1
            if now > limit:
                break
            v = buckets[cell, now]
            buckets[cell, now] = after[v]
            counts[cell, now] -= 1
            if head[v] < 0:
                continue
            v_count = gather(faces, head, following, v, v_ring)
            if v_count == 0 or v_count > 512:
                continue
            v_number = name_neighbours(v_ring, v_count, v_near)
            u = partner[v]
            is_ready = head[u] >= 0 and age[v] + age[u] == when[v]
            x, y, z = spot[v, 0], spot[v, 1], spot[v, 2]
            if not is_ready:
                weigh(vertices, v, v_near, v_number, lane, price)
            while True:
                if not is_ready:
                    at = cheapest(v_near, v_number, price)
                    if at < 0:
                        u = -1
                        break
                    # What is hardly dearer need not wait its turn.
                    if bucket_of(price[at, 0]) > min(now + alike, limit):
                        put(
                            buckets, counts, cell, after, partner, when, age, spot, v, v_near, at,
                            price,
                        )  # fmt: skip
                        u = -1
                        break
                    u, x, y, z = v_near[at, 0], price[at, 1], price[at, 2], price[at, 3]
                    price[at, 0] = np.inf
                x, y, z = vertices[v, 0] + x, vertices[v, 1] + y, vertices[v, 2] + z
                u_count = 0
                if level > 0 or fits(vertices, v_ring, v_count, v, u, x, y, z):
                    u_count = gather(faces, head, following, u, u_ring)
                if 0 < u_count <= 512 - v_count and (
                    level > 0 or fits(vertices, u_ring, u_count, u, v, x, y, z)
                ):
                    u_number = name_neighbours(u_ring, u_count, u_near)
                    if level > 1 or is_linked(
                        v_ring, v_count, v_near, v_number, u_ring, u_count, u_near, u_number, u
                    ):
                        break
                if is_ready:
                    weigh(vertices, v, v_near, v_number, lane, price)
                    strike_out(v_near, v_number, price, u)
                    is_ready = False
            if u < 0:
                continue
            merge(vertices, v, u, x, y, z)
            # The ring of both, without the faces that vanish.
            kept = 0
            for n in range(v_count):
                i, p, q = v_ring[n, 0], v_ring[n, 1], v_ring[n, 2]
                if p == u or q == u:
                    faces[i // 3, 0] = -1
                    removed += 1
                else:
                    v_ring[kept, 0], v_ring[kept, 1], v_ring[kept, 2] = i, p, q
                    kept += 1
            for n in range(u_count):
                i, p, q = u_ring[n, 0], u_ring[n, 1], u_ring[n, 2]
                if p != v and q != v:
                    faces[i // 3, i % 3] = v
                    v_ring[kept, 0], v_ring[kept, 1], v_ring[kept, 2] = i, p, q
                    kept += 1
            head[u] = -1
            before = -1
            for n in range(kept - 1, -1, -1):
                following[v_ring[n, 0]] = before
                before = v_ring[n, 0]
            head[v] = before
            age[v] += 1
            if kept == 0:
                continue
            v_number = name_neighbours(v_ring, kept, v_near)
            weigh(vertices, v, v_near, v_number, lane, price)
            at = cheapest(v_near, v_number, price)
            if at >= 0:
                now = min(now, bucket_of(price[at, 0]))
                put(buckets, counts, cell, after, partner, when, age, spot, v, v_near, at, price)
        gone[cell] = removed


@kernel
def squeeze(faces):
    # Move the faces that are left to the front; how many they are.
    left = 0
    for f in range(faces.shape[0]):
        if faces[f, 0] >= 0:
            faces[left, 0], faces[left, 1], faces[left, 2] = faces[f, 0], faces[f, 1], faces[f, 2]
            left += 1
    return left
