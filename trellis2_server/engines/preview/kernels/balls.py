"""Exact distances from the outline, and the union of the largest balls inside it.

Both are lower envelopes of parabolas, one for each pixel, in time proportional to the pixels.
P. Felzenszwalb and D. Huttenlocher, "Distance transforms of sampled functions", Theory of
Computing 8, 2012.
"""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, PLR2004
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled

#: Value of a pixel that has no parabola.
NONE = np.float32(1e12)


@inner_kernel
def _envelope(values, site, bound, out, owner):
    """Set `out[q]` to the least of (q - p)² + `values[p]` and `owner[q]` to its p, or -1."""
    n = values.shape[0]
    k = -1
    for q in range(n):
        f = values[q]
        if f >= NONE:
            continue
        s = -np.inf
        while k >= 0:
            p = site[k]
            s = ((f + q * q) - (values[p] + p * p)) / (2.0 * (q - p))
            if s > bound[k]:
                break
            k -= 1
        k += 1
        site[k] = q
        bound[k] = -np.inf if k == 0 else s
    if k < 0:
        for q in range(n):
            out[q] = NONE
            owner[q] = -1
        return
    last = k
    k = 0
    for q in range(n):
        while k < last and bound[k + 1] < q:
            k += 1
        p = site[k]
        out[q] = (q - p) * (q - p) + values[p]
        owner[q] = p


@inner_kernel
def _transform(values, out, row, column, flag):
    """Take the lower envelope in both directions, and the pixel that each value comes from."""
    height, width = values.shape
    n = max(height, width)
    site = np.empty(n, np.int64)
    bound = np.empty(n)
    owner = np.empty(n, np.int64)
    line = np.empty(n)
    half = np.empty((width, height))
    first = np.empty((width, height), np.int32)
    turned = np.empty(n)
    for i in range(height):
        if i & 15 == 0 and is_cancelled(flag):
            return
        for j in range(width):
            turned[j] = values[i, j]
        _envelope(turned[:width], site, bound, line[:width], owner[:width])
        for j in range(width):
            half[j, i] = line[j]
            first[j, i] = owner[j]
    for j in range(width):
        if j & 15 == 0 and is_cancelled(flag):
            return
        _envelope(half[j], site, bound, line[:height], owner[:height])
        for i in range(height):
            out[i, j] = line[i]
            row[i, j] = owner[i]
            column[i, j] = -1 if owner[i] < 0 else first[j, owner[i]]


@kernel("void(f4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1], i8[::1])")
def inflate_balls(alpha, distance, squared, radius, flag) -> None:
    """Make the union of the largest balls inside the mask (`alpha` of at least 0.5), in pixels.

    `distance` becomes the distance to the outline, 0 outside. `squared` becomes the square of the
    height of the union over the picture's plane, negative outside; `radius` that of the ball which
    is highest there, 0 where there is none.
    """
    height, width = alpha.shape
    field = np.full(alpha.shape, np.float32(0.0))
    for i in range(height):
        for j in range(width):
            if alpha[i, j] >= 0.5:
                field[i, j] = NONE
    out = np.empty_like(field)
    row = np.empty(field.shape, np.int32)
    column = np.empty(field.shape, np.int32)
    _transform(field, out, row, column, flag)
    if is_cancelled(flag):
        return
    for i in range(height):
        for j in range(width):
            field[i, j] = NONE
            distance[i, j] = 0.0
            if alpha[i, j] >= 0.5 and row[i, j] >= 0:
                # The outline crosses the nearest outer pixel, where its alpha says.
                covered = alpha[row[i, j], column[i, j]]
                d = max(math.sqrt(out[i, j]) - 0.5 + covered, 0.25)
                distance[i, j] = d
                field[i, j] = -d * d
    _transform(field, out, row, column, flag)
    for i in range(height):
        for j in range(width):
            squared[i, j] = -out[i, j]
            radius[i, j] = distance[row[i, j], column[i, j]] if row[i, j] >= 0 else 0.0


@kernel("void(f4[:,::1], u1[:,::1], i8, i8[::1])")
def diffuse(squared, inside, rounds, flag) -> None:
    """Smooth the inside by `rounds` steps of diffusion; the outside keeps its values."""
    height, width = squared.shape
    other = squared.copy()
    for _ in range(rounds):
        if is_cancelled(flag):
            return
        for i in range(1, height - 1):
            for j in range(1, width - 1):
                if inside[i, j]:
                    near = (
                        squared[i - 1, j] + squared[i + 1, j] + squared[i, j - 1]
                        + squared[i, j + 1]
                    )  # fmt: skip
                    other[i, j] = 0.5 * squared[i, j] + 0.125 * near
        for i in range(1, height - 1):
            for j in range(1, width - 1):
                squared[i, j] = other[i, j]
