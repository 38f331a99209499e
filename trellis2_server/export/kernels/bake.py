"""Loops that bake a voxel field into textures.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel

#: Edge of a tile of `bake_tiles`, texels.
TILE = 16


@kernel
def project_points(
    start, stop, points, corners, planes, origin, cell, first, members, extents, flag
):
    for p in range(start, stop):
        if is_cancelled(flag):
            return
        _, points[p, 0], points[p, 1], points[p, 2] = closest_point(
            corners, planes, origin, cell, first, members, extents,
            points[p, 0], points[p, 1], points[p, 2], np.int64(-1),
        )  # fmt: skip


@kernel
def sample_points(start, stop, points, brick_of, masks, ranks, arranged, resolution, values, flag):
    for p in range(start, stop):
        if p & 1023 == 0 and is_cancelled(flag):
            return
        weight, a, b, c, d, e, f = sample(
            points[p, 0], points[p, 1], points[p, 2], brick_of, masks, ranks, arranged, resolution
        )
        if weight > 0.0:
            values[p, 0], values[p, 1], values[p, 2] = a, b, c
            values[p, 3], values[p, 4], values[p, 5] = d, e, f


@kernel
def rasterize_rows(start, stop, uv, faces, owner, flag):
    size = owner.shape[1]
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ay, by, cy = np.float64(uv[a, 1]), np.float64(uv[b, 1]), np.float64(uv[c, 1])
        first_row = max(start, int(np.ceil(min(ay, by, cy) - 0.5)))
        last_row = min(stop - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        if first_row > last_row:
            continue
        ax, bx, cx = np.float64(uv[a, 0]), np.float64(uv[b, 0]), np.float64(uv[c, 0])
        for row in range(first_row, last_row + 1):
            if is_cancelled(flag):
                return
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
def claim_centres(uv, faces, owner, flag):
    # Assign the texel at the centroid of each face to the face if it is free. Otherwise faces that
    # cover no texel's centre would have no data, nor would long slivers over most of their length.
    size = owner.shape[0]
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        x = (uv[faces[f, 0], 0] + uv[faces[f, 1], 0] + uv[faces[f, 2], 0]) / 3.0
        y = (uv[faces[f, 0], 1] + uv[faces[f, 1], 1] + uv[faces[f, 2], 1]) / 3.0
        column = min(size - 1, max(0, int(x)))
        row = min(size - 1, max(0, int(y)))
        if owner[row, column] == -1:
            owner[row, column] = f


@kernel
def dilate(start, stop, owner, dilated, flag):
    size = owner.shape[0]
    for row in range(start, stop):
        if is_cancelled(flag):
            return
        for column in range(size):
            value = owner[row, column]
            if value == -1:
                for i in range(8):
                    # The four edge neighbours first, then the corners.
                    dy = (-1, 0, 0, 1, -1, -1, 1, 1)[i]
                    dx = (0, -1, 1, 0, -1, 1, -1, 1)[i]
                    y, x = row + dy, column + dx
                    if 0 <= y < size and 0 <= x < size and owner[y, x] != -1:
                        near = owner[y, x]
                        value = -2 - near if near >= 0 else near
                        break
            dilated[row, column] = value


@kernel
def count_bricks(coords, brick_of, flag):
    bricks = 0
    for v in range(coords.shape[0]):
        if v & 1023 == 0 and is_cancelled(flag):
            return 0
        i, j, k = coords[v, 0] >> 2, coords[v, 1] >> 2, coords[v, 2] >> 2
        if brick_of[i, j, k] < 0:
            brick_of[i, j, k] = bricks
            bricks += 1
    return bricks


@kernel
def count_bits(mask):
    mask = mask - ((mask >> np.uint64(1)) & np.uint64(0x5555555555555555))
    mask = (mask & np.uint64(0x3333333333333333)) + (
        (mask >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    mask = (mask + (mask >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((mask * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def rank_voxels(coords, brick_of, masks, ranks, rows, flag):
    one = np.uint64(1)
    for v in range(coords.shape[0]):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        i, j, k = coords[v, 0], coords[v, 1], coords[v, 2]
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        masks[brick_of[i >> 2, j >> 2, k >> 2]] |= one << bit
    total = 0
    for b in range(masks.shape[0]):
        if b & 1023 == 0 and is_cancelled(flag):
            return
        ranks[b] = total
        total += count_bits(masks[b])
    for v in range(coords.shape[0]):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        i, j, k = coords[v, 0], coords[v, 1], coords[v, 2]
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        b = brick_of[i >> 2, j >> 2, k >> 2]
        rows[ranks[b] + count_bits(masks[b] & ((one << bit) - one))] = v


@kernel
def gather_attributes(start, stop, rows, attributes, arranged, flag):
    # Attributes in brick order: neighbours along z are adjacent in memory.
    for n in range(start, stop):
        if n & 1023 == 0 and is_cancelled(flag):
            return
        for c in range(6):
            arranged[n, c] = attributes[rows[n], c]


@kernel
def clamp(value):
    return min(1.0, max(0.0, value))


@kernel
def sample(x, y, z, brick_of, masks, ranks, arranged, resolution):
    # Trilinear interpolation over the voxels present, with renormalised weights. Returns the sum of
    # the weights, 0 if no voxel is present, and the six attributes.
    one = np.uint64(1)
    gx, gy, gz = (
        (x + 0.5) * resolution - 0.5,
        (y + 0.5) * resolution - 0.5,
        (z + 0.5) * resolution - 0.5,
    )
    i0, j0, k0 = int(np.floor(gx)), int(np.floor(gy)), int(np.floor(gz))
    fx, fy, fz = np.float32(gx - i0), np.float32(gy - j0), np.float32(gz - k0)
    unit = np.float32(1.0)
    total = v0 = v1 = v2 = v3 = v4 = v5 = np.float32(0.0)
    for column in range(4):
        i, j = i0 + (column >> 1), j0 + (column & 1)
        if i < 0 or j < 0 or i >= resolution or j >= resolution:
            continue
        share = (fx if column >> 1 else unit - fx) * (fy if column & 1 else unit - fy)
        last, n = np.int64(-1), np.int64(0)
        for k in range(max(k0, 0), min(k0 + 1, resolution - 1) + 1):
            b = brick_of[i >> 2, j >> 2, k >> 2]
            if b < 0:
                continue
            bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
            if (masks[b] >> bit) & one == np.uint64(0):
                continue
            # The next voxel along z in the same brick is the next row.
            n = n + 1 if last == b else ranks[b] + count_bits(masks[b] & ((one << bit) - one))
            last = np.int64(b)
            weight = share * (fz if k > k0 else unit - fz)
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
        np.float64(total),
        clamp(v0 * scale),
        clamp(v1 * scale),
        clamp(v2 * scale),
        clamp(v3 * scale),
        clamp(v4 * scale),
        clamp(v5 * scale),
    )


@kernel
def cell_range(vertices, faces, f, axis, low, cell, last):
    # The first and last cell of a face along an axis, and its extent in cells.
    a = np.float64(vertices[faces[f, 0], axis])
    b = np.float64(vertices[faces[f, 1], axis])
    c = np.float64(vertices[faces[f, 2], axis])
    near, far = (min(a, b, c) - low) / cell, (max(a, b, c) - low) / cell
    return min(int(near), last), min(int(far), last), near, far


@kernel
def count_members(vertices, faces, low, cell, flat, sides, limit, flag):
    # flat[cell + 1]: number of faces whose bounding box touches the cell. Returns their sum; stops
    # above the limit.
    total = 0
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return total
        i0, i1, _, _ = cell_range(vertices, faces, f, 0, low[0], cell, sides[0] - 1)
        j0, j1, _, _ = cell_range(vertices, faces, f, 1, low[1], cell, sides[1] - 1)
        k0, k1, _, _ = cell_range(vertices, faces, f, 2, low[2], cell, sides[2] - 1)
        total += (i1 - i0 + 1) * (j1 - j0 + 1) * (k1 - k0 + 1)
        if total > limit:
            break
        for i in range(i0, i1 + 1):
            if is_cancelled(flag):
                return total
            for j in range(j0, j1 + 1):
                for k in range(k0, k1 + 1):
                    flat[(i * sides[1] + j) * sides[2] + k + 1] += 1
    return total


@kernel
def quantize_extent(near, far, i):
    # Extent of a face along one axis within a cell, rounded outward to 127ths of the cell: two
    # bytes, the second counted from the far side.
    low = min(127, max(0, int((near - i) * 127.0 - 0.01)))
    high = min(127, max(0, 127 - int((far - i) * 127.0 + 1.01)))
    return np.uint64(low), np.uint64(high)


@kernel
def list_members(vertices, faces, low, cell, flat, sides, members, extents, flag):
    # flat[cell]: index in `members` of the next face of the cell.
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return
        i0, i1, x0, x1 = cell_range(vertices, faces, f, 0, low[0], cell, sides[0] - 1)
        j0, j1, y0, y1 = cell_range(vertices, faces, f, 1, low[1], cell, sides[1] - 1)
        k0, k1, z0, z1 = cell_range(vertices, faces, f, 2, low[2], cell, sides[2] - 1)
        for i in range(i0, i1 + 1):
            if is_cancelled(flag):
                return
            a, b = quantize_extent(x0, x1, i)
            for j in range(j0, j1 + 1):
                c, d = quantize_extent(y0, y1, j)
                for k in range(k0, k1 + 1):
                    e, g = quantize_extent(z0, z1, k)
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
def precompute_faces(start, stop, vertices, faces, corners, planes, flag):
    # corners: first corner and two edge vectors. planes: the plane of the face, and the three
    # planes perpendicular to it through its edges.
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
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
        # The planes of a sliver may be inaccurate. With zeros it is never skipped.
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
def distance_bound(planes, f, px, py, pz):
    # Lower bound of the squared distance to a face; exact over the face and beside its edges.
    outside = max(
        np.float32(0.0),
        planes[f, 4] * px + planes[f, 5] * py + planes[f, 6] * pz + planes[f, 7],
        planes[f, 8] * px + planes[f, 9] * py + planes[f, 10] * pz + planes[f, 11],
        planes[f, 12] * px + planes[f, 13] * py + planes[f, 14] * pz + planes[f, 15],
    )
    above = planes[f, 0] * px + planes[f, 1] * py + planes[f, 2] * pz + planes[f, 3]
    return outside * outside + above * above


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
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0 and d1 > d3:  # not if the edge is a point
        s = d1 / (d1 - d3)
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
def quantize_query(near, far, i):
    # Search range along one axis in a cell, rounded outward, to be compared with the bytes of
    # `quantize_extent`: subtracting these clears the guard bit of a byte if the ranges are
    # disjoint.
    low = min(127, max(0, int((near - i) * 127.0 - 0.01)))
    high = min(127, max(0, int((far - i) * 127.0 + 1.01)))
    return np.uint64(128 + high), np.uint64(255 - low)


@kernel
def closest_point(corners, planes, origin, cell, first, members, extents, px, py, pz, seed):
    # Returns the closest face, -1 if there is none, and its closest point. seed: int64, a face that
    # is probably close, or -1. The seed gives a bound; then a growing box of cells around the
    # point is searched until nothing outside the box can be closer.
    guard_bits = np.uint64(0x808080808080)
    # Upper bound of the rounding error of a distance to a plane.
    rounding = 4e-7
    nx, ny, nz = np.float32(px), np.float32(py), np.float32(pz)
    best_face = seed
    best, hit_x, hit_y, hit_z = np.inf, px, py, pz
    radius = 0.2 * cell
    if seed >= 0:
        best, hit_x, hit_y, hit_z = closest_on_face(corners, seed, px, py, pz)
        radius = min(radius, np.sqrt(best) * 1.000001 + 1e-12)
    reach = np.sqrt(best)
    limit = (reach + rounding) * (reach + rounding)
    per = 1.0 / cell
    gx, gy, gz = (px - origin[0]) * per, (py - origin[1]) * per, (pz - origin[2]) * per
    for _ in range(40):
        radius_cells = radius * per
        i0, i1 = max(0, int(gx - radius_cells)), min(first.shape[0] - 1, int(gx + radius_cells))
        j0, j1 = max(0, int(gy - radius_cells)), min(first.shape[1] - 1, int(gy + radius_cells))
        k0, k1 = max(0, int(gz - radius_cells)), min(first.shape[2] - 2, int(gz + radius_cells))
        for i in range(i0, i1 + 1):
            x_high, x_low = quantize_query(gx - radius_cells, gx + radius_cells, i)
            for j in range(j0, j1 + 1):
                y_high, y_low = quantize_query(gy - radius_cells, gy + radius_cells, j)
                for k in range(k0, k1 + 1):
                    start, stop = first[i, j, k], first[i, j, k + 1]
                    if start == stop:
                        continue
                    z_high, z_low = quantize_query(gz - radius_cells, gz + radius_cells, k)
                    query = (
                        x_high
                        | (x_low << np.uint64(8))
                        | (y_high << np.uint64(16))
                        | (y_low << np.uint64(24))
                        | (z_high << np.uint64(32))
                        | (z_low << np.uint64(40))
                    )
                    # Unsigned: saves a test for negative indices in each iteration.
                    for n in range(np.uint64(start), np.uint64(stop)):
                        if (query - extents[n]) & guard_bits != guard_bits:
                            continue
                        f = np.int64(members[n])
                        if f == seed or distance_bound(planes, f, nx, ny, nz) > limit:
                            continue
                        square, x, y, z = closest_on_face(corners, f, px, py, pz)
                        if square < best:
                            best, best_face = square, f
                            reach = np.sqrt(best)
                            limit = (reach + rounding) * (reach + rounding)
                            hit_x, hit_y, hit_z = x, y, z
        if reach <= radius:
            break
        # Rounded up, so that the next iteration ends the search.
        radius = min(reach * 1.000001 + 1e-12, 4.0 * radius)
    return best_face, hit_x, hit_y, hit_z


@kernel
def bake_tiles(
    start, stop, owner, uv, uv_faces, source, vertices,
    is_projected, corners, planes, origin, cell, first, members, extents,
    brick_of, masks, ranks, arranged, resolution, base_color, metal_rough, covered, flag,
):  # fmt: skip
    # Tile by tile, in alternating directions: adjacent texels use the same data.
    size = owner.shape[0]
    for tile in range(start, stop):
        if is_cancelled(flag):
            return
        # No seed at the start of a tile: the result must not depend on how the range was split.
        seed = np.int64(-1)
        previous = -1
        ax, ay, ux, uy, vx, vy, det = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        a, b, c = 0, 0, 0
        across = (size + TILE - 1) // TILE
        top, left = TILE * (tile // across), TILE * (tile % across)
        right = min(left + TILE, size)
        for row in range(top, min(top + TILE, size)):
            if is_cancelled(flag):
                return
            for step in range(right - left):
                column = right - 1 - step if row % 2 == 1 else left + step
                f = owner[row, column]
                if f == -1:
                    continue
                is_gutter = f < 0
                if is_gutter:
                    f = -2 - f
                if f != previous:
                    previous = f
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
                    seed, x, y, z = closest_point(
                        corners, planes, origin, cell, first, members, extents, x, y, z, seed
                    )
                weight, red, green, blue, metallic, roughness, alpha = sample(
                    x, y, z, brick_of, masks, ranks, arranged, resolution
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
def compare_normals(
    start, stop, points, normals, corners, planes, origin, cell, first, members, extents, cosines,
    flag,
):  # fmt: skip
    # Cosine between a normal and that of the closest face to its point, whatever its winding.
    for p in range(start, stop):
        if is_cancelled(flag):
            return
        f, _, _, _ = closest_point(
            corners, planes, origin, cell, first, members, extents,
            points[p, 0], points[p, 1], points[p, 2], np.int64(-1),
        )  # fmt: skip
        cosines[p] = abs(
            normals[p, 0] * planes[f, 0]
            + normals[p, 1] * planes[f, 1]
            + normals[p, 2] * planes[f, 2]
        )


@kernel
def aligned(normals, faces, g, k, nx, ny, nz):
    # The normal at a corner of a face of the original, turned to the face's own side.
    v = faces[g, k]
    x, y, z = np.float64(normals[v, 0]), np.float64(normals[v, 1]), np.float64(normals[v, 2])
    return (-x, -y, -z) if x * nx + y * ny + z * nz < 0.0 else (x, y, z)


@kernel
def original_normal(corners, planes, faces, normals, g, px, py, pz):
    # Normal of the original at a point of its face g, interpolated; its length is not 1.
    ux, uy, uz = np.float64(corners[g, 3]), np.float64(corners[g, 4]), np.float64(corners[g, 5])
    vx, vy, vz = np.float64(corners[g, 6]), np.float64(corners[g, 7]), np.float64(corners[g, 8])
    wx, wy, wz = px - corners[g, 0], py - corners[g, 1], pz - corners[g, 2]
    uu, uv, vv = (
        ux * ux + uy * uy + uz * uz,
        ux * vx + uy * vy + uz * vz,
        vx * vx + vy * vy + vz * vz,
    )
    wu, wv = wx * ux + wy * uy + wz * uz, wx * vx + wy * vy + wz * vz
    det = uu * vv - uv * uv
    s, t = 1.0 / 3.0, 1.0 / 3.0
    if det > 1e-12 * uu * vv:
        s = min(1.0, max(0.0, (wu * vv - wv * uv) / det))
        t = min(1.0 - s, max(0.0, (wv * uu - wu * uv) / det))
    nx, ny, nz = np.float64(planes[g, 0]), np.float64(planes[g, 1]), np.float64(planes[g, 2])
    ax, ay, az = aligned(normals, faces, g, 0, nx, ny, nz)
    bx, by, bz = aligned(normals, faces, g, 1, nx, ny, nz)
    cx, cy, cz = aligned(normals, faces, g, 2, nx, ny, nz)
    r = 1.0 - s - t
    return r * ax + s * bx + t * cx, r * ay + s * by + t * cy, r * az + s * bz + t * cz


@kernel
def sample_normals(
    start, stop, step, owner, chart, uv, uv_faces, source, vertices, normals,
    corners, planes, origin, cell, first, members, extents, original_faces, original_normals,
    charts, found, flag,
):  # fmt: skip
    # Blocks of step x step texels, one sample each: the normal of the original at its closest
    # point, on the side of the mesh's own. Tiles of blocks, like those of texels in `bake_tiles`.
    # charts: the chart of each sample, -1: none.
    size = owner.shape[0]
    across = (charts.shape[1] + TILE - 1) // TILE
    for tile in range(start, stop):
        seed = np.int64(-1)
        top, left = TILE * (tile // across), TILE * (tile % across)
        right = min(left + TILE, charts.shape[1])
        for n in range(TILE * TILE):
            row, turn = top + n // TILE, n % TILE
            block = left + (TILE - 1 - turn if row % 2 == 1 else turn)
            if row >= charts.shape[0] or block >= right:
                continue
            if is_cancelled(flag):
                return
            # The texel closest to the middle; any other of the block is better than none.
            y, x = min(size - 1, row * step + step // 2), min(size - 1, block * step + step // 2)
            f = owner[y, x]
            for i in range(step * step):
                if f >= 0:
                    break
                y, x = min(size - 1, row * step + i // step), min(size - 1, block * step + i % step)
                f = owner[y, x]
            charts[row, block] = -1
            if f < 0:
                continue
            a, b, c = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
            # The middle of the block: samples lie on a grid.
            r, s, t = shares(uv, a, b, c, (block + 0.5) * step, (row + 0.5) * step)
            a, b, c = source[a], source[b], source[c]
            px = r * vertices[a, 0] + s * vertices[b, 0] + t * vertices[c, 0]
            py = r * vertices[a, 1] + s * vertices[b, 1] + t * vertices[c, 1]
            pz = r * vertices[a, 2] + s * vertices[b, 2] + t * vertices[c, 2]
            seed, px, py, pz = closest_point(
                corners, planes, origin, cell, first, members, extents, px, py, pz, seed
            )
            mx, my, mz = original_normal(
                corners, planes, original_faces, original_normals, seed, px, py, pz
            )
            nx = r * normals[a, 0] + s * normals[b, 0] + t * normals[c, 0]
            ny = r * normals[a, 1] + s * normals[b, 1] + t * normals[c, 1]
            nz = r * normals[a, 2] + s * normals[b, 2] + t * normals[c, 2]
            length = np.sqrt(mx * mx + my * my + mz * mz)
            if length < 1e-6:
                mx, my, mz, length = nx, ny, nz, max(1e-12, np.sqrt(nx * nx + ny * ny + nz * nz))
            # Otherwise the closest point is on the other side of a wall, or wound inward.
            scale = (1.0 if mx * nx + my * ny + mz * nz >= 0.0 else -1.0) / length
            charts[row, block] = chart[f]
            found[row, block, 0] = mx * scale
            found[row, block, 1] = my * scale
            found[row, block, 2] = mz * scale


@kernel
def shares(uv, a, b, c, x, y):
    # Barycentric coordinates of a point of the texture in a face, moved into it.
    ax, ay = np.float64(uv[a, 0]), np.float64(uv[a, 1])
    ux, uy = uv[b, 0] - ax, uv[b, 1] - ay
    vx, vy = uv[c, 0] - ax, uv[c, 1] - ay
    det = ux * vy - uy * vx
    s, t = 1.0 / 3.0, 1.0 / 3.0
    if abs(det) > 1e-12:
        wx, wy = x - ax, y - ay
        s, t = (wx * vy - wy * vx) / det, (ux * wy - uy * wx) / det
    r = 1.0 - s - t
    if r >= 0.0 and s >= 0.0 and t >= 0.0:
        return r, s, t
    r, s, t = max(r, 0.0), max(s, 0.0), max(t, 0.0)
    total = r + s + t
    return r / total, s / total, t / total


@kernel
def turn_normals(
    start, stop, step, owner, chart, uv, uv_faces, source, normals, tangents, charts, samples,
    normal_map, covered, flag,
):  # fmt: skip
    # The samples of a texel's own chart, interpolated, in the frame of the interpolated normal and
    # tangent of the mesh.
    size = owner.shape[0]
    zero, one, least = np.float32(0), np.float32(1), np.float32(1e-12)
    for row in range(start, stop):
        if is_cancelled(flag):
            return
        gy = (row + 0.5) / step - 0.5
        j = int(np.floor(gy))
        lower = np.float32(gy - j)
        first_row, last_row = max(j, 0), min(j + 1, charts.shape[0] - 1)
        previous = -1
        own, hand = -1, one
        ax, ay, ux, uy, vx, vy, per = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        nx0, ny0, nz0, nx1, ny1, nz1, nx2, ny2, nz2 = (
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
        )
        tx0, ty0, tz0, tx1, ty1, tz1, tx2, ty2, tz2 = (
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
        )
        for column in range(size):
            f = owner[row, column]
            if f == -1:
                continue
            f = -2 - f if f < 0 else f
            if f != previous:
                previous = f
                own = chart[f]
                a, b, c = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
                ax, ay = np.float64(uv[a, 0]), np.float64(uv[a, 1])
                ux, uy, vx, vy = uv[b, 0] - ax, uv[b, 1] - ay, uv[c, 0] - ax, uv[c, 1] - ay
                det = ux * vy - uy * vx
                per = 1.0 / det if abs(det) > 1e-12 else 0.0
                hand = tangents[a, 3]
                tx0, ty0, tz0 = tangents[a, 0], tangents[a, 1], tangents[a, 2]
                tx1, ty1, tz1 = tangents[b, 0], tangents[b, 1], tangents[b, 2]
                tx2, ty2, tz2 = tangents[c, 0], tangents[c, 1], tangents[c, 2]
                a, b, c = source[a], source[b], source[c]
                nx0, ny0, nz0 = normals[a, 0], normals[a, 1], normals[a, 2]
                nx1, ny1, nz1 = normals[b, 0], normals[b, 1], normals[b, 2]
                nx2, ny2, nz2 = normals[c, 0], normals[c, 1], normals[c, 2]
            gx = (column + 0.5) / step - 0.5
            i = int(np.floor(gx))
            beside = np.float32(gx - i)
            mx, my, mz, weights = zero, zero, zero, zero
            first_column, last_column = max(i, 0), min(i + 1, charts.shape[1] - 1)
            for n in range(4):
                y = last_row if n >= 2 else first_row
                x = last_column if n & 1 else first_column
                if charts[y, x] != own:
                    continue
                weight = np.float32(1e-6) + (lower if n >= 2 else one - lower) * (
                    beside if n & 1 else one - beside
                )
                mx += weight * samples[y, x, 0]
                my += weight * samples[y, x, 1]
                mz += weight * samples[y, x, 2]
                weights += weight
            if weights == 0.0:
                continue  # like texels outside: the mean of the nearest ones
            s, t = 1.0 / 3.0, 1.0 / 3.0
            if per != 0.0:
                wx, wy = column + 0.5 - ax, row + 0.5 - ay
                s, t = (wx * vy - wy * vx) * per, (ux * wy - uy * wx) * per
            r = 1.0 - s - t
            if r < 0.0 or s < 0.0 or t < 0.0:
                r, s, t = max(r, 0.0), max(s, 0.0), max(t, 0.0)
                total = r + s + t
                r, s, t = r / total, s / total, t / total
            p, q, o = np.float32(r), np.float32(s), np.float32(t)
            nx = p * nx0 + q * nx1 + o * nx2
            ny = p * ny0 + q * ny1 + o * ny2
            nz = p * nz0 + q * nz1 + o * nz2
            tx = p * tx0 + q * tx1 + o * tx2
            ty = p * ty0 + q * ty1 + o * ty2
            tz = p * tz0 + q * tz1 + o * tz2
            square = max(least, nx * nx + ny * ny + nz * nz)
            per_length = one / np.sqrt(square)
            # The tangent is made perpendicular to the normal.
            outward = mx * nx + my * ny + mz * nz
            slant = tx * nx + ty * ny + tz * nz
            along = slant / square
            per_width = one / np.sqrt(max(least, tx * tx + ty * ty + tz * tz - along * slant))
            right = (mx * tx + my * ty + mz * tz - along * outward) * per_width
            volume = mx * (ny * tz - nz * ty) + my * (nz * tx - nx * tz) + mz * (nx * ty - ny * tx)
            up = hand * volume * per_width * per_length
            # Not flatter than the surface: such a normal would be seen from below.
            out = max(
                outward * per_length,
                np.float32(0.1) * np.sqrt(right * right + up * up),
                np.float32(1e-6),
            )
            scale = np.float32(127.5) / np.sqrt(right * right + up * up + out * out)
            normal_map[row, column, 0] = np.uint8(right * scale + np.float32(128))
            normal_map[row, column, 1] = np.uint8(up * scale + np.float32(128))
            normal_map[row, column, 2] = np.uint8(out * scale + np.float32(128))
            covered[row, column] = 1
