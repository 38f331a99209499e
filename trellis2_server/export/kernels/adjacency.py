"""Loops that find the half-edge on the other side of each edge.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, D103, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

from trellis2_server.export.jit import kernel


@kernel
def list_corners(faces, first, corners):
    n = first.shape[0] - 1
    for f in range(faces.shape[0]):
        for k in range(3):
            first[faces[f, k]] += 1
    total = 0
    for v in range(n + 1):
        total += first[v]
        first[v] = total
    for f in range(faces.shape[0] - 1, -1, -1):
        for k in range(2, -1, -1):
            v = faces[f, k]
            first[v] -= 1
            corners[first[v]] = 3 * f + k


@kernel
def sort_half_edges(faces, first, order, far):
    # List the half-edges at their smaller vertex; `far` has the larger vertex.
    n = first.shape[0] - 1
    for f in range(faces.shape[0]):
        for k in range(3):
            first[min(faces[f, k], faces[f, (k + 1) % 3])] += 1
    total = 0
    for v in range(n + 1):
        total += first[v]
        first[v] = total
    for f in range(faces.shape[0] - 1, -1, -1):
        for k in range(2, -1, -1):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            v = min(a, b)
            first[v] -= 1
            order[first[v]] = 3 * f + k
            far[first[v]] = max(a, b)


@kernel
def pair_half_edges(start, stop, first, order, far, twin):
    for v in range(start, stop):
        low, high = first[v], first[v + 1]
        # Shell sort by the larger vertex: nearly always a few items, rarely very many.
        gap = 1
        while 3 * gap < high - low:
            gap = 3 * gap + 1
        while gap > 0:
            for i in range(low + gap, high):
                key, h = far[i], order[i]
                j = i
                while j >= low + gap and far[j - gap] > key:
                    far[j], order[j] = far[j - gap], order[j - gap]
                    j -= gap
                far[j], order[j] = key, h
            gap //= 3
        i = low
        while i < high:
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
