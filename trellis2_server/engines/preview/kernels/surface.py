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

#: Parts of a thin face are at most as long as this; all voxels of a part's box are marked, voxels.
PART_LENGTH = 1.0
#: A face is thin if its height over its longest edge is at most this, voxels. Others are marked
#: column by column: their boxes would hold many voxels that nothing reads.
THIN = 0.5
#: Added around positions because of rounding, voxels.
SLACK = 1e-3


@kernel("void(f4[:,::1], i4[:,::1], f8[::1], i8[::1])")
def measure(vertices, faces, totals, flag) -> None:
    """Write the sum of the faces' areas to `totals[0]`, that of their longest edges to [1]."""
    area, length = 0.0, 0.0
    for f in range(faces.shape[0]):
        if f & 4095 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        squares = np.zeros(3)
        edge, side = np.empty(3), np.empty(3)
        for axis in range(3):
            edge[axis] = float(vertices[b, axis]) - float(vertices[a, axis])
            side[axis] = float(vertices[c, axis]) - float(vertices[a, axis])
            squares[0] += edge[axis] ** 2
            squares[1] += side[axis] ** 2
            squares[2] += (edge[axis] - side[axis]) ** 2
        x = edge[1] * side[2] - edge[2] * side[1]
        y = edge[2] * side[0] - edge[0] * side[2]
        z = edge[0] * side[1] - edge[1] * side[0]
        area += 0.5 * math.sqrt(x * x + y * y + z * z)
        length += math.sqrt(max(squares[0], squares[1], squares[2]))
    totals[0], totals[1] = area, length


@inner_kernel
def _first(position, size):
    """The first voxel that sampling at a position, or above it, reads."""
    return min(max(math.floor(position - 0.5 - SLACK), 0), size)


@inner_kernel
def _end(position, size):
    """The end of the voxels that sampling at a position, or below it, reads."""
    return min(max(math.floor(position - 0.5 + SLACK) + 2, 0), size)


@inner_kernel
def _mark_box(low, high, size, bits):
    """Mark the voxels that sampling in a box reads."""
    for i in range(_first(low[0], size), _end(high[0], size)):
        for j in range(_first(low[1], size), _end(high[1], size)):
            row = (i * size + j) * size
            for k in range(_first(low[2], size), _end(high[2], size)):
                at = row + k
                bits[at >> 3] |= np.uint8(1 << (at & 7))


@inner_kernel
def _mark_thin(p, side, length, size, bits, low, high, flag):
    """Mark the voxels that sampling a thin face reads, in parts along its longest edge.

    Args:
        p: corners, [3, 3].
        side: the corner at which the longest edge starts.
        length: of that edge.
        size: edge of the field, voxels.
        bits: of all voxels.
        low: memory for three numbers.
        high: memory for three numbers.
        flag: see `cancellation`.
    """
    a, b, c = side, (side + 1) % 3, (side + 2) % 3
    share = 0.5  # of the edge, at which the third corner lies
    if length > 0.0:
        dot = 0.0
        for axis in range(3):
            dot += (p[c, axis] - p[a, axis]) * (p[b, axis] - p[a, axis])
        share = min(max(dot / (length * length), 0.0), 1.0)
    parts = max(math.ceil(length / PART_LENGTH), 1)
    for part in range(parts):
        if part & 255 == 0 and is_cancelled(flag):
            return
        for axis in range(3):
            low[axis], high[axis] = np.inf, -np.inf
            for end in range(2):
                t = (part + end) / parts
                on_edge = p[a, axis] + t * (p[b, axis] - p[a, axis])
                if t < share:
                    other = p[a, axis] + t / share * (p[c, axis] - p[a, axis])
                elif t > share:
                    other = p[b, axis] + (1.0 - t) / (1.0 - share) * (p[c, axis] - p[b, axis])
                else:
                    other = p[c, axis]
                low[axis] = min(low[axis], on_edge, other)
                high[axis] = max(high[axis], on_edge, other)
            if part / parts <= share <= (part + 1) / parts:
                low[axis] = min(low[axis], p[c, axis])
                high[axis] = max(high[axis], p[c, axis])
        _mark_box(low, high, size, bits)


