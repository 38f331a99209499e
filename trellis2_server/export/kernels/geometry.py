"""Loops that compute smooth normals and repeat vertices.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def vertex_normals(start, stop, vertices, faces, first, corners, normals, flag):
    for v in range(start, stop):
        if v & 255 == 0 and is_cancelled(flag):
            return
        x, y, z = 0.0, 0.0, 0.0
        large, lx, ly, lz = 0.0, 0.0, 0.0, 1.0
        for i in range(first[v], first[v + 1]):
            if i & 1023 == 0 and is_cancelled(flag):
                return
            f, k = corners[i] // 3, corners[i] % 3
            p, q = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
            ux = np.float64(vertices[p, 0]) - vertices[v, 0]
            uy = np.float64(vertices[p, 1]) - vertices[v, 1]
            uz = np.float64(vertices[p, 2]) - vertices[v, 2]
            wx = np.float64(vertices[q, 0]) - vertices[v, 0]
            wy = np.float64(vertices[q, 1]) - vertices[v, 1]
            wz = np.float64(vertices[q, 2]) - vertices[v, 2]
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            if length < 1e-18:
                continue
            angle = np.arctan2(length, ux * wx + uy * wy + uz * wz)
            x += angle * nx / length
            y += angle * ny / length
            z += angle * nz / length
            if length > large:
                large, lx, ly, lz = length, nx / length, ny / length, nz / length
        length = np.sqrt(x * x + y * y + z * z)
        if length > 1e-3:
            x, y, z = x / length, y / length, z / length
        else:
            x, y, z = lx, ly, lz
        normals[v, 0], normals[v, 1], normals[v, 2] = x, y, z


@kernel
def pair_corners(first, corners, row, vertices, rows, pairs, flag):
    # Number the pairs of a vertex and a row, ascending. corners[first[v]:first[v + 1]]: the corners
    # at vertex v, which are sorted by their rows; row: of each corner.
    count = 0
    for v in range(first.shape[0] - 1):
        if v & 255 == 0 and is_cancelled(flag):
            return 0
        low, high = first[v], first[v + 1]
        # Shell sort: nearly always a few items, rarely very many.
        gap = 1
        while 3 * gap < high - low:
            gap = 3 * gap + 1
        while gap > 0:
            for i in range(low + gap, high):
                if i & 1023 == 0 and is_cancelled(flag):
                    return 0
                corner = corners[i]
                j = i
                while j >= low + gap and row[corners[j - gap]] > row[corner]:
                    corners[j] = corners[j - gap]
                    j -= gap
                corners[j] = corner
            gap //= 3
        for i in range(low, high):
            if i & 1023 == 1023 and is_cancelled(flag):
                return 0
            if i == low or row[corners[i]] != row[corners[i - 1]]:
                vertices[count], rows[count] = v, row[corners[i]]
                count += 1
            pairs[corners[i]] = count - 1
    return count
