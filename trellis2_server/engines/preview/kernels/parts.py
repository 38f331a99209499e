"""The bulges of an object's parts."""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, PLR0913, PLR0917
# pyright: basic
from __future__ import annotations

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled

#: Over-relaxation of each sweep.
_OMEGA = 1.6


@inner_kernel
def _sweep(inside, cut, pull, spacing, u, rounds, flag):
    """Relax the equation at every second pixel, then at the others, `rounds` times."""
    height, width = u.shape
    area = spacing * spacing
    for step in range(2 * rounds):
        if is_cancelled(flag):
            return
        for i in range(height):
            for j in range((i + step) & 1, width, 2):
                if not inside[i, j]:
                    continue
                here = cut[i, j]
                total = 4.0 * area
                weight = area * pull[i, j]
                if i > 0 and inside[i - 1, j]:
                    c = min(here, cut[i - 1, j])
                    total += c * u[i - 1, j]
                    weight += c
                if i < height - 1 and inside[i + 1, j]:
                    c = min(here, cut[i + 1, j])
                    total += c * u[i + 1, j]
                    weight += c
                if j > 0 and inside[i, j - 1]:
                    c = min(here, cut[i, j - 1])
                    total += c * u[i, j - 1]
                    weight += c
                if j < width - 1 and inside[i, j + 1]:
                    c = min(here, cut[i, j + 1])
                    total += c * u[i, j + 1]
                    weight += c
                u[i, j] += _OMEGA * (total / weight - u[i, j])


@kernel("void(u1[:,::1], f4[:,::1], f4[:,::1], f8, i8, f4[:,::1], i8[::1])")
def solve_parts(inside, conductance, pull, spacing, rounds, u, flag) -> None:
    """Relax -∇·(c∇u) + k·u = 4 in the mask, with no flow over its outline.

    `conductance` c is above 0 and at most 1; `pull` k is above 0, per square of the unit that
    `spacing`, the distance of two pixels, has. `u` is the first guess, and becomes the solution.
    """
    _sweep(inside, conductance, pull, np.float32(spacing), u, rounds, flag)
