"""Loops that draw pictures, see `drawing.rasterizer` and `drawing.interpolation`.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, D103, PLR0913, PLR0917, PLR2004, PLW3301
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def draw_faces(points, faces, n, cull, beyond, slack, owner, depth, flag):
    # owner, depth: [n * n], filled by the caller; beyond: the same size, or none at all.
    for f in range(faces.shape[0]):
        if f & 255 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
        bx, by, bz = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, cz = points[c, 0], points[c, 1], points[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0 or (cull and area > 0):
            continue
        left = max(np.int64(np.ceil(min(ax, min(bx, cx)) - 0.5)), 0)
        top = max(np.int64(np.ceil(min(ay, min(by, cy)) - 0.5)), 0)
        right = min(np.int64(np.floor(max(ax, max(bx, cx)) - 0.5)), n - 1)
        low = min(np.int64(np.floor(max(ay, max(by, cy)) - 0.5)), n - 1)
        if right < left or low < top:
            continue
        u_x, u_y = (by - cy) / area, (cx - bx) / area
        v_x, v_y = (cy - ay) / area, (ax - cx) / area
        from_x, from_y = left + 0.5 - cx, top + 0.5 - cy
        u_0, v_0 = u_x * from_x + u_y * from_y, v_x * from_x + v_y * from_y
        for row in range(low - top + 1):
            if row & 63 == 63 and is_cancelled(flag):
                return
            for column in range(right - left + 1):
                u = u_0 + u_x * column + u_y * row
                v = v_0 + v_x * column + v_y * row
                if u > -slack and v > -slack and u + v < 1 + slack:
                    near = u * az + v * bz + (1 - u - v) * cz
                    sample = (top + row) * n + left + column
                    is_behind = beyond.shape[0] == 0 or near < beyond[sample]
                    if near > depth[sample] and is_behind:
                        depth[sample] = near
                        owner[sample] = f


@kernel
def draw_samples(
    start, stop, sample, owner, n, points, faces, normals, normal_faces, uvs, uv_faces, texels,
    levels, texel, normal, flag,
):  # fmt: skip
    # texel: float32 [S, C], normal: float32 [S, 3], the results.
    one = np.float32(1)
    half = np.float32(0.5)
    for i in range(start, stop):
        if i & 1023 == 0 and is_cancelled(flag):
            return
        s = sample[i]
        f = owner[s]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x, y = s % n + 0.5, s // n + 0.5
        ax, ay = points[a, 0], points[a, 1]
        bx, by = points[b, 0], points[b, 1]
        cx, cy = points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
        v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
        wa, wb, wc = np.float32(u), np.float32(v), np.float32(1 - u - v)
        a, b, c = normal_faces[f, 0], normal_faces[f, 1], normal_faces[f, 2]
        for k in range(3):
            normal[i, k] = wa * normals[a, k] + wb * normals[b, k] + wc * normals[c, k]
        if texels.shape[0] == 1:
            for k in range(texels.shape[1]):
                texel[i, k] = texels[0, k]
            continue
        a, b, c = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
        px, py = np.float64(uvs[b, 0]) - uvs[a, 0], np.float64(uvs[b, 1]) - uvs[a, 1]
        qx, qy = np.float64(uvs[c, 0]) - uvs[a, 0], np.float64(uvs[c, 1]) - uvs[a, 1]
        covered = abs(px * qy - py * qx) * (levels[0, 1] * levels[0, 2]) / abs(area)
        level, limit = 0, 2.0
        while level < levels.shape[0] - 1 and covered > limit:
            level += 1
            limit *= 4
        first, width, height = levels[level, 0], levels[level, 1], levels[level, 2]
        across = wa * uvs[a, 0] + wb * uvs[b, 0] + wc * uvs[c, 0]
        down = wa * uvs[a, 1] + wb * uvs[b, 1] + wc * uvs[c, 1]
        across = across * np.float32(width) - half
        down = down * np.float32(height) - half
        left, top = np.floor(across), np.floor(down)
        right_part, low_part = across - left, down - top
        column, row = np.int64(left) % width, np.int64(top) % height
        upper, lower = first + row * width, first + (row + 1) % height * width
        beside = (column + 1) % width
        for k in range(texels.shape[1]):
            above = np.float32(texels[upper + column, k]) * (one - right_part)
            above += np.float32(texels[upper + beside, k]) * right_part
            below = np.float32(texels[lower + column, k]) * (one - right_part)
            below += np.float32(texels[lower + beside, k]) * right_part
            texel[i, k] = above * (one - low_part) + below * low_part
