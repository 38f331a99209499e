"""Smoothing of pictures."""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, C901
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
    taps = 2 * reach + 1
    half = np.zeros((height + 2 * reach, width), np.float32)
    line = np.zeros(width + 2 * reach, np.float32)
    for i in range(height):
        if i & 15 == 0 and is_cancelled(flag):
            return
        line[reach : reach + width] = values[i]
        to = half[i + reach]
        # Slices, so that the inner loop has no index that might be negative: it is vectorised.
        for t in range(taps):
            w = weights[t]
            of = line[t : t + width]
            for j in range(width):
                to[j] += w * of[j]
    for i in range(height):
        if i & 15 == 0 and is_cancelled(flag):
            return
        to = out[i]
        for j in range(width):
            to[j] = 0.0
        for t in range(taps):
            w = weights[t]
            of = half[i + t]
            for j in range(width):
                to[j] += w * of[j]
