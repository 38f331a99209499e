"""Loops over texels, voxels and faces.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR2004
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.kernel import kernel


@kernel
def project(start, stop, places, bundles, origin, cell, first, members):
    hit, trial = np.empty(3), np.empty(3)
    for p in range(start, stop):
        x, y, z = places[p, 0], places[p, 1], places[p, 2]
        face = closest(bundles, origin, cell, first, members, x, y, z, -1, hit, trial)
        if face >= 0:
            places[p, 0], places[p, 1], places[p, 2] = hit[0], hit[1], hit[2]


@kernel
def read(start, stop, places, boxes, masks, ranks, rows, attributes, resolution, values):
    value = np.empty(6)
    for p in range(start, stop):
        if sample(
            places[p, 0], places[p, 1], places[p, 2],
            boxes, masks, ranks, rows, attributes, resolution, value,
        ):  # fmt: skip
            for k in range(6):
                values[p, k] = value[k]


@kernel
def scan(start, stop, uv, faces, owner, seen):
    size = owner.shape[1]
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ay, by, cy = np.float64(uv[a, 1]), np.float64(uv[b, 1]), np.float64(uv[c, 1])
        row_0 = max(start, int(np.ceil(min(ay, by, cy) - 0.5)))
        row_1 = min(stop - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        if row_0 > row_1:
            continue
        ax, bx, cx = np.float64(uv[a, 0]), np.float64(uv[b, 0]), np.float64(uv[c, 0])
        for row in range(row_0, row_1 + 1):
            y = row + 0.5
            low, high = np.inf, -np.inf
            for side in range(3):
                if side == 0:
                    px, py, qx, qy = ax, ay, bx, by
                elif side == 1:
                    px, py, qx, qy = bx, by, cx, cy
                else:
                    px, py, qx, qy = cx, cy, ax, ay
                if py > qy:
                    px, py, qx, qy = qx, qy, px, py
                if py <= y <= qy and py < qy:
                    x = px + (qx - px) * ((y - py) / (qy - py))
                    low, high = min(low, x), max(high, x)
            if low > high:
                continue
            for column in range(
                max(0, int(np.ceil(low - 0.5))), min(size - 1, int(np.floor(high - 0.5))) + 1
            ):
                owner[row, column] = f
                seen[f] = 1


@kernel
def rescue(uv, faces, owner, seen):
    # A face that covers no texel's centre takes the texel that it lies in, if it is free.
    size = owner.shape[0]
    for f in range(faces.shape[0]):
        if seen[f] == 0:
            x = (uv[faces[f, 0], 0] + uv[faces[f, 1], 0] + uv[faces[f, 2], 0]) / 3.0
            y = (uv[faces[f, 0], 1] + uv[faces[f, 1], 1] + uv[faces[f, 2], 1]) / 3.0
            column = min(size - 1, max(0, int(x)))
            row = min(size - 1, max(0, int(y)))
            if owner[row, column] == -1:
                owner[row, column] = f


@kernel
def widen(start, stop, owner, wider):
    size = owner.shape[0]
    for row in range(start, stop):
        for column in range(size):
            value = owner[row, column]
            if value == -1:
                for i in range(8):
                    # The four sides first, then the corners.
                    dy = (-1, 0, 0, 1, -1, -1, 1, 1)[i]
                    dx = (0, -1, 1, 0, -1, 1, -1, 1)[i]
                    y, x = row + dy, column + dx
                    if 0 <= y < size and 0 <= x < size and owner[y, x] != -1:
                        near = owner[y, x]
                        value = -2 - near if near >= 0 else near
                        break
            wider[row, column] = value


@kernel
def count_bricks(coords, boxes):
    bricks = 0
    for v in range(coords.shape[0]):
        i, j, k = coords[v, 0] >> 2, coords[v, 1] >> 2, coords[v, 2] >> 2
        if boxes[i, j, k] < 0:
            boxes[i, j, k] = bricks
            bricks += 1
    return bricks


@kernel
def bits(mask):
    mask = mask - ((mask >> np.uint64(1)) & np.uint64(0x5555555555555555))
    mask = (mask & np.uint64(0x3333333333333333)) + (
        (mask >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    mask = (mask + (mask >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((mask * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def rank_voxels(coords, boxes, masks, ranks, rows):
    one = np.uint64(1)
    for v in range(coords.shape[0]):
        i, j, k = coords[v, 0], coords[v, 1], coords[v, 2]
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        masks[boxes[i >> 2, j >> 2, k >> 2]] |= one << bit
    total = 0
    for b in range(masks.shape[0]):
        ranks[b] = total
        total += bits(masks[b])
    for v in range(coords.shape[0]):
        i, j, k = coords[v, 0], coords[v, 1], coords[v, 2]
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        b = boxes[i >> 2, j >> 2, k >> 2]
        rows[ranks[b] + bits(masks[b] & ((one << bit) - one))] = v


@kernel
def sample(x, y, z, boxes, masks, ranks, rows, attributes, resolution, out):
    # Trilinear over the voxels that are there, their weights renormalised.
    one = np.uint64(1)
    gx, gy, gz = (
        (x + 0.5) * resolution - 0.5,
        (y + 0.5) * resolution - 0.5,
        (z + 0.5) * resolution - 0.5,
    )
    i0, j0, k0 = int(np.floor(gx)), int(np.floor(gy)), int(np.floor(gz))
    total = 0.0
    for c in range(6):
        out[c] = 0.0
    for corner in range(8):
        i, j, k = i0 + (corner >> 2), j0 + ((corner >> 1) & 1), k0 + (corner & 1)
        if i < 0 or j < 0 or k < 0 or i >= resolution or j >= resolution or k >= resolution:
            continue
        b = boxes[i >> 2, j >> 2, k >> 2]
        if b < 0:
            continue
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        if (masks[b] >> bit) & one == np.uint64(0):
            continue
        weight = (1.0 - abs(gx - i)) * (1.0 - abs(gy - j)) * (1.0 - abs(gz - k))
        v = rows[ranks[b] + bits(masks[b] & ((one << bit) - one))]
        total += weight
        for c in range(6):
            out[c] += weight * attributes[v, c]
    if total <= 1e-6:
        return False
    for c in range(6):
        out[c] = min(1.0, max(0.0, out[c] / total))
    return True


@kernel
def count_members(vertices, faces, low, cell, sides, flat, members):
    # First call, without members: flat[cell + 1] counts. Second: flat[cell] is the cursor.
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        i0 = int((min(vertices[a, 0], vertices[b, 0], vertices[c, 0]) - low[0]) / cell)
        i1 = int((max(vertices[a, 0], vertices[b, 0], vertices[c, 0]) - low[0]) / cell)
        j0 = int((min(vertices[a, 1], vertices[b, 1], vertices[c, 1]) - low[1]) / cell)
        j1 = int((max(vertices[a, 1], vertices[b, 1], vertices[c, 1]) - low[1]) / cell)
        k0 = int((min(vertices[a, 2], vertices[b, 2], vertices[c, 2]) - low[2]) / cell)
        k1 = int((max(vertices[a, 2], vertices[b, 2], vertices[c, 2]) - low[2]) / cell)
        for i in range(i0, min(i1, sides[0] - 1) + 1):
            for j in range(j0, min(j1, sides[1] - 1) + 1):
                for k in range(k0, min(k1, sides[2] - 1) + 1):
                    box = (i * sides[1] + j) * sides[2] + k
                    if members.shape[0] == 0:
                        flat[box + 1] += 1
                    else:
                        members[flat[box]] = f
                        flat[box] += 1


@kernel
def closest_on_face(bundles, f, px, py, pz, out):
    # Ericson, "Real-Time Collision Detection" (2005), 5.1.5: by Voronoi regions.
    ax, ay, az = np.float64(bundles[f, 6]), np.float64(bundles[f, 7]), np.float64(bundles[f, 8])
    ux, uy, uz = bundles[f, 9] - ax, bundles[f, 10] - ay, bundles[f, 11] - az
    vx, vy, vz = bundles[f, 12] - ax, bundles[f, 13] - ay, bundles[f, 14] - az
    wx, wy, wz = px - ax, py - ay, pz - az
    uu, uv, vv = (
        ux * ux + uy * uy + uz * uz,
        ux * vx + uy * vy + uz * vz,
        vx * vx + vy * vy + vz * vz,
    )
    d1, d2 = ux * wx + uy * wy + uz * wz, vx * wx + vy * wy + vz * wz
    d3, d4 = d1 - uu, d2 - uv
    d5, d6 = d1 - uv, d2 - vv
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    s, t = 0.0, 0.0
    if d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        s = 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        s = d1 / (d1 - d3) if d1 > d3 else 0.0
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
    out[0], out[1], out[2] = ax + s * ux + t * vx, ay + s * uy + t * vy, az + s * uz + t * vz
    dx, dy, dz = px - out[0], py - out[1], pz - out[2]
    return dx * dx + dy * dy + dz * dz


@kernel
def bundle(start, stop, vertices, faces, bundles):
    for f in range(start, stop):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            bundles[f, k] = min(x, y, z)
            bundles[f, 3 + k] = max(x, y, z)
            bundles[f, 6 + k] = x
            bundles[f, 9 + k] = y
            bundles[f, 12 + k] = z


@kernel
def closest(bundles, origin, cell, first, members, px, py, pz, seed, hit, trial):
    # The closest point of the surface into `hit`; its face is returned, -1 for none.
    # First the seed, for a bound; then cells in a growing box around the point, until
    # nothing outside the box can be closer.
    best_face = seed
    best = np.inf
    radius = 0.2 * cell
    if seed >= 0:
        best = closest_on_face(bundles, seed, px, py, pz, hit)
        radius = min(radius, np.sqrt(best))
    reach = np.sqrt(best)
    for _ in range(40):
        i0 = max(0, int((px - radius - origin[0]) / cell))
        j0 = max(0, int((py - radius - origin[1]) / cell))
        k0 = max(0, int((pz - radius - origin[2]) / cell))
        i1 = min(first.shape[0] - 1, int((px + radius - origin[0]) / cell))
        j1 = min(first.shape[1] - 1, int((py + radius - origin[1]) / cell))
        k1 = min(first.shape[2] - 2, int((pz + radius - origin[2]) / cell))
        if k1 >= k0:
            for i in range(i0, i1 + 1):
                for j in range(j0, j1 + 1):
                    for n in range(first[i, j, k0], first[i, j, k1 + 1]):
                        f = members[n]
                        if (
                            px < bundles[f, 0] - reach
                            or px > bundles[f, 3] + reach
                            or py < bundles[f, 1] - reach
                            or py > bundles[f, 4] + reach
                            or pz < bundles[f, 2] - reach
                            or pz > bundles[f, 5] + reach
                        ):
                            continue
                        square = closest_on_face(bundles, f, px, py, pz, trial)
                        if square < best:
                            best, best_face = square, f
                            reach = np.sqrt(best)
                            hit[0], hit[1], hit[2] = trial[0], trial[1], trial[2]
        if reach <= radius:
            break
        # Rounded up, so that the next round ends the search.
        radius = min(reach * 1.000001 + 1e-12, 4.0 * radius)
    return best_face


@kernel
def paint(
    start, stop, owner, uv, uv_faces, source, vertices,
    is_projected, bundles, origin, cell, first, members, boxes, masks, ranks, rows, attributes,
    resolution, base_color, metal_rough, covered,
):  # fmt: skip
    point, hit, trial = np.empty(3), np.empty(3), np.empty(3)
    value = np.empty(6)
    for row in range(start, stop):
        # Each row starts without a seed: where the range was cut must not show.
        seed = -1
        for column in range(owner.shape[1]):
            f = owner[row, column]
            if f == -1:
                continue
            is_gutter = f < 0
            if is_gutter:
                f = -2 - f
            a, b, c = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
            ax, ay = np.float64(uv[a, 0]), np.float64(uv[a, 1])
            ux, uy = uv[b, 0] - ax, uv[b, 1] - ay
            vx, vy = uv[c, 0] - ax, uv[c, 1] - ay
            wx, wy = column + 0.5 - ax, row + 0.5 - ay
            det = ux * vy - uy * vx
            s, t = 1.0 / 3.0, 1.0 / 3.0
            if abs(det) > 1e-12:
                s, t = (wx * vy - wy * vx) / det, (ux * wy - uy * wx) / det
            r = 1.0 - s - t
            r, s, t = max(r, 0.0), max(s, 0.0), max(t, 0.0)
            total = r + s + t
            r, s, t = r / total, s / total, t / total
            for k in range(3):
                point[k] = (
                    r * vertices[source[a], k]
                    + s * vertices[source[b], k]
                    + t * vertices[source[c], k]
                )
            hit[0], hit[1], hit[2] = point[0], point[1], point[2]
            if is_projected:
                seed = closest(
                    bundles, origin, cell, first, members,
                    point[0], point[1], point[2], seed, hit, trial,
                )  # fmt: skip
            if sample(
                hit[0], hit[1], hit[2], boxes, masks, ranks, rows, attributes, resolution, value
            ):
                for k in range(3):
                    base_color[row, column, k] = np.uint8(value[k] * 255.0 + 0.5)
                base_color[row, column, 3] = np.uint8(value[5] * 255.0 + 0.5)
                metal_rough[row, column, 0] = np.uint8(value[4] * 255.0 + 0.5)
                metal_rough[row, column, 1] = np.uint8(value[4] * 255.0 + 0.5)
                metal_rough[row, column, 2] = np.uint8(value[3] * 255.0 + 0.5)
                covered[row, column] = 2 if is_gutter else 1


@kernel
def pull(start, stop, fine, known, coarse, coarse_known):
    size = known.shape[0]
    for row in range(start, stop):
        for column in range(coarse.shape[1]):
            for c in range(fine.shape[2]):
                total, count = 0, 0
                for y in range(2 * row, min(2 * row + 2, size)):
                    for x in range(2 * column, min(2 * column + 2, size)):
                        if known[y, x] != 0:
                            total += fine[y, x, c]
                            count += 1
                if count > 0:
                    coarse[row, column, c] = np.uint8((total + count // 2) // count)
                    coarse_known[row, column] = 1


@kernel
def push(start, stop, fine, known, coarse):
    # Bilinear from the coarser level, which has no gaps any more.
    last = coarse.shape[0] - 1
    for row in range(start, stop):
        y0 = row // 2
        y1 = min(last, max(0, y0 + (1 if row % 2 == 1 else -1)))
        for column in range(known.shape[1]):
            if known[row, column] != 0:
                continue
            x0 = column // 2
            x1 = min(last, max(0, x0 + (1 if column % 2 == 1 else -1)))
            for c in range(fine.shape[2]):
                total = (
                    9 * np.int64(coarse[y0, x0, c])
                    + 3 * np.int64(coarse[y0, x1, c])
                    + 3 * np.int64(coarse[y1, x0, c])
                    + np.int64(coarse[y1, x1, c])
                )
                fine[row, column, c] = np.uint8((total + 8) // 16)
