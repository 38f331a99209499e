"""Textures that are made of patches of another part of the same picture.

After C. Barnes et al., "PatchMatch: a randomized correspondence algorithm for structural image
editing", SIGGRAPH 2009, and Y. Wexler et al., "Space-time completion of video", PAMI 2007.
"""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, ANN202, C901, PLR0912, PLR0913, PLR0917
# pyright: basic
from __future__ import annotations

import math

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import inner_kernel, kernel
from trellis2_server.export.jit import is_cancelled

#: A patch has `2 RADIUS + 1` pixels along an edge.
RADIUS = 2


@inner_kernel
def _cost(picture, i, k, p, q, away, limit):
    """How much the patch at (p, q) differs from that at (i, k); stops above the limit.

    The first coordinate is x, the second z: a patch from another height costs more than one from
    further left or right, because an object is more alike along its width.
    """
    dx, dz = p - i, q - k
    total = away * (0.1 * dx * dx + dz * dz)
    for u in range(-RADIUS, RADIUS + 1):
        if total >= limit:
            return total
        for v in range(-RADIUS, RADIUS + 1):
            for c in range(3):
                d = picture[i + u, k + v, c] - picture[p + u, q + v, c]
                total += d * d
    return total


@inner_kernel
def _random(state):
    """Return the next state of a xorshift generator (G. Marsaglia, 2003), of 32 bits."""
    # numba makes 64 bits of the result of an operation.
    state = np.uint32(state ^ state << np.uint32(13))
    state = np.uint32(state ^ state >> np.uint32(17))
    return np.uint32(state ^ state << np.uint32(5))


@kernel("void(f4[:,:,::1], u1[:,::1], i4[:,::1], i4[:,:,::1], f4[:,::1], f8, i8, u4, i8[::1])")
def match(picture, wanted, sources, field, costs, away, rounds, seed, flag) -> None:
    """Find for each wanted patch a similar one among the sources.

    `wanted` marks the middles of patches, `sources` are the middles [N, 2] of those to choose
    from, `field` [x, z, 2] the chosen ones: those that are there are where the search begins.
    All patches must be inside the picture. `costs` becomes the difference of each.
    """
    width, height = wanted.shape
    state = seed
    is_source = np.zeros((width, height), np.uint8)
    for s in range(sources.shape[0]):
        is_source[sources[s, 0], sources[s, 1]] = 1
    for i in range(width):
        if is_cancelled(flag):
            return
        for k in range(height):
            if wanted[i, k]:
                p, q = field[i, k, 0], field[i, k, 1]
                if p < 0 or is_source[p, q] == 0:
                    state = _random(state)
                    s = state % np.uint32(sources.shape[0])
                    p, q = sources[s, 0], sources[s, 1]
                    field[i, k, 0], field[i, k, 1] = p, q
                costs[i, k] = _cost(picture, i, k, p, q, away, np.inf)
    for turn in range(rounds):
        step = 1 if turn % 2 == 0 else -1
        for a in range(width):
            if is_cancelled(flag):
                return
            i = a if step == 1 else width - 1 - a
            for b in range(height):
                k = b if step == 1 else height - 1 - b
                if not wanted[i, k]:
                    continue
                best = costs[i, k]
                bp, bq = field[i, k, 0], field[i, k, 1]
                for axis in range(2):
                    u = i - step if axis == 0 else i
                    v = k - step if axis == 1 else k
                    if u < 0 or v < 0 or u >= width or v >= height or not wanted[u, v]:
                        continue
                    p, q = field[u, v, 0] + i - u, field[u, v, 1] + k - v
                    if p < 0 or q < 0 or p >= width or q >= height or not is_source[p, q]:
                        continue
                    cost = _cost(picture, i, k, p, q, away, best)
                    if cost < best:
                        best, bp, bq = cost, p, q
                reach = max(width, height) // 2
                while reach >= 1:
                    state = _random(state)
                    p = bp - reach + np.int64(state % np.uint32(2 * reach + 1))
                    state = _random(state)
                    q = bq - reach + np.int64(state % np.uint32(2 * reach + 1))
                    if 0 <= p < width and 0 <= q < height and is_source[p, q]:
                        cost = _cost(picture, i, k, p, q, away, best)
                        if cost < best:
                            best, bp, bq = cost, p, q
                    reach //= 2
                costs[i, k] = best
                field[i, k, 0], field[i, k, 1] = bp, bq


@kernel("void(f4[:,:,::1], u1[:,::1], u1[:,::1], i4[:,:,::1], f4[:,::1], f8, f4[:,:,::1], i8[::1])")
def vote(picture, hole, wanted, field, costs, softness, out, flag) -> None:
    """Give each pixel of the hole the mean of what the patches over it say.

    A patch counts by `exp(-cost / softness)`. `out` is like `picture` elsewhere.
    """
    width, height = hole.shape
    for i in range(width):
        if is_cancelled(flag):
            return
        for k in range(height):
            for c in range(3):
                out[i, k, c] = picture[i, k, c]
            if not hole[i, k]:
                continue
            total, r, g, b = 0.0, 0.0, 0.0, 0.0
            least = np.inf
            for u in range(max(i - RADIUS, 0), min(i + RADIUS + 1, width)):
                for v in range(max(k - RADIUS, 0), min(k + RADIUS + 1, height)):
                    if wanted[u, v]:
                        least = min(least, costs[u, v])
            for u in range(max(i - RADIUS, 0), min(i + RADIUS + 1, width)):
                for v in range(max(k - RADIUS, 0), min(k + RADIUS + 1, height)):
                    if not wanted[u, v]:
                        continue
                    p, q = field[u, v, 0] + i - u, field[u, v, 1] + k - v
                    w = math.exp((least - costs[u, v]) / softness)
                    total += w
                    r += w * picture[p, q, 0]
                    g += w * picture[p, q, 1]
                    b += w * picture[p, q, 2]
            if total > 0.0:
                out[i, k, 0] = r / total
                out[i, k, 1] = g / total
                out[i, k, 2] = b / total
