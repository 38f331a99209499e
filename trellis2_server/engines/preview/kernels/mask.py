"""Removes specks from a mask."""

# Types come from the signatures; loops replace numpy's temporary arrays.
# ruff: noqa: ANN001, C901, PLR0912, PLR2004
# pyright: basic
from __future__ import annotations

import numpy as np

from trellis2_server.engines.preview.kernels.compiled import kernel
from trellis2_server.export.jit import is_cancelled

#: Largest alpha of a clear pixel.
CLEAR = 0.15


@kernel("i8(f4[:,::1], u1[:,::1], i8, i8, i8[::1])")
def drop_specks(field, seen, smallest_part, smallest_hole, flag) -> int:
    """Clear the parts of `field` (iso 0.5) that are too small; fill holes that are too small.

    Parts are connected over edges, the outside over edges and corners. A hole that is nowhere
    clear, as a window pane, is filled too. Returns the remaining area in nodes.
    """
    height, width = field.shape
    stack = np.empty(height * width, np.int32)
    area = 0
    for start in range(height * width):
        if start & 4095 == 0 and is_cancelled(flag):
            return 0
        i, j = start // width, start % width
        if seen[i, j]:
            continue
        inside = field[i, j] >= 0.5
        seen[i, j] = 1
        stack[0] = start
        clearest = field[i, j]
        count = 1
        done = 0
        while done < count:  # the stack is never popped, so that it ends as the list of members
            p, q = stack[done] // width, stack[done] % width
            clearest = min(clearest, field[p, q])
            done += 1
            if done & 4095 == 0 and is_cancelled(flag):
                return 0
            for dp in range(-1, 2):
                for dq in range(-1, 2):
                    if inside and dp != 0 and dq != 0:
                        continue
                    r, s = p + dp, q + dq
                    if r < 0 or s < 0 or r >= height or s >= width or seen[r, s]:
                        continue
                    if (field[r, s] >= 0.5) == inside:
                        seen[r, s] = 1
                        stack[count] = r * width + s
                        count += 1
        if inside and count < smallest_part:
            for k in range(count):
                field[stack[k] // width, stack[k] % width] = 0.0
        elif not inside and start != 0 and (count < smallest_hole or clearest > CLEAR):
            for k in range(count):
                field[stack[k] // width, stack[k] % width] = 1.0
            area += count
        elif inside:
            area += count
    return area
