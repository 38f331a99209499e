"""Loops that check texture coordinates.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0917
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def place_in_face(uv, faces, f, x, y):
    # Return the depth of a point in a face, its limit, and the shares of the first two corners.
    ax, ay = uv[faces[f, 0], 0], uv[faces[f, 0], 1]
    bx, by = uv[faces[f, 1], 0], uv[faces[f, 1], 1]
    cx, cy = uv[faces[f, 2], 0], uv[faces[f, 2], 1]
    double = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if double == 0.0:
        return -1.0, 0.0, 0.0, 0.0
    u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / double
    v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / double
    size = abs(double)
    a = np.sqrt((cx - bx) ** 2 + (cy - by) ** 2)
    b = np.sqrt((ax - cx) ** 2 + (ay - cy) ** 2)
    c = np.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
    depth = min(u * size / a, v * size / b, (1.0 - u - v) * size / c)
    # Half of the radius of the circle inside: small faces have a depth, too.
    return depth, min(0.25, 0.5 * size / (a + b + c)), u, v


@kernel
def find_overlap(uv, faces, corners, vertices, distance, owner, flag):
    # Return two faces that cover the same texel with different points of the surface; -1: none.
    size = owner.shape[0]
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return -1, -1
        ax, ay = uv[faces[f, 0], 0], uv[faces[f, 0], 1]
        bx, by = uv[faces[f, 1], 0], uv[faces[f, 1], 1]
        cx, cy = uv[faces[f, 2], 0], uv[faces[f, 2], 1]
        first = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        last = min(size - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        for row in range(first, last + 1):
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
                g = owner[row, column]
                if g == -1:
                    owner[row, column] = f
                    continue
                x = column + 0.5
                depth, limit, u, v = place_in_face(uv, faces, f, x, y)
                if depth <= limit:
                    continue
                depth, limit, s, t = place_in_face(uv, faces, g, x, y)
                if depth <= limit:
                    # The face that covers more of the texel is compared with those that follow.
                    owner[row, column] = f
                    continue
                apart = 0.0
                for axis in range(3):
                    one = (
                        u * vertices[corners[f, 0], axis]
                        + v * vertices[corners[f, 1], axis]
                        + (1.0 - u - v) * vertices[corners[f, 2], axis]
                    )
                    other = (
                        s * vertices[corners[g, 0], axis]
                        + t * vertices[corners[g, 1], axis]
                        + (1.0 - s - t) * vertices[corners[g, 2], axis]
                    )
                    apart = max(apart, abs(one - other))
                if apart > distance:
                    return f, g
    return -1, -1
