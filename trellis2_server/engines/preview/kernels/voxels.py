"""The front sheet's columns as voxels."""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, PLR0913, PLR0917, PLR2004
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled


@kernel("void(f8[:,::1], i4[:,::1], f4[:,::1], f4[:,::1], i8[::1])")
def height_ranges(points, faces, low, high, flag) -> None:
    """Bound the heights of the front sheet over each square column of the field.

    `points` are x, z and height in voxels. `low` is infinite at first, `high` below zero. The
    bounds are conservative: a triangle's plane over the column, within its own heights.
    """
    size = low.shape[0]
    box = np.empty((3, 4))
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for axis in range(3):
            p, q, r = points[a, axis], points[b, axis], points[c, axis]
            box[axis, 0] = min(min(p, q), r)  # noqa: PLW3301 (compiles faster)
            box[axis, 1] = max(max(p, q), r)  # noqa: PLW3301
            box[axis, 2] = q - p
            box[axis, 3] = r - p
        ux, uz, uh = box[0, 2], box[1, 2], box[2, 2]
        vx, vz, vh = box[0, 3], box[1, 3], box[2, 3]
        h0, h1 = box[2, 0], box[2, 1]
        area = ux * vz - uz * vx
        gx, gz = 0.0, 0.0
        if abs(area) > 1e-12:
            gx = (uh * vz - uz * vh) / area
            gz = (ux * vh - uh * vx) / area
        spread = 0.5 * (abs(gx) + abs(gz))
        for i in range(max(0, math.floor(box[0, 0])), min(size - 1, math.floor(box[0, 1])) + 1):
            for k in range(max(0, math.floor(box[1, 0])), min(size - 1, math.floor(box[1, 1])) + 1):
                # Whether the column is completely outside one of the triangle's edges.
                apart = False
                for side in range(3):
                    s, t = faces[f, side], faces[f, (side + 1) % 3]
                    ex, ez = points[t, 0] - points[s, 0], points[t, 1] - points[s, 1]
                    d = ex * (k + 0.5 - points[s, 1]) - ez * (i + 0.5 - points[s, 0])
                    apart |= d < -0.5 * (abs(ex) + abs(ez))
                if apart:
                    continue
                mid = points[a, 2] + gx * (i + 0.5 - points[a, 0]) + gz * (k + 0.5 - points[a, 1])
                low[i, k] = min(low[i, k], max(h0, min(h1, mid - spread)))
                high[i, k] = max(high[i, k], min(h1, max(h0, mid + spread)))


@inner_kernel
def _rows(low, high, size, reach):
    """First and last voxel of a column at the front, and at the back."""
    middle = size / 2
    a = math.floor(middle - high - 0.5 - reach)
    b = math.floor(middle - low - 0.5 + reach) + 1
    c = math.floor(middle + low - 0.5 - reach)
    d = math.floor(middle + high - 0.5 + reach) + 1
    if c <= b:
        c = b + 1
    return max(a, 0), b, c, min(d, size - 1)


@kernel("i8(f4[:,::1], f4[:,::1], f8, f4[:,:,::1], f4[:,:,::1], f4, i4[:,::1], f4[:,::1], i8[::1])")
def fill_voxels(low, high, reach, front, back, roughness, coords, attributes, flag) -> int:
    """Count the field's voxels, by x, z and y; unless `coords` is empty, write them.

    Colours are per column: `front` up to the middle, `back` behind it.
    """
    size = low.shape[0]
    dry = coords.shape[0] == 0
    at = 0
    for i in range(size):
        if is_cancelled(flag):
            return 0
        for k in range(size):
            if high[i, k] < 0:
                continue
            a, b, c, d = _rows(low[i, k], high[i, k], size, reach)
            if dry:
                at += b - a + 1 + d - c + 1
                continue
            for j in range(a, d + 1):
                if b < j < c:
                    continue
                coords[at, 0] = i
                coords[at, 1] = j
                coords[at, 2] = k
                # The colours mix within two voxels of the middle.
                w = min(max((j + 0.5 - 0.5 * size) / 4.0 + 0.5, 0.0), 1.0)
                for channel in range(3):
                    f = front[i, k, channel]
                    attributes[at, channel] = f + w * (back[i, k, channel] - f)
                attributes[at, 3] = 0.0
                attributes[at, 4] = roughness
                attributes[at, 5] = 1.0
                at += 1
    return at
