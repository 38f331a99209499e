"""Loops over half-edges.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR2004
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

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
def sort_edges(faces, first, order, far):
    # Half-edges by their smaller vertex: a list each, with the larger vertex beside.
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
def pair(start, stop, first, order, far, twin):
    for v in range(start, stop):
        low, high = first[v], first[v + 1]
        # Shell sort by the larger vertex: nearly always a handful, rarely very many.
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


@kernel
def pair_smoothest(vertices, faces, half, first, partner, turn):
    # Of the faces at each edge of several, the two that go on into one another with the least
    # turn, then those of the rest: half-edges half[first[e]:first[e + 1]] are those at edge e.
    # turn: its cosine; partner: the other one. What turns by more than 60 degrees
    # stays alone, with -1, and so do more than 16: no surface is like that.
    for i in range(half.shape[0]):
        partner[i] = -1
    for e in range(first.shape[0] - 1):
        while first[e + 1] - first[e] <= 16:
            best, one, two = 0.5, -1, -1
            for i in range(first[e], first[e + 1]):
                if partner[i] >= 0:
                    continue
                nx, ny, nz = normal(vertices, faces, half[i] // 3)
                for j in range(i + 1, first[e + 1]):
                    if partner[j] >= 0:
                        continue
                    mx, my, mz = normal(vertices, faces, half[j] // 3)
                    square = (nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz)
                    along = (nx * mx + ny * my + nz * mz) / np.sqrt(square + 1e-300)
                    if faces[half[i] // 3, half[i] % 3] == faces[half[j] // 3, half[j] % 3]:
                        along = -along
                    if along > best:
                        best, one, two = along, i, j
            if one < 0:
                break
            partner[one], partner[two] = half[two], half[one]
            turn[one] = turn[two] = best


@kernel
def normal(vertices, faces, f):
    ux, uy, uz = minus(vertices, faces[f, 1], faces[f, 0])
    vx, vy, vz = minus(vertices, faces[f, 2], faces[f, 0])
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


# A part is a tree of its faces, whose root is the first of them. root: twice a face further up,
# itself at the root, and 1 more where the two are not wound alike. Parts of parts are the same.


@kernel
def minus(vertices, a, b):
    return (
        np.float64(vertices[a, 0]) - np.float64(vertices[b, 0]),
        np.float64(vertices[a, 1]) - np.float64(vertices[b, 1]),
        np.float64(vertices[a, 2]) - np.float64(vertices[b, 2]),
    )
