"""Loops that find the half-edge on the other side of each edge.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def list_corners(faces, first, corners, flag):
    n = first.shape[0] - 1
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(3):
            first[faces[f, k]] += 1
    total = 0
    for v in range(n + 1):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        total += first[v]
        first[v] = total
    for f in range(faces.shape[0] - 1, -1, -1):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(2, -1, -1):
            v = faces[f, k]
            first[v] -= 1
            corners[first[v]] = 3 * f + k


@kernel
def sort_half_edges(faces, first, order, far, flag):
    # List the half-edges at their smaller vertex; `far` has the larger vertex.
    n = first.shape[0] - 1
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(3):
            first[min(faces[f, k], faces[f, (k + 1) % 3])] += 1
    total = 0
    for v in range(n + 1):
        if v & 1023 == 0 and is_cancelled(flag):
            return
        total += first[v]
        first[v] = total
    for f in range(faces.shape[0] - 1, -1, -1):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(2, -1, -1):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            v = min(a, b)
            first[v] -= 1
            order[first[v]] = 3 * f + k
            far[first[v]] = max(a, b)


@kernel
def pair_half_edges(start, stop, first, order, far, twin, flag):
    for v in range(start, stop):
        if v & 255 == 0 and is_cancelled(flag):
            return
        low, high = first[v], first[v + 1]
        # Shell sort by the larger vertex: nearly always a few items, rarely very many.
        gap = 1
        while 3 * gap < high - low:
            gap = 3 * gap + 1
        while gap > 0:
            for i in range(low + gap, high):
                if i & 1023 == 0 and is_cancelled(flag):
                    return
                key, h = far[i], order[i]
                j = i
                while j >= low + gap and far[j - gap] > key:
                    far[j], order[j] = far[j - gap], order[j - gap]
                    j -= gap
                far[j], order[j] = key, h
            gap //= 3
        i = low
        while i < high:
            if i & 1023 == 0 and is_cancelled(flag):
                return
            j = i + 1
            while j < high and far[j] == far[i]:
                j += 1
            if j - i == 2:
                twin[order[i]] = order[i + 1]
                twin[order[i + 1]] = order[i]
            else:
                for t in range(i, j):
                    twin[order[t]] = -1 if j - i == 1 else -2
            i = j
