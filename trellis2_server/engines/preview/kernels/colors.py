"""The picture on the field's columns, at several levels of detail."""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001
# pyright: basic
from __future__ import annotations

import math

from trellis2_server.engines.preview.kernels.compiled import kernel
from trellis2_server.export.jit import is_cancelled


@kernel("void(u1[:,:,::1], f8, f8, f4[:,:,::1], i8[::1])")
def resample(picture, margin, scale, out, flag) -> None:
    """Resample the picture to the field's columns: `out[x, z]` is RGB times weight, weight.

    Pixels are box filtered over `scale` pixels, at least one. A pixel with alpha 0 has weight
    0, any other has weight 1.
    """
    size = picture.shape[0]
    n = out.shape[0]
    half = 0.5 * max(1.0, scale)
    norm = 1.0 / (4.0 * half * half)
    for x in range(n):
        if is_cancelled(flag):
            return
        px = (x + 0.5 - margin) * scale
        left = max(math.floor(px - half), 0)
        right = min(math.floor(px + half), size - 1)
        for z in range(n):
            py = size - (z + 0.5 - margin) * scale
            for c in range(4):
                out[x, z, c] = 0.0
            for i in range(max(math.floor(py - half), 0), min(math.floor(py + half), size - 1) + 1):
                wi = norm * (min(py + half, i + 1.0) - max(py - half, float(i)))
                for j in range(left, right + 1):
                    if picture[i, j, 3] == 0:
                        continue
                    w = wi * (min(px + half, j + 1.0) - max(px - half, float(j)))
                    for c in range(3):
                        out[x, z, c] += w * picture[i, j, c] / 255.0
                    out[x, z, 3] += w


@kernel("void(f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], i8[::1])")
def refine(coarse, level, out, flag) -> None:
    """Double `coarse` and add the detail of `level`, which is premultiplied by its weight."""
    height, width = out.shape[0], out.shape[1]
    ch, cw = coarse.shape[0], coarse.shape[1]
    for i in range(height):
        if is_cancelled(flag):
            return
        ci = i >> 1
        di = min(max(ci + (1 if i & 1 else -1), 0), ch - 1)
        for j in range(width):
            cj = j >> 1
            dj = min(max(cj + (1 if j & 1 else -1), 0), cw - 1)
            # A quarter of a column's weight is enough for its colour, so that colours grow
            # outward over the shortest distance.
            weight = min(4.0 * level[i, j, 3], 1.0)
            gain = weight / level[i, j, 3] if weight > 0.0 else 0.0
            for c in range(3):
                up = 0.75 * (0.75 * coarse[ci, cj, c] + 0.25 * coarse[ci, dj, c]) + 0.25 * (
                    0.75 * coarse[di, cj, c] + 0.25 * coarse[di, dj, c]
                )
                out[i, j, c] = gain * level[i, j, c] + (1.0 - weight) * up
