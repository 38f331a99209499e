"""Smoothing of pictures."""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import kernel
from trellis2_server.export.jit import is_cancelled


@kernel("void(f4[:,::1], f8, f4[:,::1], i8[::1])")
def blur(values, sigma, out, flag) -> None:
    """Convolve with a Gaussian of `sigma` pixels. Outside, everything is 0."""
    height, width = values.shape
    reach = max(math.ceil(3.0 * sigma), 1)
    weights = np.empty(2 * reach + 1, np.float32)
    total = 0.0
    for t in range(-reach, reach + 1):
        total += math.exp(-0.5 * (t / sigma) ** 2)
    for t in range(-reach, reach + 1):
        weights[t + reach] = math.exp(-0.5 * (t / sigma) ** 2) / total
    half = np.zeros((height, width), np.float32)
    for i in range(height):
        if i & 15 == 0 and is_cancelled(flag):
            return
        for t in range(-reach, reach + 1):
            w = weights[t + reach]
            for j in range(max(0, -t), min(width, width - t)):
                half[i, j] += w * values[i, j + t]
    for i in range(height):
        if i & 15 == 0 and is_cancelled(flag):
            return
        for j in range(width):
            out[i, j] = 0.0
        for p in range(max(0, i - reach), min(height, i + reach + 1)):
            w = weights[p - i + reach]
            for j in range(width):
                out[i, j] += w * half[p, j]
