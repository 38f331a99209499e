"""Loops that fill texels outside all faces, by the pyramid of push and pull.

Gortler and others, "The Lumigraph" (1996), section 3.4.3.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, D103, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def pull_values(start, stop, values, covered, coarse, coarse_covered, flag):
    # Half the resolution: the mean of the covered ones of four texels.
    size = covered.shape[0]
    for row in range(start, stop):
        if is_cancelled(flag):
            return
        y0, y1 = 2 * row, min(2 * row + 1, size - 1)
        for column in range(coarse_covered.shape[1]):
            x0, x1 = 2 * column, min(2 * column + 1, size - 1)
            # A row or column that a texture of odd size has not counts once.
            a = 1 if covered[y0, x0] != 0 else 0
            b = 1 if covered[y0, x1] != 0 and x1 > x0 else 0
            c = 1 if covered[y1, x0] != 0 and y1 > y0 else 0
            d = 1 if covered[y1, x1] != 0 and x1 > x0 and y1 > y0 else 0
            count = a + b + c + d
            coarse_covered[row, column] = count
            if count == 4:
                for k in range(values.shape[2]):
                    total = np.int64(values[y0, x0, k]) + values[y0, x1, k]
                    total += np.int64(values[y1, x0, k]) + values[y1, x1, k]
                    coarse[row, column, k] = (total + 2) >> 2
            elif count > 0:
                for k in range(values.shape[2]):
                    total = a * np.int64(values[y0, x0, k]) + b * np.int64(values[y0, x1, k])
                    total += c * np.int64(values[y1, x0, k]) + d * np.int64(values[y1, x1, k])
                    coarse[row, column, k] = (total + count // 2) // count


@kernel
def push_values(start, stop, values, covered, coarse, flag):
    # Fill gaps by bilinear interpolation of the coarser level, which has none.
    last = coarse.shape[0] - 1
    for row in range(start, stop):
        if is_cancelled(flag):
            return
        y0 = row // 2
        y1 = min(last, max(0, y0 + (1 if row % 2 == 1 else -1)))
        for column in range(covered.shape[1]):
            if covered[row, column] != 0:
                continue
            x0 = column // 2
            x1 = min(last, max(0, x0 + (1 if column % 2 == 1 else -1)))
            for c in range(values.shape[2]):
                total = 9 * np.int64(coarse[y0, x0, c]) + 3 * np.int64(coarse[y0, x1, c])
                total += 3 * np.int64(coarse[y1, x0, c]) + np.int64(coarse[y1, x1, c])
                values[row, column, c] = np.uint8((total + 8) >> 4)
