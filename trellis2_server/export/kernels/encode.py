"""Loop that counts the values of texture channels.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, D103
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def count_values(base_color, metal_rough, covered, counts, flag):
    for row in range(covered.shape[0]):
        if is_cancelled(flag):
            return
        for column in range(covered.shape[1]):
            if covered[row, column] == 1:
                counts[0, base_color[row, column, 3]] += 1
                counts[1, metal_rough[row, column, 1]] += 1
                counts[2, metal_rough[row, column, 2]] += 1
