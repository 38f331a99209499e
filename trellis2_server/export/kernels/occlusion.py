"""Loops that measure by rays how much of its surroundings each point of a surface sees.

The triangles lie in a tree of boxes, see `kernels.trees`.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, D103, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel

#: Number of faces around a vertex from which on only every second one is looked at, and so on.
MOST_AROUND = 64
#: Levels of the tree, at most, see `kernels.trees`.
_DEPTH = 96


@kernel
def hits_triangle(triangles, i, ox, oy, oz, dx, dy, dz):
    # Moeller and Trumbore, "Fast, Minimum Storage Ray/Triangle Intersection" (1997), of both sides.
    ux, uy, uz = triangles[i, 3], triangles[i, 4], triangles[i, 5]
    vx, vy, vz = triangles[i, 6], triangles[i, 7], triangles[i, 8]
    px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
    det = ux * px + uy * py + uz * pz
    if det == 0.0:
        return False
    if det < 0.0:
        det = -det
        px, py, pz = -px, -py, -pz
        sign = np.float32(-1.0)
    else:
        sign = np.float32(1.0)
    wx, wy, wz = ox - triangles[i, 0], oy - triangles[i, 1], oz - triangles[i, 2]
    s = wx * px + wy * py + wz * pz
    if s < 0.0 or s > det:
        return False
    qx, qy, qz = wy * uz - wz * uy, wz * ux - wx * uz, wx * uy - wy * ux
    t = sign * (dx * qx + dy * qy + dz * qz)
    if t < 0.0 or s + t > det:
        return False
    return sign * (vx * qx + vy * qy + vz * qz) > 0.0


@kernel
def enter_box(boxes, node, ox, oy, oz, ix, iy, iz):
    # Distance at which a ray enters the box; infinite if it does not.
    x0, x1 = (boxes[node, 0] - ox) * ix, (boxes[node, 3] - ox) * ix
    y0, y1 = (boxes[node, 1] - oy) * iy, (boxes[node, 4] - oy) * iy
    z0, z1 = (boxes[node, 2] - oz) * iz, (boxes[node, 5] - oz) * iz
    near = max(min(x0, x1), min(y0, y1), min(z0, z1), np.float32(0.0))
    far = min(max(x0, x1), max(y0, y1), max(z0, z1))
    return near if near <= far * np.float32(1.000001) else np.float32(np.inf)


@kernel
def hits_any(left, right, boxes, triangles, stack, ox, oy, oz, dx, dy, dz):
    # Whether the ray hits any triangle. The nearer child goes first: it probably has the hit.
    tiny = np.float32(1e-12)
    ix = np.float32(1.0) / (dx if abs(dx) > tiny else tiny)
    iy = np.float32(1.0) / (dy if abs(dy) > tiny else tiny)
    iz = np.float32(1.0) / (dz if abs(dz) > tiny else tiny)
    infinite = np.float32(np.inf)
    waiting = 0
    node = 0
    if enter_box(boxes, 0, ox, oy, oz, ix, iy, iz) == infinite:
        return False
    while True:
        if left[node] >= 0:
            for i in range(left[node], right[node]):
                if hits_triangle(triangles, i, ox, oy, oz, dx, dy, dz):
                    return True
        else:
            near, far = node + 1, -1 - left[node]
            first = enter_box(boxes, near, ox, oy, oz, ix, iy, iz)
            second = enter_box(boxes, far, ox, oy, oz, ix, iy, iz)
            if second < first:
                near, far = far, near
                first, second = second, first
            if first != infinite:
                if second != infinite:
                    stack[waiting] = far
                    waiting += 1
                node = near
                continue
        if waiting == 0:
            return False
        waiting -= 1
        node = stack[waiting]


@kernel
def count_open(left, right, boxes, triangles, stack, point, normal, side, rays, turn, lift, flag):
    # Number of rays that hit nothing, of those from a point, around its normal or the opposite one.
    # rays: float64 [R, 2] in [0, 1), turned by `turn` in both coordinates.
    nx, ny, nz = side * normal[0], side * normal[1], side * normal[2]
    ox, oy, oz = point[0] + lift * nx, point[1] + lift * ny, point[2] + lift * nz
    # Duff and others, "Building an Orthonormal Basis, Revisited" (2017).
    sign = np.float32(1.0) if nz >= 0.0 else np.float32(-1.0)
    a = np.float32(-1.0) / (sign + nz)
    b = nx * ny * a
    ux, uy, uz = np.float32(1.0) + sign * nx * nx * a, sign * b, -sign * nx
    wx, wy, wz = b, sign + ny * ny * a, -ny
    found = 0
    for r in range(rays.shape[0]):
        if is_cancelled(flag):
            return 0
        square, angle = rays[r, 0] + turn[0], rays[r, 1] + turn[1]
        square, angle = square - np.floor(square), 2.0 * np.pi * (angle - np.floor(angle))
        flat = np.sqrt(square)  # the cosine of the elevation: the density is that of its sine
        x, y = np.float32(flat * np.cos(angle)), np.float32(flat * np.sin(angle))
        z = np.float32(np.sqrt(1.0 - square))
        if not hits_any(
            left, right, boxes, triangles, stack, ox, oy, oz,
            ux * x + wx * y + nx * z, uy * x + wy * y + ny * z, uz * x + wz * y + nz * z,
        ):  # fmt: skip
            found += 1
    return found


@kernel
def place_faces(start, stop, vertices, faces, points, normals, flag):
    # Centroid and unit normal of each face; the normal of one without any area is zero.
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = (
            np.float64(vertices[b, 0]) - vertices[a, 0],
            np.float64(vertices[b, 1]) - vertices[a, 1],
            np.float64(vertices[b, 2]) - vertices[a, 2],
        )
        vx, vy, vz = (
            np.float64(vertices[c, 0]) - vertices[a, 0],
            np.float64(vertices[c, 1]) - vertices[a, 1],
            np.float64(vertices[c, 2]) - vertices[a, 2],
        )
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        scale = 1.0 / length if length > 1e-18 else 0.0
        normals[f, 0], normals[f, 1], normals[f, 2] = nx * scale, ny * scale, nz * scale
        points[f, 0] = vertices[a, 0] + (ux + vx) / 3.0
        points[f, 1] = vertices[a, 1] + (uy + vy) / 3.0
        points[f, 2] = vertices[a, 2] + (uz + vz) / 3.0


@kernel
def trace_points(
    start, stop, points, normals, side, chosen, rays, left, right, boxes, triangles, lift, openness,
    flag,
):  # fmt: skip
    # Of the chosen points; those without a normal see everything.
    stack = np.empty(_DEPTH, np.int32)
    turn = np.empty(2)
    for i in range(start, stop):
        if is_cancelled(flag):
            return
        p = chosen[i]
        square = normals[p, 0] ** 2 + normals[p, 1] ** 2 + normals[p, 2] ** 2
        if square < 0.5:
            openness[p] = 1.0
            continue
        # Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences" (2018): points with
        # close numbers, which are neighbours, have different rays.
        turn[0], turn[1] = (p * 0.7548776662466927) % 1.0, (p * 0.5698402909980532) % 1.0
        found = count_open(
            left, right, boxes, triangles, stack, points[p], normals[p], side, rays, turn, lift,
            flag,
        )  # fmt: skip
        openness[p] = max(openness[p], np.float32(found / rays.shape[0]))


@kernel
def similarity(normals, f, g):
    # Weight of face g where face f is smoothed: none beyond a right angle, little from 60 degrees.
    cosine = (
        normals[f, 0] * normals[g, 0]
        + normals[f, 1] * normals[g, 1]
        + normals[f, 2] * normals[g, 2]
    )
    square = max(np.float32(0.0), cosine) ** 2
    return square * square


@kernel
def add_around(v, f, first, corners, normals, values, total, weights):
    # Add the faces that meet face f at vertex v and face the same way. Some are enough where very
    # many meet.
    stride = 1 + (first[v + 1] - first[v]) // MOST_AROUND
    for i in range(first[v], first[v + 1], stride):
        g = corners[i] // 3
        weight = similarity(normals, f, g)
        total += weight * values[g]
        weights += weight
    return total, weights


@kernel
def smooth_faces(start, stop, faces, first, corners, normals, values, smoothed, flag):
    # The mean of a face and of those that meet it at a vertex and face the same way.
    for f in range(start, stop):
        if f & 255 == 0 and is_cancelled(flag):
            return
        total, weights = 1e-3 * values[f], 1e-3  # all that a face without a normal has
        for k in range(3):
            total, weights = add_around(
                faces[f, k], f, first, corners, normals, values, total, weights
            )
        smoothed[f] = total / weights


@kernel
def spread_to_corners(start, stop, faces, first, corners, normals, values, found, flag):
    # At each corner of a face, the mean of the faces around the vertex that face the same way.
    for f in range(start, stop):
        if f & 255 == 0 and is_cancelled(flag):
            return
        for k in range(3):
            total, weights = add_around(
                faces[f, k], f, first, corners, normals, values, 1e-3 * values[f], 1e-3
            )
            found[f, k] = total / weights


@kernel
def sum_areas(vertices, faces, flag):
    # Twice the area of all faces.
    total = 0.0
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return total
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        px, py, pz = (
            np.float64(vertices[a, 0]),
            np.float64(vertices[a, 1]),
            np.float64(vertices[a, 2]),
        )
        ux, uy, uz = vertices[b, 0] - px, vertices[b, 1] - py, vertices[b, 2] - pz
        vx, vy, vz = vertices[c, 0] - px, vertices[c, 1] - py, vertices[c, 2] - pz
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        total += np.sqrt(nx * nx + ny * ny + nz * nz)
    return total


@kernel
def mark_long_edges(start, stop, vertices, faces, limit, marks, flag):
    # marks[f]: bit k is set if the edge from corner k to corner k + 1 is longer than the limit.
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        bits = 0
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            square = 0.0
            for axis in range(3):
                apart = np.float64(vertices[a, axis]) - vertices[b, axis]
                square += apart * apart
            if square > limit * limit:
                bits |= 1 << k
        marks[f] = bits
