"""The voxels along a surface of any shape, and their colours.

Positions are in voxels: voxel (i, j, k) covers (i, j, k) to (i + 1, j + 1, k + 1).
"""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, C901, PLR0913, PLR0917
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled

#: Longest edge of a part of a face; all voxels of the part's box are marked, voxels.
MAX_EDGE = 1.0
#: Most halvings of a face; an edge across the whole field needs fewer.
DEPTH = 64


@inner_kernel
def _mark_box(x0, y0, z0, x1, y1, z1, size, bits):
    for i in range(max(math.floor(x0 - 0.5), 0), min(math.floor(x1 - 0.5) + 1, size - 1) + 1):
        for j in range(max(math.floor(y0 - 0.5), 0), min(math.floor(y1 - 0.5) + 1, size - 1) + 1):
            row = (i * size + j) * size
            low = max(math.floor(z0 - 0.5), 0)
            for k in range(low, min(math.floor(z1 - 0.5) + 1, size - 1) + 1):
                at = row + k
                bits[at >> 3] |= np.uint8(1 << (at & 7))


@kernel("void(f8[:,::1], i4[:,::1], i8, u1[::1], i8[::1])")
def mark(points, faces, size, bits, flag) -> None:
    """Set the bit (i · size + j) · size + k of each voxel that sampling the surface reads.

    A face is halved at its longest edge until no edge is longer than `MAX_EDGE`. The corners
    of trilinear sampling anywhere in such a part are in its box, rounded outward.
    """
    stack = np.empty((DEPTH, 9))
    parts = 0
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return
        for c in range(3):
            for axis in range(3):
                stack[0, 3 * c + axis] = points[faces[f, c], axis]
        count = 1
        while count > 0:
            count -= 1
            parts += 1
            if parts & 4095 == 0 and is_cancelled(flag):
                return
            longest, side = 0.0, 0
            for c in range(3):
                d = (c + 1) % 3
                length = 0.0
                for axis in range(3):
                    length += (stack[count, 3 * c + axis] - stack[count, 3 * d + axis]) ** 2
                if length > longest:
                    longest, side = length, c
            if longest <= MAX_EDGE * MAX_EDGE or count + 2 > DEPTH:
                p = stack[count]
                _mark_box(
                    min(p[0], p[3], p[6]), min(p[1], p[4], p[7]), min(p[2], p[5], p[8]),
                    max(p[0], p[3], p[6]), max(p[1], p[4], p[7]), max(p[2], p[5], p[8]),
                    size, bits,
                )  # fmt: skip
                continue
            a, b = 3 * side, 3 * ((side + 1) % 3)
            for axis in range(9):
                stack[count + 1, axis] = stack[count, axis]
            for axis in range(3):
                middle = 0.5 * (stack[count, a + axis] + stack[count, b + axis])
                stack[count, b + axis] = middle
                stack[count + 1, a + axis] = middle
            count += 2


@kernel("i8(u1[::1], i8, i4[:,::1], i8[::1])")
def first_depths(bits, size, depth, flag) -> int:
    """Count the bits that are set; set `depth[i, k]` to the smallest j of column (i, ·, k)."""
    count = 0
    for at in range(bits.shape[0]):
        if at & 1023 == 0 and is_cancelled(flag):
            return 0
        byte = bits[at]
        if byte == 0:
            continue
        for bit in range(8):
            if byte >> bit & 1:
                voxel = at * 8 + bit
                i, j, k = voxel // (size * size), voxel // size % size, voxel % size
                depth[i, k] = min(depth[i, k], j)
                count += 1
    return count


@kernel("void(u1[::1], i4[:,::1], i4, f4[:,:,::1], f4[:,:,::1], f4, i4[:,::1], f4[:,::1], i8[::1])")
def paint(bits, depth, reach, front, back, roughness, coords, attributes, flag) -> None:
    """Write the marked voxels and their attributes.

    A voxel within `reach` of the first surface of its column, or of a neighbouring column, is
    seen from the front and has the colour of `front`; over the next `reach` voxels the colour
    changes to that of `back`.
    """
    size = depth.shape[0]
    row = 0
    for at in range(bits.shape[0]):
        if at & 255 == 0 and is_cancelled(flag):
            return
        byte = bits[at]
        if byte == 0:
            continue
        for bit in range(8):
            if not byte >> bit & 1:
                continue
            voxel = at * 8 + bit
            i, j, k = voxel // (size * size), voxel // size % size, voxel % size
            first = -1
            for p in range(max(i - 1, 0), min(i + 1, size - 1) + 1):
                for q in range(max(k - 1, 0), min(k + 1, size - 1) + 1):
                    if depth[p, q] < size:
                        first = max(first, depth[p, q])
            hidden = min(max((j - first - reach) / reach, 0.0), 1.0)
            coords[row, 0], coords[row, 1], coords[row, 2] = i, j, k
            for c in range(3):
                attributes[row, c] = (1.0 - hidden) * front[i, k, c] + hidden * back[i, k, c]
            attributes[row, 3] = 0.0
            attributes[row, 4] = roughness
            attributes[row, 5] = 1.0
            row += 1
