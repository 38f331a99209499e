"""The columns of the front and the back as voxels."""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, C901, PLR0913, PLR0917, PLR2004
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled

#: How far beyond the end of a rim the colour is the column's own, voxels; it changes over as many.
KEPT = 2.0


@kernel("void(f8[:,::1], i4[:,::1], f4[:,::1], f4[:,::1], i8[::1])")
def height_ranges(points, faces, low, high, flag) -> None:
    """Bound the heights of a sheet over each square column of the field.

    `points` are x, z and height in voxels. `low` is infinite at first, `high` below zero. The
    bounds are conservative: a triangle's plane over the column, within its own heights. `faces` are
    counter-clockwise in x and z.
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
def _rows(low, high, low_behind, high_behind, size, reach):
    """First and last voxel of a column at the front, and at the back."""
    middle = size / 2
    a = math.floor(middle - high - 0.5 - reach)
    b = math.floor(middle - low - 0.5 + reach) + 1
    c = math.floor(middle + low_behind - 0.5 - reach)
    d = math.floor(middle + high_behind - 0.5 + reach) + 1
    if c <= b:
        c = b + 1
    return max(a, 0), b, c, min(d, size - 1)


@kernel("void(f4[:,::1], f4[:,::1], f4[:,::1], f8, f4[:,:,::1], i8[::1])")
def find_rims(distance, front, back, width, rims, flag) -> None:
    """Describe the columns within `width` of the outline, where the surface turns away.

    `distance` is that of each column from the outline, `front` and `back` the heights of the
    sheets. A rim has six values: the direction inward (x, z), the way in that direction to where
    the rim ends, the longest way that still leads away from the outline, and the heights of both
    sheets where the rim ends. Other columns have the direction (0, 0).
    """
    n = distance.shape[0]
    for i in range(n):
        if is_cancelled(flag):
            return
        for k in range(n):
            rims[i, k, 0] = 0.0
            rims[i, k, 1] = 0.0
            d = distance[i, k]
            if d >= width:
                continue
            nx, nz = 0.0, 0.0
            for p in range(max(i - 3, 0), min(i + 4, n)):
                for q in range(max(k - 3, 0), min(k + 4, n)):
                    nx += (p - i) * distance[p, q]
                    nz += (q - k) * distance[p, q]
            length = math.sqrt(nx * nx + nz * nz)
            if length < 1e-6:
                continue
            nx /= length
            nz /= length
            way = width - d
            p = min(max(round(i + nx * way), 0), n - 1)
            q = min(max(round(k + nz * way), 0), n - 1)
            if distance[p, q] < 1.0:
                continue
            rims[i, k, 0] = nx
            rims[i, k, 1] = nz
            rims[i, k, 2] = way
            rims[i, k, 4] = front[p, q]
            rims[i, k, 5] = back[p, q]
            farthest = distance[p, q]
            for _ in range(n):
                p = min(max(round(i + nx * (way + 1.0)), 0), n - 1)
                q = min(max(round(k + nz * (way + 1.0)), 0), n - 1)
                if distance[p, q] < farthest + 0.3:
                    break
                farthest = distance[p, q]
                way += 1.0
            rims[i, k, 3] = way


@inner_kernel
def _color(sheet, i, k, channel, rims, height, at):
    """Colour of a sheet at a column and height; `at` is the rim's height of this sheet.

    On a rim, the distance from where it ends is measured along the surface, and the colour is
    that at the same distance inside of it.
    """
    own = sheet[i, k, channel]
    nx, nz = rims[i, k, 0], rims[i, k, 1]
    beyond = rims[i, k, at] - height
    if (nx == 0.0 and nz == 0.0) or beyond <= KEPT:
        return own
    n = sheet.shape[0]
    way = min(rims[i, k, 2] + beyond, rims[i, k, 3])
    x = min(max(i + nx * way, 0.0), n - 1.001)
    z = min(max(k + nz * way, 0.0), n - 1.001)
    p, q = int(x), int(z)
    u, v = x - p, z - q
    inside = (1 - u) * ((1 - v) * sheet[p, q, channel] + v * sheet[p, q + 1, channel]) + u * (
        (1 - v) * sheet[p + 1, q, channel] + v * sheet[p + 1, q + 1, channel]
    )
    return own + min((beyond - KEPT) / KEPT, 1.0) * (inside - own)


@kernel(
    "i8(f4[:,:,::1], f8, f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[:,::1], f4, i4[:,::1],"
    " f4[:,::1], i8[::1])"
)
def fill_voxels(
    ranges, reach, rims, front, back, opacity, roughness, coords, attributes, flag
) -> int:
    """Count the field's voxels, by x, z and y; unless `coords` is empty, write them.

    `ranges` are the bounds of the heights of both sheets: low and high of the front, low and high
    of the back. Colours and `opacity` are per column: `front` up to the middle, `back` behind it.
    """
    size = ranges.shape[1]
    dry = coords.shape[0] == 0
    at = 0
    for i in range(size):
        if is_cancelled(flag):
            return 0
        for k in range(size):
            if ranges[1, i, k] < 0 or ranges[3, i, k] < 0:
                continue
            a, b, c, d = _rows(
                ranges[0, i, k], ranges[1, i, k], ranges[2, i, k], ranges[3, i, k], size, reach
            )
            if dry:
                at += b - a + 1 + d - c + 1
                continue
            for j in range(a, d + 1):
                if b < j < c:
                    continue
                coords[at, 0] = i
                coords[at, 1] = j
                coords[at, 2] = k
                depth = j + 0.5 - 0.5 * size
                # The colours mix within two voxels of the middle.
                w = min(max(depth / 4.0 + 0.5, 0.0), 1.0)
                for channel in range(3):
                    color = 0.0
                    if w < 1.0:
                        color += (1.0 - w) * _color(front, i, k, channel, rims, abs(depth), 4)
                    if w > 0.0:
                        color += w * _color(back, i, k, channel, rims, abs(depth), 5)
                    attributes[at, channel] = color
                attributes[at, 3] = 0.0
                attributes[at, 4] = roughness
                attributes[at, 5] = opacity[i, k]
                at += 1
    return at
