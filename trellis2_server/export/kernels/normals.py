"""Loops that compute the normals of a full surface, and tangents.

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


@kernel
def is_fan_twisted(faces, first, corners, v):
    # Whether two faces around a vertex leave it along the same edge: they are wound differently.
    # Most often, no two of these edges have the same bit.
    seen = np.uint64(0)
    is_possible = False
    for i in range(first[v], first[v + 1]):
        f = corners[i] // 3
        k = corners[i] - 3 * f
        after = faces[f, 0 if k == 2 else k + 1]
        bit = np.uint64(1) << ((np.uint64(after) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(58))
        is_possible = is_possible or (seen & bit) != 0
        seen |= bit
    if not is_possible:
        return False
    for i in range(first[v], first[v + 1]):
        after = faces[corners[i] // 3, (corners[i] % 3 + 1) % 3]
        for j in range(first[v], i):
            if faces[corners[j] // 3, (corners[j] % 3 + 1) % 3] == after:
                return True
    return False


@kernel
def source_normals(start, stop, vertices, faces, first, corners, normals, flag):
    # Unit normals, weighted by area; faces that are wound differently are turned to the largest
    # one. The sign of such a normal means nothing. Zero without any area.
    for v in range(start, stop):
        if v & 255 == 0 and is_cancelled(flag):
            return
        count = first[v + 1] - first[v]
        stride = 1 + count // MOST_AROUND
        is_twisted = count <= MOST_AROUND and is_fan_twisted(faces, first, corners, v)
        x, y, z = 0.0, 0.0, 0.0
        large, lx, ly, lz = 0.0, 0.0, 0.0, 0.0
        for turn in range(2 if is_twisted else 1):
            x, y, z = 0.0, 0.0, 0.0
            for i in range(first[v], first[v + 1], stride):
                f = corners[i] // 3
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                ux = np.float64(vertices[b, 0]) - vertices[a, 0]
                uy = np.float64(vertices[b, 1]) - vertices[a, 1]
                uz = np.float64(vertices[b, 2]) - vertices[a, 2]
                wx = np.float64(vertices[c, 0]) - vertices[a, 0]
                wy = np.float64(vertices[c, 1]) - vertices[a, 1]
                wz = np.float64(vertices[c, 2]) - vertices[a, 2]
                nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
                if turn == 1 and nx * lx + ny * ly + nz * lz < 0.0:
                    nx, ny, nz = -nx, -ny, -nz
                x, y, z = x + nx, y + ny, z + nz
                square = nx * nx + ny * ny + nz * nz
                if turn == 0 and square > large:
                    large, lx, ly, lz = square, nx, ny, nz
        length = np.sqrt(x * x + y * y + z * z)
        if length <= 1e-3 * np.sqrt(large):  # they cancel out
            x, y, z, length = lx, ly, lz, np.sqrt(large)
        scale = 1.0 / length if length > 1e-30 else 0.0
        normals[v, 0], normals[v, 1], normals[v, 2] = x * scale, y * scale, z * scale


@kernel
def smooth_normals(start, stop, faces, first, corners, normals, smoothed, flag):
    # The mean over a vertex and its neighbours, whatever the sign of these; the less a neighbour is
    # worth, the more it turns away, so that sharp edges stay.
    for v in range(start, stop):
        if v & 255 == 0 and is_cancelled(flag):
            return
        nx, ny, nz = (
            np.float64(normals[v, 0]), np.float64(normals[v, 1]), np.float64(normals[v, 2]),
        )  # fmt: skip
        x, y, z = nx, ny, nz
        stride = 1 + (first[v + 1] - first[v]) // MOST_AROUND
        for i in range(first[v], first[v + 1], stride):
            f, k = corners[i] // 3, corners[i] % 3
            for step in range(1, 3):
                p = faces[f, (k + step) % 3]
                px, py, pz = normals[p, 0], normals[p, 1], normals[p, 2]
                cosine = nx * px + ny * py + nz * pz
                square = cosine * cosine
                weight = 0.5 * cosine * square * square  # each edge counts twice
                x, y, z = x + weight * px, y + weight * py, z + weight * pz
        length = np.sqrt(x * x + y * y + z * z)
        scale = 1.0 / length if length > 1e-30 else 0.0
        smoothed[v, 0], smoothed[v, 1], smoothed[v, 2] = x * scale, y * scale, z * scale


@kernel
def vertex_tangents(
    start, stop, vertices, source, normals, uv, uv_faces, first, corners, tangents, flag
):  # fmt: skip
    # Tangents of the rows of `uv`, as MikkTSpace makes them: Mikkelsen, "Simulation of Wrinkled
    # Surfaces Revisited" (2008). The fourth value is the sign of the bitangent, which points up in
    # the image: y of `uv` points down.
    for m in range(start, stop):
        if m & 255 == 0 and is_cancelled(flag):
            return
        v = source[m]
        nx, ny, nz = (
            np.float64(normals[v, 0]), np.float64(normals[v, 1]), np.float64(normals[v, 2]),
        )  # fmt: skip
        x, y, z, handed = 0.0, 0.0, 0.0, 0.0
        for i in range(first[m], first[m + 1]):
            if i & 1023 == 1023 and is_cancelled(flag):
                return
            f, k = corners[i] // 3, corners[i] % 3
            p, q = uv_faces[f, (k + 1) % 3], uv_faces[f, (k + 2) % 3]
            ux = np.float64(vertices[source[p], 0]) - vertices[v, 0]
            uy = np.float64(vertices[source[p], 1]) - vertices[v, 1]
            uz = np.float64(vertices[source[p], 2]) - vertices[v, 2]
            wx = np.float64(vertices[source[q], 0]) - vertices[v, 0]
            wy = np.float64(vertices[source[q], 1]) - vertices[v, 1]
            wz = np.float64(vertices[source[q], 2]) - vertices[v, 2]
            across, down = np.float64(uv[p, 1]) - uv[m, 1], np.float64(uv[q, 1]) - uv[m, 1]
            det = (np.float64(uv[p, 0]) - uv[m, 0]) * down - (
                np.float64(uv[q, 0]) - uv[m, 0]
            ) * across
            sign = 1.0 if det > 0.0 else -1.0
            tx = sign * (ux * down - wx * across)
            ty = sign * (uy * down - wy * across)
            tz = sign * (uz * down - wz * across)
            along = tx * nx + ty * ny + tz * nz
            tx, ty, tz = tx - along * nx, ty - along * ny, tz - along * nz
            length = np.sqrt(tx * tx + ty * ty + tz * tz)
            if det == 0.0 or length < 1e-30:
                continue
            # The angle of the face at the vertex, in the plane of the normal.
            along = ux * nx + uy * ny + uz * nz
            ux, uy, uz = ux - along * nx, uy - along * ny, uz - along * nz
            along = wx * nx + wy * ny + wz * nz
            wx, wy, wz = wx - along * nx, wy - along * ny, wz - along * nz
            cx, cy, cz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            angle = np.arctan2(np.sqrt(cx * cx + cy * cy + cz * cz), ux * wx + uy * wy + uz * wz)
            weight = angle / length
            x, y, z = x + weight * tx, y + weight * ty, z + weight * tz
            handed -= angle * sign
        length = np.sqrt(x * x + y * y + z * z)
        if length < 1e-9:
            # No direction: any one in the plane.
            if abs(nx) < 0.9:
                x, y, z = 1.0 - nx * nx, -nx * ny, -nx * nz
            else:
                x, y, z = -ny * nx, 1.0 - ny * ny, -ny * nz
            length = np.sqrt(x * x + y * y + z * z)
        tangents[m, 0], tangents[m, 1], tangents[m, 2] = x / length, y / length, z / length
        tangents[m, 3] = 1.0 if handed >= 0.0 else -1.0
