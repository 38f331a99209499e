"""Loops that decimate a mesh by edge collapses.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917
# ruff: noqa: PLR1714, PLR2004, SIM110
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def find_cells(start, stop, vertices, low, scale, side, shift, cell, flag):
    for v in range(start, stop):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        i = int((vertices[v, 0] - low[0]) * scale + shift)
        j = int((vertices[v, 1] - low[1]) * scale + shift)
        k = int((vertices[v, 2] - low[2]) * scale + shift)
        # A merged vertex may lie a little outside the box.
        i, j, k = min(max(i, 0), side - 1), min(max(j, 0), side - 1), min(max(k, 0), side - 1)
        cell[v] = (i * side + j) * side + k


@kernel
def count_cells(cell, head, faces, sizes, face_sizes, flag):
    # Count the remaining vertices and the faces of each cell; a face belongs to its first vertex.
    for v in range(cell.shape[0]):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        if head[v] >= 0:
            sizes[cell[v]] += 1
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        face_sizes[cell[faces[f, 0]]] += 1


@kernel
def sort_by_cell(cell, head, faces, starts, face_starts, new_index, sorted_faces, flag):
    # Renumber the vertices cell by cell, and sort the faces likewise.
    for v in range(cell.shape[0]):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        new_index[v] = -1
        if head[v] >= 0:
            new_index[v] = starts[cell[v]]
            starts[cell[v]] += 1
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        a = faces[f, 0]
        to = face_starts[cell[a]]
        face_starts[cell[a]] = to + 1
        sorted_faces[to, 0], sorted_faces[to, 1], sorted_faces[to, 2] = (
            new_index[a],
            new_index[faces[f, 1]],
            new_index[faces[f, 2]],
        )


@kernel
def move_vertices(start, stop, new_index, vertices, moved, flag):
    for v in range(start, stop):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        to = new_index[v]
        if to >= 0:
            for k in range(vertices.shape[1]):
                moved[to, k] = vertices[v, k]


@kernel
def link_corners(faces, head, next_corner, flag):
    # List the corners at each vertex, ascending: a linked list.
    for v in range(head.shape[0]):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        head[v] = -1
    for f in range(faces.shape[0] - 1, -1, -1):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(2, -1, -1):
            v = faces[f, k]
            next_corner[3 * f + k] = head[v]
            head[v] = 3 * f + k


@kernel
def sum_quadrics(start, stop, faces, head, next_corner, rim_weight, vertices, flag):
    # Quadrics of the planes through each vertex, relative to it: only the second-order part is not
    # zero.
    ring = np.empty((513, 3), np.int32)
    for v in range(start, stop):
        if v & 15 == 0 and is_cancelled(flag):
            return
        count = collect_ring(faces, head, next_corner, v, ring)
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
                # An edge without exactly two faces adds a plane perpendicular to its face.
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
def merge_vertices(vertices, v, u, x, y, z):
    # Move v to (x, y, z) and add the quadric of u to its own.
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
def collect_ring(faces, head, next_corner, v, ring):
    # ring: the corners at v and the other two vertices of their faces. Unlinks removed faces.
    # The count includes corners for which the ring has no room.
    count = 0
    previous = -1
    i = head[v]
    while i >= 0:
        following = next_corner[i]
        f = i // 3
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if a < 0:
            if previous < 0:
                head[v] = following
            else:
                next_corner[previous] = following
        else:
            k = i - 3 * f
            if count < ring.shape[0]:
                ring[count, 0] = i
                ring[count, 1] = b if k == 0 else (c if k == 1 else a)
                ring[count, 2] = c if k == 0 else (a if k == 1 else b)
            count += 1
            previous = i
        i = following
    return count


@kernel
def lock_borders(start, stop, faces, head, next_corner, cell, has_fixed, vertices, flag):
    # Mark vertices with neighbours in other cells, and those that are fixed.
    for v in range(start, stop):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        vertices[v, 13] = 1.0 if has_fixed and vertices[v, 14] != 0.0 else 0.0
        i = head[v]
        steps = 0
        while i >= 0:
            steps += 1
            if steps & 4095 == 0 and is_cancelled(flag):
                return
            f = i // 3
            if (
                cell[faces[f, 0]] != cell[v]
                or cell[faces[f, 1]] != cell[v]
                or cell[faces[f, 2]] != cell[v]
            ):
                vertices[v, 13] = 1.0
                break
            i = next_corner[i]


@kernel
def bucket_of(cost):
    # Eight buckets per factor of two.
    return min(max((np.float32(cost).view(np.int32) >> 20) - 128, 0), 1023)


@kernel
def enqueue(buckets, counts, cell, after, partner, stamp, version, target, v, near, at, costs):
    # Queue v with the edge to near[at]: `after` links the vertices of a bucket, `target` is the
    # offset from v to the merged vertex, and `stamp` identifies the versions of both ends.
    u = near[at, 0]
    bucket = bucket_of(costs[at, 0])
    partner[v] = u
    stamp[v] = version[v] + version[u]
    target[v, 0], target[v, 1], target[v, 2] = costs[at, 1], costs[at, 2], costs[at, 3]
    after[v] = buckets[cell, bucket]
    buckets[cell, bucket] = v
    counts[cell, bucket] += 1


@kernel
def list_neighbours(ring, count, near):
    # near: each neighbour, and the number of faces that contain it.
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
def edge_costs(vertices, v, near, number, batch, costs):
    # The cost of merging v with each neighbour, infinite if that one is locked, and the best
    # position of the merged vertex relative to v. In batches of eight neighbours, a loop that
    # compilers vectorise. float32 suffices because each quadric is relative to its own vertex.
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
            batch[n] = vertices[u, 0] - x0
            batch[8 + n] = vertices[u, 1] - y0
            batch[16 + n] = vertices[u, 2] - z0
            for k in range(3, 13):
                batch[8 * k + n] = vertices[u, k]
        for n in range(8):
            hx, hy, hz = batch[n], batch[8 + n], batch[16 + n]
            a, b, c = batch[24 + n], batch[32 + n], batch[40 + n]
            d, e, g = batch[48 + n], batch[56 + n], batch[64 + n]
            p, q, r = batch[72 + n], batch[80 + n], batch[88 + n]
            # The quadric of u relative to v.
            kx = a * hx + b * hy + c * hz
            ky = b * hx + d * hy + e * hz
            kz = c * hx + e * hy + g * hz
            s = (
                vs
                + batch[96 + n]
                + (hx * (kx - two * p) + hy * (ky - two * q) + hz * (kz - two * r))
            )
            p, q, r = p - kx + vp, q - ky + vq, r - kz + vr
            a, b, c, d, e, g = a + va, b + vb, c + vc, d + vd, e + ve, g + vg
            square = hx * hx + hy * hy + hz * hz
            trace = a + d + g
            # Solve for the step from the midpoint, scaled to a trace of one, with a weak
            # regularisation towards the midpoint.
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
            is_near = tx * tx + ty * ty + tz * tz <= two * two * square
            x = mx + (tx if is_near else none)
            y = my + (ty if is_near else none)
            z = mz + (tz if is_near else none)
            error = (
                x * (a * x + two * (b * y + c * z + p))
                + y * (d * y + two * (e * z + q))
                + z * (g * z + two * r)
                + s
            )
            batch[104 + n] = max(error, none) + small * trace * square + tiny * square
            batch[112 + n], batch[120 + n], batch[128 + n] = x, y, z
        for n in range(min(8, number - base)):
            is_locked = vertices[near[base + n, 0], 13] != none
            costs[base + n, 0] = np.float32(np.inf) if is_locked else batch[104 + n]
            costs[base + n, 1] = batch[112 + n]
            costs[base + n, 2] = batch[120 + n]
            costs[base + n, 3] = batch[128 + n]


@kernel
def cheapest_edge(near, number, costs):
    # Index of the cheapest neighbour, the smallest vertex among equals; -1: none is left.
    at, cost, vertex = -1, np.float32(np.inf), -1
    for n in range(number):
        if costs[n, 0] < cost or (costs[n, 0] == cost and near[n, 0] < vertex):
            at, cost, vertex = n, costs[n, 0], near[n, 0]
    return at


@kernel
def exclude_tried(near, number, costs, u):
    # Exclude neighbour u, which failed, and cheaper ones: they have failed before or are queued
    # with v.
    tried_cost = np.float32(0.0)
    for n in range(number):
        if near[n, 0] == u:
            tried_cost = costs[n, 0]
    for n in range(number):
        if costs[n, 0] < tried_cost or (costs[n, 0] == tried_cost and near[n, 0] <= u):
            costs[n, 0] = np.inf


@kernel
def enqueue_all(
    start, stop, first, vertices, faces, head, next_corner, buckets, counts, after, partner, stamp,
    version, target, flag,
):  # fmt: skip
    ring, near = np.empty((513, 3), np.int32), np.empty((1026, 2), np.int32)
    batch, costs = np.zeros(136, np.float32), np.empty((1026, 4), np.float32)
    for cell in range(start, stop):
        if is_cancelled(flag):
            return
        for b in range(1024):
            buckets[cell, b] = -1
            counts[cell, b] = 0
        for v in range(first[cell + 1] - 1, first[cell] - 1, -1):
            if v & 15 == 0 and is_cancelled(flag):
                return
            if vertices[v, 13] != 0.0:
                continue
            count = collect_ring(faces, head, next_corner, v, ring)
            if count > 512:
                continue
            number = list_neighbours(ring, count, near)
            edge_costs(vertices, v, near, number, batch, costs)
            at = cheapest_edge(near, number, costs)
            if at >= 0:
                enqueue(
                    buckets, counts, cell, after, partner, stamp, version, target, v, near, at,
                    costs,
                )  # fmt: skip


@kernel
def keeps_faces_valid(vertices, ring, count, v, u, x, y, z):
    # Whether no face at v, except those at u, is flipped or becomes a sliver.
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
        # Squares of twice the areas.
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
def is_at_rim(near, number):
    # Whether an edge to a neighbour has another number of faces than two.
    for n in range(number):
        if near[n, 1] != 2:
            return True
    return False


@kernel
def meets_link_condition(v_ring, v_count, v_near, v_number, u_ring, u_count, u_near, u_number, u):
    # The link condition: whether merging v and u preserves the topology.
    shared, c, d = 0, -1, -1
    for n in range(v_count):
        p, q = v_ring[n, 1], v_ring[n, 2]
        if p == u or q == u:
            shared += 1
            d = c
            c = q if p == u else p
    if v_count == shared and u_count == shared:
        return False
    v_rim, u_rim = is_at_rim(v_near, v_number), is_at_rim(u_near, u_number)
    v_cap, u_cap = False, False
    common = 0
    for n in range(v_number):
        for m in range(u_number):
            common += v_near[n, 0] == u_near[m, 0]
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
def collapse_edges(
    start, stop, budget, limit, tolerance, level, vertices, faces, head, next_corner, buckets,
    counts, after, partner, stamp, version, target, removed_counts, flag,
):  # fmt: skip
    # Collapse edges in each cell, cheapest first. Vertices with neighbours in other cells are
    # locked: no cell reads or writes what another cell writes.
    # Each vertex is queued with its cheapest edge. A collapse changes the edges of one vertex,
    # which is queued again. So every edge costs at least as much as the queued edge of one of its
    # ends. An entry that has become stale is recomputed when it is dequeued.
    v_ring, u_ring = np.empty((513, 3), np.int32), np.empty((513, 3), np.int32)
    v_near, u_near = np.empty((1026, 2), np.int32), np.empty((1026, 2), np.int32)
    batch, costs = np.zeros(136, np.float32), np.empty((1026, 4), np.float32)
    for cell in range(start, stop):
        if is_cancelled(flag):
            return
        removed, bucket = 0, 0
        while removed < budget[cell]:
            if is_cancelled(flag):
                return
            while bucket <= limit and buckets[cell, bucket] < 0:
                bucket += 1
            if bucket > limit:
                break
            v = buckets[cell, bucket]
            buckets[cell, bucket] = after[v]
            counts[cell, bucket] -= 1
            if head[v] < 0:
                continue
            v_count = collect_ring(faces, head, next_corner, v, v_ring)
            if v_count == 0 or v_count > 512:
                continue
            v_number = list_neighbours(v_ring, v_count, v_near)
            u = partner[v]
            is_ready = head[u] >= 0 and version[v] + version[u] == stamp[v]
            x, y, z = target[v, 0], target[v, 1], target[v, 2]
            if not is_ready:
                edge_costs(vertices, v, v_near, v_number, batch, costs)
            while True:
                if not is_ready:
                    at = cheapest_edge(v_near, v_number, costs)
                    if at < 0:
                        u = -1
                        break
                    # Queue it again only if it is clearly more expensive than the present bucket.
                    if bucket_of(costs[at, 0]) > min(bucket + tolerance, limit):
                        enqueue(
                            buckets, counts, cell, after, partner, stamp, version, target, v,
                            v_near, at, costs,
                        )  # fmt: skip
                        u = -1
                        break
                    u, x, y, z = v_near[at, 0], costs[at, 1], costs[at, 2], costs[at, 3]
                    costs[at, 0] = np.inf
                x, y, z = vertices[v, 0] + x, vertices[v, 1] + y, vertices[v, 2] + z
                u_count = 0
                if level > 0 or keeps_faces_valid(vertices, v_ring, v_count, v, u, x, y, z):
                    u_count = collect_ring(faces, head, next_corner, u, u_ring)
                if 0 < u_count <= 512 - v_count and (
                    level > 0 or keeps_faces_valid(vertices, u_ring, u_count, u, v, x, y, z)
                ):
                    u_number = list_neighbours(u_ring, u_count, u_near)
                    # What is closed stays closed: only a rim may change the topology.
                    is_free = level > 1 and (
                        is_at_rim(v_near, v_number) or is_at_rim(u_near, u_number)
                    )
                    if is_free or meets_link_condition(
                        v_ring, v_count, v_near, v_number, u_ring, u_count, u_near, u_number, u
                    ):
                        break
                if is_ready:
                    edge_costs(vertices, v, v_near, v_number, batch, costs)
                    exclude_tried(v_near, v_number, costs, u)
                    is_ready = False
            if u < 0:
                continue
            merge_vertices(vertices, v, u, x, y, z)
            # The ring of the merged vertex, without the removed faces.
            left = 0
            for n in range(v_count):
                i, p, q = v_ring[n, 0], v_ring[n, 1], v_ring[n, 2]
                if p == u or q == u:
                    faces[i // 3, 0] = -1
                    removed += 1
                else:
                    v_ring[left, 0], v_ring[left, 1], v_ring[left, 2] = i, p, q
                    left += 1
            for n in range(u_count):
                i, p, q = u_ring[n, 0], u_ring[n, 1], u_ring[n, 2]
                if p != v and q != v:
                    faces[i // 3, i % 3] = v
                    v_ring[left, 0], v_ring[left, 1], v_ring[left, 2] = i, p, q
                    left += 1
            head[u] = -1
            previous = -1
            for n in range(left - 1, -1, -1):
                next_corner[v_ring[n, 0]] = previous
                previous = v_ring[n, 0]
            head[v] = previous
            version[v] += 1
            if left == 0:
                continue
            v_number = list_neighbours(v_ring, left, v_near)
            edge_costs(vertices, v, v_near, v_number, batch, costs)
            at = cheapest_edge(v_near, v_number, costs)
            if at >= 0:
                bucket = min(bucket, bucket_of(costs[at, 0]))
                enqueue(
                    buckets, counts, cell, after, partner, stamp, version, target, v, v_near, at,
                    costs,
                )  # fmt: skip
        removed_counts[cell] = removed


@kernel
def compact_faces(faces, flag):
    # Move the remaining faces to the front and return their number.
    left = 0
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return 0
        if faces[f, 0] >= 0:
            faces[left, 0], faces[left, 1], faces[left, 2] = faces[f, 0], faces[f, 1], faces[f, 2]
            left += 1
    return left
