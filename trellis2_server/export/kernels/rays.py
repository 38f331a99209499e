"""Loops that follow rays through a tree of triangles, see `kernels.trees`.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def meet_ray(
    vertices, faces, order, left, right, boxes, x, y, z, dx, dy, dz, own, stack, flag
):  # fmt: skip
    # Follow a ray from (x, y, z). Returns the distance to the nearest face but `own`, in lengths of
    # (dx, dy, dz), infinite if there is none; that face; and the number of faces that are met.
    nearest, face, count = np.inf, -1, 0
    ix, iy, iz = 1.0 / (dx + 1e-300), 1.0 / (dy + 1e-300), 1.0 / (dz + 1e-300)
    stack[0] = 0
    top = 1
    steps = 0
    while top > 0:
        steps += 1
        if steps & 4095 == 0 and is_cancelled(flag):
            return nearest, face, count
        top -= 1
        node = stack[top]
        near_x, far_x = (boxes[node, 0] - x) * ix, (boxes[node, 3] - x) * ix
        near_y, far_y = (boxes[node, 1] - y) * iy, (boxes[node, 4] - y) * iy
        near_z, far_z = (boxes[node, 2] - z) * iz, (boxes[node, 5] - z) * iz
        near = max(min(near_x, far_x), min(near_y, far_y), min(near_z, far_z))
        far = min(max(near_x, far_x), max(near_y, far_y), max(near_z, far_z))
        if far < 0.0 or near > far * (1.0 + 1e-12):
            continue
        if own >= 0 and near > nearest:
            continue
        if left[node] < 0:
            stack[top], stack[top + 1] = node + 1, -1 - left[node]
            top += 2
            continue
        for n in range(left[node], right[node]):
            f = order[n]
            if f == own:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            px, py, pz = (
                np.float64(vertices[a, 0]),
                np.float64(vertices[a, 1]),
                np.float64(vertices[a, 2]),
            )
            ux, uy, uz = vertices[b, 0] - px, vertices[b, 1] - py, vertices[b, 2] - pz
            vx, vy, vz = vertices[c, 0] - px, vertices[c, 1] - py, vertices[c, 2] - pz
            hx, hy, hz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
            volume = ux * hx + uy * hy + uz * hz
            if volume == 0.0:
                continue
            sx, sy, sz = x - px, y - py, z - pz
            s = (sx * hx + sy * hy + sz * hz) / volume
            if s < 0.0 or s > 1.0:
                continue
            qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
            t = (dx * qx + dy * qy + dz * qz) / volume
            if t < 0.0 or s + t > 1.0:
                continue
            distance = (vx * qx + vy * qy + vz * qz) / volume
            if distance <= 0.0:
                continue
            count += 1
            if distance < nearest:
                nearest, face = distance, f
    return nearest, face, count


@kernel
def measure_walls(start, stop, vertices, faces, order, left, right, boxes, thickness, flag):
    # The smallest distance from four points of each face to the opposite side of its wall, straight
    # through the solid. A face that the ray meets at an angle above 37 degrees is no opposite side.
    stack = np.empty(128, np.int64)
    for f in range(start, stop):
        if is_cancelled(flag):
            return
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        nx, ny, nz = unit_normal(vertices, a, b, c)
        thickness[f] = np.inf
        for n in range(4):
            p, q, r = (1 / 3, 1 / 3, 1 / 3) if n == 0 else (1 / 6, 1 / 6, 1 / 6)
            if n == 1:
                p = 2 / 3
            elif n == 2:
                q = 2 / 3
            elif n == 3:
                r = 2 / 3
            distance, face, _ = meet_ray(
                vertices, faces, order, left, right, boxes,
                p * vertices[a, 0] + q * vertices[b, 0] + r * vertices[c, 0],
                p * vertices[a, 1] + q * vertices[b, 1] + r * vertices[c, 1],
                p * vertices[a, 2] + q * vertices[b, 2] + r * vertices[c, 2],
                -nx, -ny, -nz, f, stack, flag,
            )  # fmt: skip
            if face < 0:
                continue
            mx, my, mz = unit_normal(vertices, faces[face, 0], faces[face, 1], faces[face, 2])
            if nx * mx + ny * my + nz * mz <= -0.8:
                thickness[f] = min(thickness[f], distance)


@kernel
def unit_normal(vertices, a, b, c):
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
    size = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-300
    return nx / size, ny / size, nz / size


@kernel
def count_crossings(
    start, stop, points, direction, vertices, faces, order, left, right, boxes, counts, flag
):  # fmt: skip
    # How many faces a ray from each point meets.
    stack = np.empty(128, np.int64)
    for n in range(start, stop):
        if is_cancelled(flag):
            return
        _, _, counts[n] = meet_ray(
            vertices, faces, order, left, right, boxes, points[n, 0], points[n, 1],
            points[n, 2], direction[0], direction[1], direction[2], -1, stack, flag,
        )  # fmt: skip