@inner_kernel
def _mark_columns(p, normal, size, bits, flag):
    """Mark the voxels that sampling a face reads, in columns along the largest axis of its normal.

    A column is read if the square of two voxels around its centre meets the projected face. There
    the face's plane bounds the positions in the column.

    Args:
        p: corners, [3, 3].
        normal: of any length but 0.
        size: edge of the field, voxels.
        bits: of all voxels.
        flag: see `cancellation`.
    """
    w = 0
    for axis in range(1, 3):
        if abs(normal[axis]) > abs(normal[w]):
            w = axis
    u, v = (w + 1) % 3, (w + 2) % 3
    step_u, step_v, step_w = size ** (2 - u), size ** (2 - v), size ** (2 - w)
    slope_u, slope_v = -normal[u] / normal[w], -normal[v] / normal[w]
    reach = abs(slope_u) + abs(slope_v)
    lowest = min(p[0, w], p[1, w], p[2, w])
    highest = max(p[0, w], p[1, w], p[2, w])
    first = _first(min(p[0, u], p[1, u], p[2, u]), size)
    for i in range(first, _end(max(p[0, u], p[1, u], p[2, u]), size)):
        if is_cancelled(flag):
            return
        # The part of the projected face between two lines.
        left, right = i - 0.5 - SLACK, i + 1.5 + SLACK
        low, high = np.inf, -np.inf
        for c in range(3):
            d = (c + 1) % 3
            one, two = p[c, u], p[d, u]
            if max(one, two) < left or min(one, two) > right:
                continue
            for bound in (left, right):
                t = 0.0 if bound == left else 1.0
                if one != two:
                    t = min(max((bound - one) / (two - one), 0.0), 1.0)
                at = p[c, v] + t * (p[d, v] - p[c, v])
                low, high = min(low, at), max(high, at)
        if low > high:
            continue
        for j in range(_first(low, size), _end(high, size)):
            centre = p[0, w] + slope_u * (i + 0.5 - p[0, u]) + slope_v * (j + 0.5 - p[0, v])
            row = i * step_u + j * step_v
            start = _first(max(centre - reach, lowest), size)
            for k in range(start, _end(min(centre + reach, highest), size)):
                at = row + k * step_w
                bits[at >> 3] |= np.uint8(1 << (at & 7))


@kernel("void(f4[:,::1], i4[:,::1], i8, u1[::1], i8[::1])")
def mark(vertices, faces, size, bits, flag) -> None:
    """Set the bit (i · size + j) · size + k of each voxel that sampling the surface reads.

    The work of a face grows with its area and its longest edge in voxels.

    Args:
        vertices: in the model frame.
        faces: rows of them.
        size: edge of the field, voxels.
        bits: of all voxels.
        flag: see `cancellation`.
    """
    p, normal = np.empty((3, 3)), np.empty(3)
    low, high = np.empty(3), np.empty(3)
    for f in range(faces.shape[0]):
        if f & 63 == 0 and is_cancelled(flag):
            return
        for c in range(3):
            for axis in range(3):
                p[c, axis] = (vertices[faces[f, c], axis] + 0.5) * size
        longest, side = 0.0, 0
        for c in range(3):
            d = (c + 1) % 3
            square = 0.0
            for axis in range(3):
                square += (p[c, axis] - p[d, axis]) ** 2
            if square > longest:
                longest, side = square, c
        for axis in range(3):
            one, two = (axis + 1) % 3, (axis + 2) % 3
            normal[axis] = (p[1, one] - p[0, one]) * (p[2, two] - p[0, two]) - (
                p[1, two] - p[0, two]
            ) * (p[2, one] - p[0, one])
        area = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)  # twice the area
        if longest <= PART_LENGTH * PART_LENGTH or area <= THIN * math.sqrt(longest):
            _mark_thin(p, side, math.sqrt(longest), size, bits, low, high, flag)
        else:
            _mark_columns(p, normal, size, bits, flag)


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
