"""Loops over texels, voxels and faces.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR2004
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.kernel import kernel

#: Texels along the edge of what `paint` counts by.
TILE = 16


@kernel
def project(start, stop, places, corners, planes, origin, cell, first, members, extents):
    for p in range(start, stop):
        _, places[p, 0], places[p, 1], places[p, 2] = closest(
            corners, planes, origin, cell, first, members, extents,
            places[p, 0], places[p, 1], places[p, 2], np.int64(-1),
        )  # fmt: skip


@kernel
def read(start, stop, places, boxes, masks, ranks, arranged, resolution, values):
    for p in range(start, stop):
        weight, a, b, c, d, e, f = sample(
            places[p, 0], places[p, 1], places[p, 2], boxes, masks, ranks, arranged, resolution
        )
        if weight > 0.0:
            values[p, 0], values[p, 1], values[p, 2] = a, b, c
            values[p, 3], values[p, 4], values[p, 5] = d, e, f


@kernel
def scan(start, stop, uv, faces, owner):
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


@kernel
def rescue(uv, faces, owner):
    # Each face takes the texel that its middle lies in, if that is free: one that covers no
    # texel's centre would have no data, and a long needle none over most of its length.
    size = owner.shape[0]
    for f in range(faces.shape[0]):
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
def arrange(start, stop, rows, attributes, arranged):
    # The attributes in brick order: neighbours along an axis are neighbours in memory.
    for n in range(start, stop):
        for c in range(6):
            arranged[n, c] = attributes[rows[n], c]


@kernel
def clamp(value):
    return min(1.0, max(0.0, value))


@kernel
def sample(x, y, z, boxes, masks, ranks, arranged, resolution):
    # Trilinear over the voxels that are there, their weights renormalised; first comes the
    # sum of the weights, 0 where there is none.
    one = np.uint64(1)
    gx, gy, gz = (
        (x + 0.5) * resolution - 0.5,
        (y + 0.5) * resolution - 0.5,
        (z + 0.5) * resolution - 0.5,
    )
    i0, j0, k0 = int(np.floor(gx)), int(np.floor(gy)), int(np.floor(gz))
    fx, fy, fz = gx - i0, gy - j0, gz - k0
    total = 0.0
    v0, v1, v2, v3, v4, v5 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for column in range(4):
        i, j = i0 + (column >> 1), j0 + (column & 1)
        if i < 0 or j < 0 or i >= resolution or j >= resolution:
            continue
        share = (fx if column >> 1 else 1.0 - fx) * (fy if column & 1 else 1.0 - fy)
        last, n = np.int64(-1), np.int64(0)
        for k in range(max(k0, 0), min(k0 + 1, resolution - 1) + 1):
            b = boxes[i >> 2, j >> 2, k >> 2]
            if b < 0:
                continue
            bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
            if (masks[b] >> bit) & one == np.uint64(0):
                continue
            # The voxel above another one of the same brick follows it.
            n = n + 1 if last == b else ranks[b] + bits(masks[b] & ((one << bit) - one))
            last = np.int64(b)
            weight = share * (fz if k > k0 else 1.0 - fz)
            total += weight
            v0 += weight * arranged[n, 0]
            v1 += weight * arranged[n, 1]
            v2 += weight * arranged[n, 2]
            v3 += weight * arranged[n, 3]
            v4 += weight * arranged[n, 4]
            v5 += weight * arranged[n, 5]
    if total <= 1e-6:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    scale = 1.0 / total
    return (
        total,
        clamp(v0 * scale),
        clamp(v1 * scale),
        clamp(v2 * scale),
        clamp(v3 * scale),
        clamp(v4 * scale),
        clamp(v5 * scale),
    )


@kernel
def span(vertices, faces, f, axis, low, cell, last):
    # The first and the last cell of a face along an axis, and its box in cells.
    a = np.float64(vertices[faces[f, 0], axis])
    b = np.float64(vertices[faces[f, 1], axis])
    c = np.float64(vertices[faces[f, 2], axis])
    near, far = (min(a, b, c) - low) / cell, (max(a, b, c) - low) / cell
    return min(int(near), last), min(int(far), last), near, far


@kernel
def count_members(vertices, faces, low, cell, flat, sides):
    # flat[cell + 1]: the faces whose box touches the cell.
    for f in range(faces.shape[0]):
        i0, i1, _, _ = span(vertices, faces, f, 0, low[0], cell, sides[0] - 1)
        j0, j1, _, _ = span(vertices, faces, f, 1, low[1], cell, sides[1] - 1)
        k0, k1, _, _ = span(vertices, faces, f, 2, low[2], cell, sides[2] - 1)
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                for k in range(k0, k1 + 1):
                    flat[(i * sides[1] + j) * sides[2] + k + 1] += 1


@kernel
def inside(near, far, i):
    # A face's box along one axis in a cell, outward to 127ths of the cell: two bytes, the
    # second counted from the far side.
    low = min(127, max(0, int((near - i) * 127.0 - 0.01)))
    high = min(127, max(0, 127 - int((far - i) * 127.0 + 1.01)))
    return np.uint64(low), np.uint64(high)


@kernel
def list_members(vertices, faces, low, cell, flat, sides, members, extents):
    # flat[cell]: where the cell's next face goes.
    for f in range(faces.shape[0]):
        i0, i1, x0, x1 = span(vertices, faces, f, 0, low[0], cell, sides[0] - 1)
        j0, j1, y0, y1 = span(vertices, faces, f, 1, low[1], cell, sides[1] - 1)
        k0, k1, z0, z1 = span(vertices, faces, f, 2, low[2], cell, sides[2] - 1)
        for i in range(i0, i1 + 1):
            a, b = inside(x0, x1, i)
            for j in range(j0, j1 + 1):
                c, d = inside(y0, y1, j)
                for k in range(k0, k1 + 1):
                    e, g = inside(z0, z1, k)
                    n = flat[(i * sides[1] + j) * sides[2] + k]
                    flat[(i * sides[1] + j) * sides[2] + k] = n + 1
                    members[n] = f
                    extents[n] = (
                        a
                        | (b << np.uint64(8))
                        | (c << np.uint64(16))
                        | (d << np.uint64(24))
                        | (e << np.uint64(32))
                        | (g << np.uint64(40))
                    )


@kernel
def bundle(start, stop, vertices, faces, corners, planes):
    # Each face's corner and two sides; its plane, and those that stand upright on its sides.
    for f in range(start, stop):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for k in range(3):
            corners[f, k] = vertices[a, k]
            corners[f, 3 + k] = vertices[b, k] - vertices[a, k]
            corners[f, 6 + k] = vertices[c, k] - vertices[a, k]
        for k in range(16):
            planes[f, k] = 0.0
        ux, uy, uz = np.float64(corners[f, 3]), np.float64(corners[f, 4]), np.float64(corners[f, 5])
        vx, vy, vz = np.float64(corners[f, 6]), np.float64(corners[f, 7]), np.float64(corners[f, 8])
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        square = nx * nx + ny * ny + nz * nz
        # A sliver's planes may be wrong: without any, it is never passed by.
        if square <= 1e-6 * (ux * ux + uy * uy + uz * uz) * (vx * vx + vy * vy + vz * vz):
            continue
        scale = 1.0 / np.sqrt(square)
        nx, ny, nz = nx * scale, ny * scale, nz * scale
        x, y, z = np.float64(corners[f, 0]), np.float64(corners[f, 1]), np.float64(corners[f, 2])
        planes[f, 0], planes[f, 1], planes[f, 2] = nx, ny, nz
        planes[f, 3] = -(nx * x + ny * y + nz * z)
        for side in range(3):
            ex, ey, ez = ux, uy, uz
            if side == 1:
                ex, ey, ez = vx - ux, vy - uy, vz - uz
                x, y, z = x + ux, y + uy, z + uz
            elif side == 2:
                ex, ey, ez = -vx, -vy, -vz
                x, y, z = x - ux, y - uy, z - uz
            mx, my, mz = ey * nz - ez * ny, ez * nx - ex * nz, ex * ny - ey * nx
            scale = 1.0 / np.sqrt(mx * mx + my * my + mz * mz)
            mx, my, mz = mx * scale, my * scale, mz * scale
            planes[f, 4 * side + 4], planes[f, 4 * side + 5] = mx, my
            planes[f, 4 * side + 6] = mz
            planes[f, 4 * side + 7] = -(mx * x + my * y + mz * z)


@kernel
def at_least(planes, f, px, py, pz):
    # A bound under the squared distance to a face; to one inside or beside a side, it itself.
    out = max(
        np.float32(0.0),
        planes[f, 4] * px + planes[f, 5] * py + planes[f, 6] * pz + planes[f, 7],
        planes[f, 8] * px + planes[f, 9] * py + planes[f, 10] * pz + planes[f, 11],
        planes[f, 12] * px + planes[f, 13] * py + planes[f, 14] * pz + planes[f, 15],
    )
    up = planes[f, 0] * px + planes[f, 1] * py + planes[f, 2] * pz + planes[f, 3]
    return out * out + up * up


@kernel
def closest_on_face(corners, f, px, py, pz):
    # Ericson, "Real-Time Collision Detection" (2005), 5.1.5: by Voronoi regions.
    ax, ay, az = np.float64(corners[f, 0]), np.float64(corners[f, 1]), np.float64(corners[f, 2])
    ux, uy, uz = np.float64(corners[f, 3]), np.float64(corners[f, 4]), np.float64(corners[f, 5])
    vx, vy, vz = np.float64(corners[f, 6]), np.float64(corners[f, 7]), np.float64(corners[f, 8])
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
    if min(va, vb, vc) > 0.0:
        whole = 1.0 / (va + vb + vc)
        s, t = vb * whole, vc * whole
    elif d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        s = 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        s = d1 / (d1 - d3) if d1 > d3 else 0.0
    elif d6 >= 0.0 and d5 <= d6:
        t = 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        t = d2 / (d2 - d6) if d2 > d6 else 0.0
    else:
        whole = (d4 - d3) + (d5 - d6)
        t = min(1.0, max(0.0, (d4 - d3) / whole)) if whole > 0.0 else 0.0
        s = 1.0 - t
    x, y, z = ax + s * ux + t * vx, ay + s * uy + t * vy, az + s * uz + t * vz
    dx, dy, dz = px - x, py - y, pz - z
    return dx * dx + dy * dy + dz * dz, x, y, z


@kernel
def asked(near, far, i):
    # A searched range along one axis in a cell, outward, against the bytes of `inside`: each
    # with a guard bit, which a subtraction clears where the two do not overlap.
    low = min(127, max(0, int((near - i) * 127.0 - 0.01)))
    high = min(127, max(0, int((far - i) * 127.0 + 1.01)))
    return np.uint64(128 + high), np.uint64(255 - low)


@kernel
def closest(corners, planes, origin, cell, first, members, extents, px, py, pz, seed):
    # seed: int64. The closest face, -1 for none, and the point of it.
    # First the seed, for a bound; then cells in a growing box around the point, until
    # nothing outside the box can be closer.
    guard = np.uint64(0x808080808080)
    # What the planes' rounding may add to a distance.
    slack = 4e-7
    nx, ny, nz = np.float32(px), np.float32(py), np.float32(pz)
    best_face = seed
    best, hit_x, hit_y, hit_z = np.inf, px, py, pz
    radius = 0.2 * cell
    if seed >= 0:
        best, hit_x, hit_y, hit_z = closest_on_face(corners, seed, px, py, pz)
        radius = min(radius, np.sqrt(best) * 1.000001 + 1e-12)
    reach = np.sqrt(best)
    limit = (reach + slack) * (reach + slack)
    per = 1.0 / cell
    gx, gy, gz = (px - origin[0]) * per, (py - origin[1]) * per, (pz - origin[2]) * per
    for _ in range(40):
        wide = radius * per
        i0, i1 = max(0, int(gx - wide)), min(first.shape[0] - 1, int(gx + wide))
        j0, j1 = max(0, int(gy - wide)), min(first.shape[1] - 1, int(gy + wide))
        k0, k1 = max(0, int(gz - wide)), min(first.shape[2] - 2, int(gz + wide))
        for i in range(i0, i1 + 1):
            x_high, x_low = asked(gx - wide, gx + wide, i)
            for j in range(j0, j1 + 1):
                y_high, y_low = asked(gy - wide, gy + wide, j)
                for k in range(k0, k1 + 1):
                    start, stop = first[i, j, k], first[i, j, k + 1]
                    if start == stop:
                        continue
                    z_high, z_low = asked(gz - wide, gz + wide, k)
                    query = (
                        x_high
                        | (x_low << np.uint64(8))
                        | (y_high << np.uint64(16))
                        | (y_low << np.uint64(24))
                        | (z_high << np.uint64(32))
                        | (z_low << np.uint64(40))
                    )
                    # Unsigned: a negative index would have to be looked for at each step.
                    for n in range(np.uint64(start), np.uint64(stop)):
                        if (query - extents[n]) & guard != guard:
                            continue
                        f = np.int64(members[n])
                        if f == seed or at_least(planes, f, nx, ny, nz) > limit:
                            continue
                        square, x, y, z = closest_on_face(corners, f, px, py, pz)
                        if square < best:
                            best, best_face = square, f
                            reach = np.sqrt(best)
                            limit = (reach + slack) * (reach + slack)
                            hit_x, hit_y, hit_z = x, y, z
        if reach <= radius:
            break
        # Rounded up, so that the next round ends the search.
        radius = min(reach * 1.000001 + 1e-12, 4.0 * radius)
    return best_face, hit_x, hit_y, hit_z


@kernel
def paint(
    start, stop, owner, uv, uv_faces, source, vertices,
    is_projected, corners, planes, origin, cell, first, members, extents,
    boxes, masks, ranks, arranged, resolution, base_color, metal_rough, covered,
):  # fmt: skip
    # Tile by tile, to and fro: what one texel needs is still at hand for the next.
    size = owner.shape[0]
    for tile in range(start, stop):
        # Each tile starts without a seed: where the range was cut must not show.
        seed = np.int64(-1)
        before = -1
        ax, ay, ux, uy, vx, vy, det = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        a, b, c = 0, 0, 0
        across = (size + TILE - 1) // TILE
        top, left = TILE * (tile // across), TILE * (tile % across)
        right = min(left + TILE, size)
        for row in range(top, min(top + TILE, size)):
            for step in range(right - left):
                column = right - 1 - step if row % 2 == 1 else left + step
                f = owner[row, column]
                if f == -1:
                    continue
                is_gutter = f < 0
                if is_gutter:
                    f = -2 - f
                if f != before:
                    before = f
                    a, b, c = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
                    ax, ay = np.float64(uv[a, 0]), np.float64(uv[a, 1])
                    ux, uy = uv[b, 0] - ax, uv[b, 1] - ay
                    vx, vy = uv[c, 0] - ax, uv[c, 1] - ay
                    det = ux * vy - uy * vx
                    a, b, c = source[a], source[b], source[c]
                wx, wy = column + 0.5 - ax, row + 0.5 - ay
                s, t = 1.0 / 3.0, 1.0 / 3.0
                if abs(det) > 1e-12:
                    s, t = (wx * vy - wy * vx) / det, (ux * wy - uy * wx) / det
                r = 1.0 - s - t
                r, s, t = max(r, 0.0), max(s, 0.0), max(t, 0.0)
                total = r + s + t
                r, s, t = r / total, s / total, t / total
                x = r * vertices[a, 0] + s * vertices[b, 0] + t * vertices[c, 0]
                y = r * vertices[a, 1] + s * vertices[b, 1] + t * vertices[c, 1]
                z = r * vertices[a, 2] + s * vertices[b, 2] + t * vertices[c, 2]
                if is_projected:
                    seed, x, y, z = closest(
                        corners, planes, origin, cell, first, members, extents, x, y, z, seed
                    )
                weight, red, green, blue, metallic, roughness, alpha = sample(
                    x, y, z, boxes, masks, ranks, arranged, resolution
                )
                if weight > 0.0:
                    base_color[row, column, 0] = np.uint8(red * 255.0 + 0.5)
                    base_color[row, column, 1] = np.uint8(green * 255.0 + 0.5)
                    base_color[row, column, 2] = np.uint8(blue * 255.0 + 0.5)
                    base_color[row, column, 3] = np.uint8(alpha * 255.0 + 0.5)
                    metal_rough[row, column, 0] = np.uint8(roughness * 255.0 + 0.5)
                    metal_rough[row, column, 1] = np.uint8(roughness * 255.0 + 0.5)
                    metal_rough[row, column, 2] = np.uint8(metallic * 255.0 + 0.5)
                    covered[row, column] = 2 if is_gutter else 1


@kernel
def mean(total, count):
    # Rounded; a shift where it can be one.
    return (total + 2) >> 2 if count == 4 else (total + count // 2) // count


@kernel
def pull(start, stop, base, metal, known, coarse_base, coarse_metal, coarse_known):
    # Half as wide, half as high: the mean of the known ones of four texels.
    size = known.shape[0]
    for row in range(start, stop):
        for column in range(coarse_known.shape[1]):
            count = 0
            red, green, blue, alpha, roughness, metallic = 0, 0, 0, 0, 0, 0
            for y in range(2 * row, min(2 * row + 2, size)):
                for x in range(2 * column, min(2 * column + 2, size)):
                    if known[y, x] != 0:
                        count += 1
                        red += base[y, x, 0]
                        green += base[y, x, 1]
                        blue += base[y, x, 2]
                        alpha += base[y, x, 3]
                        roughness += metal[y, x, 1]
                        metallic += metal[y, x, 2]
            coarse_known[row, column] = count
            if count > 0:
                coarse_base[row, column, 0] = mean(red, count)
                coarse_base[row, column, 1] = mean(green, count)
                coarse_base[row, column, 2] = mean(blue, count)
                coarse_base[row, column, 3] = mean(alpha, count)
                coarse_metal[row, column, 0] = mean(roughness, count)
                coarse_metal[row, column, 1] = mean(roughness, count)
                coarse_metal[row, column, 2] = mean(metallic, count)


@kernel
def blend(coarse, y0, y1, x0, x1, c):
    total = 9 * np.int64(coarse[y0, x0, c]) + 3 * np.int64(coarse[y0, x1, c])
    total += 3 * np.int64(coarse[y1, x0, c]) + np.int64(coarse[y1, x1, c])
    return np.uint8((total + 8) >> 4)


@kernel
def push(start, stop, base, metal, known, coarse_base, coarse_metal):
    # Bilinear from the coarser level, which has no gaps any more.
    last = coarse_base.shape[0] - 1
    for row in range(start, stop):
        y0 = row // 2
        y1 = min(last, max(0, y0 + (1 if row % 2 == 1 else -1)))
        for column in range(known.shape[1]):
            if known[row, column] != 0:
                continue
            x0 = column // 2
            x1 = min(last, max(0, x0 + (1 if column % 2 == 1 else -1)))
            for c in range(4):
                base[row, column, c] = blend(coarse_base, y0, y1, x0, x1, c)
            for c in range(3):
                metal[row, column, c] = blend(coarse_metal, y0, y1, x0, x1, c)
