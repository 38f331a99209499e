"""Loops over half-edges.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR2004
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

from trellis2_server.export.kernel import kernel


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
def pair(faces, order, scratch, count, twin):
    # Two stable counting sorts, by the larger and then by the smaller vertex.
    half_edges = faces.shape[0] * 3
    n = count.shape[0] - 1
    for sweep in range(2):
        for v in range(n + 1):
            count[v] = 0
        for h in range(half_edges):
            f, k = h // 3, h % 3
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            key = max(a, b) if sweep == 0 else min(a, b)
            count[key + 1] += 1
        for v in range(n):
            count[v + 1] += count[v]
        for i in range(half_edges):
            h = i if sweep == 0 else scratch[i]
            f, k = h // 3, h % 3
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            key = max(a, b) if sweep == 0 else min(a, b)
            if sweep == 0:
                scratch[count[key]] = h
            else:
                order[count[key]] = h
            count[key] += 1
    i = 0
    while i < half_edges:
        f, k = order[i] // 3, order[i] % 3
        a, b = faces[f, k], faces[f, (k + 1) % 3]
        low, high = min(a, b), max(a, b)
        j = i + 1
        while j < half_edges:
            g, m = order[j] // 3, order[j] % 3
            c, d = faces[g, m], faces[g, (m + 1) % 3]
            if min(c, d) != low or max(c, d) != high:
                break
            j += 1
        if j - i == 2:
            twin[order[i]] = order[i + 1]
            twin[order[i + 1]] = order[i]
        else:
            for t in range(i, j):
                twin[order[t]] = -1 if j - i == 1 else -2
        i = j
