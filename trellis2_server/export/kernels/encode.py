"""A loop over texels.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, D103
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

from trellis2_server.export.kernel import kernel


@kernel
def count_values(base_color, metal_rough, covered, counts):
    for row in range(covered.shape[0]):
        for column in range(covered.shape[1]):
            if covered[row, column] == 1:
                counts[0, base_color[row, column, 3]] += 1
                counts[1, metal_rough[row, column, 1]] += 1
                counts[2, metal_rough[row, column, 2]] += 1
