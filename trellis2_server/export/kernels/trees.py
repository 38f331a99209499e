"""Loops that put triangles into a tree of boxes.

The triangles are sorted along a Morton curve: Lauterbach and others, "Fast BVH Construction on
GPUs" (2009). Nodes are in depth-first order. An inner node's first child is the next node, its
second one is `-1 - left[node]`; a leaf has `left[node] >= 0`, and the triangles
`order[left[node]:right[node]]`. A box is three smallest and three largest coordinates.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, D103, PLR0913, PLR0917
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel

#: Faces of a leaf, at most; those with the same code stay together.
LEAF = 4
#: Levels of the tree, at most: one for each bit of a code, and those that halve equal codes.
_DEPTH = 96


@kernel
def spread_bits(value):
    # Ten bits, two zeros before each.
    value = (value | (value << 16)) & 0x030000FF
    value = (value | (value << 8)) & 0x0300F00F
    value = (value | (value << 4)) & 0x030C30C3
    return (value | (value << 2)) & 0x09249249


@kernel
def morton_codes(start, stop, vertices, faces, low, scale, codes, flag):
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        code = np.int64(0)
        for axis in range(3):
            middle = (
                np.float64(vertices[faces[f, 0], axis])
                + vertices[faces[f, 1], axis]
                + vertices[faces[f, 2], axis]
            ) / 3.0
            place = np.int64(min(1023.0, max(0.0, (middle - low[axis]) * scale)))
            code |= spread_bits(place) << (2 - axis)
        codes[f] = code


@kernel
def build_nodes(codes, order, left, right, flag):
    # Returns the number of nodes.
    starts, stops, parents = (
        np.empty(_DEPTH, np.int32),
        np.empty(_DEPTH, np.int32),
        np.empty(_DEPTH, np.int32),
    )
    starts[0], stops[0], parents[0] = 0, codes.shape[0], -1
    waiting, count = 1, 0
    while waiting > 0:
        if count & 1023 == 0 and is_cancelled(flag):
            return 0
        waiting -= 1
        start, stop = starts[waiting], stops[waiting]
        node = count
        count += 1
        if parents[waiting] >= 0:
            left[parents[waiting]] = -1 - node
        right[node] = stop
        if stop - start <= LEAF:
            left[node] = start
            continue
        first, last = codes[order[start]], codes[order[stop - 1]]
        middle = (start + stop) // 2
        if first != last:
            # The first code that differs from `first` in the highest bit that differs at all.
            bit = np.int64(1)
            while (first ^ last) >> 1 >= bit:
                bit <<= 1
            low, high = start, stop - 1
            while low + 1 < high:
                probe = (low + high) // 2
                if codes[order[probe]] & bit:
                    high = probe
                else:
                    low = probe
            middle = high
        # The second child comes last: it waits while all of the first one is built.
        starts[waiting], stops[waiting], parents[waiting] = middle, stop, node
        starts[waiting + 1], stops[waiting + 1], parents[waiting + 1] = start, middle, -1
        waiting += 2
    return count


@kernel
def bound_leaves(start, stop, vertices, faces, order, left, right, boxes, flag):
    # boxes: lower corner, upper corner.
    for node in range(start, stop):
        if node & 255 == 0 and is_cancelled(flag):
            return
        if left[node] < 0:
            continue
        for axis in range(3):
            low, high = np.float32(np.inf), np.float32(-np.inf)
            for i in range(left[node], right[node]):
                for corner in range(3):
                    value = vertices[faces[order[i], corner], axis]
                    low, high = min(low, value), max(high, value)
            boxes[node, axis], boxes[node, 3 + axis] = low, high


@kernel
def bound_nodes(left, boxes, flag):
    # Children follow their parent.
    for node in range(boxes.shape[0] - 1, -1, -1):
        if node & 1023 == 0 and is_cancelled(flag):
            return
        if left[node] >= 0:
            continue
        other = -1 - left[node]
        for axis in range(3):
            boxes[node, axis] = min(boxes[node + 1, axis], boxes[other, axis])
            boxes[node, 3 + axis] = max(boxes[node + 1, 3 + axis], boxes[other, 3 + axis])


@kernel
def gather_triangles(start, stop, vertices, faces, order, triangles, flag):
    # In the order of the leaves: the first corner and the two edges from there.
    for i in range(start, stop):
        if i & 1023 == 0 and is_cancelled(flag):
            return
        a, b, c = faces[order[i], 0], faces[order[i], 1], faces[order[i], 2]
        for axis in range(3):
            triangles[i, axis] = vertices[a, axis]
            triangles[i, 3 + axis] = vertices[b, axis] - vertices[a, axis]
            triangles[i, 6 + axis] = vertices[c, axis] - vertices[a, axis]
