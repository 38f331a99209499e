"""Loops that group faces by the direction of their normals.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def list_borders(twin, group, half, flag):
    count = 0
    for h in range(twin.shape[0]):
        if h & 1023 == 0 and is_cancelled(flag):
            return 0
        t = twin[h]
        if t > h and group[t // 3] != group[h // 3]:
            half[count] = h
            count += 1
    return count


@kernel
def assign_directions(start, stop, normals, directions, label, flag):
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        best = -2.0
        for w in range(directions.shape[0]):
            dot = (
                normals[f, 0] * directions[w, 0]
                + normals[f, 1] * directions[w, 1]
                + normals[f, 2] * directions[w, 2]
            )
            if dot > best:
                best = dot
                label[f] = w


@kernel
def smooth_labels(start, stop, normals, directions, twin, label, smoothed, flag):
    # The label of each face that fits its normal and the labels of its neighbours best.
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        best = -10.0
        for i in range(4):
            w = label[f]
            if i < 3:
                h = twin[3 * f + i]
                if h < 0:
                    continue
                w = label[h // 3]
            score = (
                normals[f, 0] * directions[w, 0]
                + normals[f, 1] * directions[w, 1]
                + normals[f, 2] * directions[w, 2]
            )
            for k in range(3):
                h = twin[3 * f + k]
                if h >= 0 and label[h // 3] == w:
                    score += 0.16
            if score > best or (score == best and w < smoothed[f]):
                best = score
                smoothed[f] = w


@kernel
def connected_components(twin, label, group, stack, flag):
    for f in range(label.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return 0
        group[f] = -1
    count = 0
    for seed in range(label.shape[0]):
        if seed & 1023 == 0 and is_cancelled(flag):
            return 0
        if group[seed] >= 0:
            continue
        group[seed] = count
        stack[0] = seed
        top = 1
        while top > 0:
            if top & 1023 == 0 and is_cancelled(flag):
                return 0
            top -= 1
            f = stack[top]
            for k in range(3):
                h = twin[3 * f + k]
                if h >= 0:
                    g = h // 3
                    if group[g] < 0 and label[g] == label[seed]:
                        group[g] = count
                        stack[top] = g
                        top += 1
        count += 1
    return count


@kernel
def sum_group_normals(normals, group, sums, flag):
    # sums of each group: area, area times normal, area times the six products of its components.
    for f in range(group.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        g, a = group[f], np.float64(normals[f, 3])
        x, y, z = np.float64(normals[f, 0]), np.float64(normals[f, 1]), np.float64(normals[f, 2])
        sums[g, 0] += a
        sums[g, 1] += a * x
        sums[g, 2] += a * y
        sums[g, 3] += a * z
        sums[g, 4] += a * x * x
        sums[g, 5] += a * x * y
        sums[g, 6] += a * x * z
        sums[g, 7] += a * y * y
        sums[g, 8] += a * y * z
        sums[g, 9] += a * z * z


@kernel
def merge_groups(low, high, sums, parent, limit, limit_small, small, flag):
    merged = 0
    for i in range(low.shape[0]):
        if i & 1023 == 0 and is_cancelled(flag):
            return 0
        a, b = low[i], high[i]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a == b:
            continue
        area = sums[a, 0] + sums[b, 0]
        x, y, z = sums[a, 1] + sums[b, 1], sums[a, 2] + sums[b, 2], sums[a, 3] + sums[b, 3]
        length = np.sqrt(x * x + y * y + z * z)
        allowed = limit_small if min(sums[a, 0], sums[b, 0]) < small else limit
        if area > 0.0:
            if length < 0.5 * area:
                continue
            x, y, z = x / length, y / length, z / length
            along = (
                x * x * (sums[a, 4] + sums[b, 4])
                + 2.0 * x * y * (sums[a, 5] + sums[b, 5])
                + 2.0 * x * z * (sums[a, 6] + sums[b, 6])
                + y * y * (sums[a, 7] + sums[b, 7])
                + 2.0 * y * z * (sums[a, 8] + sums[b, 8])
                + z * z * (sums[a, 9] + sums[b, 9])
            )
            if 1.0 - along / area > allowed:
                continue
        if b < a:
            a, b = b, a
        parent[b] = a
        for k in range(10):
            sums[a, k] += sums[b, k]
        merged += 1
    for g in range(parent.shape[0]):
        if g & 1023 == 0 and is_cancelled(flag):
            return 0
        a = g
        while parent[a] != a:
            a = parent[a]
        parent[g] = a
    return merged
