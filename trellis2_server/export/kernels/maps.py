"""Loops that draw values of a surface's corners into a texture.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0917
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def place_parts(start, stop, whole, shares, uv, faces, flat, flag):
    # flat: the corners of each part in the texture, x and y by turns.
    for p in range(start, stop):
        if p & 1023 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[whole[p], 0], faces[whole[p], 1], faces[whole[p], 2]
        for k in range(3):
            for axis in range(2):
                flat[p, 2 * k + axis] = (
                    shares[p, k, 0] * uv[a, axis]
                    + shares[p, k, 1] * uv[b, axis]
                    + shares[p, k, 2] * uv[c, axis]
                )


@kernel
def draw_values(start, stop, flat, values, drawn, covered, flag):
    # Rows of texels, each with the interpolated value of the face over its centre, 0 … 1 as
    # 0 … 255. flat: float32 [F, 6], texels; values: float32 [F, 3], of the corners.
    size = drawn.shape[1]
    for f in range(flat.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return
        ax, ay = np.float64(flat[f, 0]), np.float64(flat[f, 1])
        bx, by = np.float64(flat[f, 2]), np.float64(flat[f, 3])
        cx, cy = np.float64(flat[f, 4]), np.float64(flat[f, 5])
        first_row = max(start, int(np.ceil(min(ay, by, cy) - 0.5)))
        last_row = min(stop - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        if first_row > last_row:
            continue
        det = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if det == 0.0:
            continue
        a, b, c = np.float64(values[f, 0]), np.float64(values[f, 1]), np.float64(values[f, 2])
        # The value is linear in the texture.
        along_x = ((b - a) * (cy - ay) - (c - a) * (by - ay)) / det
        along_y = ((c - a) * (bx - ax) - (b - a) * (cx - ax)) / det
        least, most = min(a, b, c), max(a, b, c)
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
                value = a + along_x * (column + 0.5 - ax) + along_y * (y - ay)
                value = min(most, max(least, value))
                drawn[row, column] = np.uint8(value * 255.0 + 0.5)
                covered[row, column] = 1
