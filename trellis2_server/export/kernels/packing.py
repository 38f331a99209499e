"""Loops that pack charts into a square.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def align_charts(begin, end, flat, start, angles, flag):
    # Rotate each chart to its smallest bounding box, with a corner of the box at the origin.
    for c in range(begin, end):
        if is_cancelled(flag):
            return
        best, best_area = 0, np.inf
        for i in range(angles):
            if is_cancelled(flag):
                return
            co, si = np.cos(0.5 * np.pi * i / angles), np.sin(0.5 * np.pi * i / angles)
            low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
            for r in range(start[c], start[c + 1]):
                x = co * flat[r, 0] - si * flat[r, 1]
                y = si * flat[r, 0] + co * flat[r, 1]
                low_x, high_x = min(low_x, x), max(high_x, x)
                low_y, high_y = min(low_y, y), max(high_y, y)
            area = (high_x - low_x) * (high_y - low_y)
            # Keep the present angle unless another one is clearly better.
            if area < best_area * 0.98:
                best, best_area = i, area
        co, si = np.cos(0.5 * np.pi * best / angles), np.sin(0.5 * np.pi * best / angles)
        low_x, low_y = np.inf, np.inf
        for r in range(start[c], start[c + 1]):
            x = co * flat[r, 0] - si * flat[r, 1]
            y = si * flat[r, 0] + co * flat[r, 1]
            flat[r, 0], flat[r, 1] = x, y
            low_x, low_y = min(low_x, x), min(low_y, y)
        for r in range(start[c], start[c + 1]):
            flat[r, 0] -= low_x
            flat[r, 1] -= low_y


@kernel
def list_rims(twin, chart, rim, flag):
    count = 0
    for h in range(twin.shape[0]):
        if h & 1023 == 0 and is_cancelled(flag):
            return 0
        if twin[h] < 0 or chart[twin[h] // 3] != chart[h // 3]:
            rim[count] = h
            count += 1
    return count


@kernel
def measure_boxes(flat, start, box, flag):
    for c in range(box.shape[0]):
        if is_cancelled(flag):
            return
        for r in range(start[c], start[c + 1]):
            box[c, 0] = max(box[c, 0], flat[r, 0])
            box[c, 1] = max(box[c, 1], flat[r, 1])


@kernel
def rasterize_outlines(flat, edges, owner, scale, gap, cells, first, low, high, flag):
    # low, high: the first and last cell of each row of each chart, then of each column, widened by
    # the gap on all sides.
    for e in range(edges.shape[0]):
        if e & 63 == 0 and is_cancelled(flag):
            return
        c = owner[e]
        for axis in range(2):
            base = first[c] + (cells[c, 1] if axis == 1 else 0)
            px = flat[edges[e, 0], axis] * scale + gap
            py = flat[edges[e, 0], 1 - axis] * scale + gap
            qx = flat[edges[e, 1], axis] * scale + gap
            qy = flat[edges[e, 1], 1 - axis] * scale + gap
            if py > qy:
                px, py, qx, qy = qx, qy, px, py
            last_row = int(min(qy, np.float64(cells[c, 1 - axis] + gap)))
            for row in range(int(py), last_row + 1):
                slope = (qx - px) / (qy - py) if qy > py else 0.0
                x0 = px + slope * (max(np.float64(row), py) - py)
                x1 = px + slope * (min(row + 1.0, qy) - py)
                if qy == py:
                    x1 = qx
                left = int(min(x0, x1)) - gap
                right = int(max(x0, x1)) + gap
                for widened in range(max(0, row - gap), min(cells[c, 1 - axis], row + gap + 1)):
                    low[base + widened] = min(low[base + widened], max(left, 0))
                    high[base + widened] = max(high[base + widened], min(right, cells[c, axis] - 1))


@kernel
def count_outlined(first, low, high, cells, counts, flag):
    for c in range(cells.shape[0]):
        if is_cancelled(flag):
            return
        counts[0, c], counts[1, c] = 0, 0
        middle = first[c] + cells[c, 1]
        for row in range(first[c], first[c + 1]):
            counts[0 if row < middle else 1, c] += max(np.int64(high[row]) - low[row] + 1, 0)


@kernel
def longest_free_run(last, y):
    # Length of the longest run of free cells in a row.
    run = 0
    x = last.shape[1] - 1
    while x >= run:
        run = max(run, x - last[y, x])
        x = last[y, x]
        while x >= 0 and last[y, x] == x:
            x -= 1
    return run


@kernel
def coprime_step(height):
    # A step that visits all rows, distant rows first.
    step = max(1, int(0.382 * height))
    while True:
        a, b = height, step
        while b > 0:
            a, b = b, a % b
        if a == 1:
            return step
        step += 1


@kernel
def place_charts(
    order, cells, orientations, first, low, high, last, start_rows, is_fast, placed, flag
):
    # last[y, x]: the nearest occupied cell at or left of x in row y.
    # start_rows: the row at which the previous chart of about the same size was placed. For
    # small charts the search starts there, with is_fast for large charts too.
    # orientations: 0 or 1 if only the rows, or only the columns, outline a chart well; otherwise 2.
    # placed: x, y and the rotation: 0: none, 1: by 180 degrees, 2: mirrored along the diagonal, 3:
    # mirrored and rotated by 180 degrees.
    size = last.shape[0]
    used = 0
    unit = max(4, size // 512)
    coarse = 8 * unit
    # The longest free run of each row; negative: an upper bound, to be measured again.
    longest_runs = np.full(size, size, np.int64)
    for n in range(order.shape[0]):
        if is_cancelled(flag):
            return -1
        c = order[n]
        best_top, best_x, best_y, best_rotation = 1 << 30, -1, -1, -1
        for rotation in range(4):
            axis = rotation // 2
            if orientations[c] == 1 - axis:
                continue
            width, height = cells[c, axis], cells[c, 1 - axis]
            base = first[c] + (cells[c, 1] if axis == 1 else 0)
            if width > size or height > size:
                continue
            y = 0
            key = -1
            if max(width, height) < 16 * unit:
                key = (width // unit * 16 + height // unit) * 4 + rotation
            elif is_fast:
                key = (
                    1024 + min(width // coarse, 15) * 64 + min(height // coarse, 15) * 4 + rotation
                )
            if key >= 0:
                y = start_rows[key]
            row_before = y - 1
            limit = min(size, best_top - 1) - height
            # Tall charts are tried at every few rows, then at the rows before the first that fits.
            row_step = max(1, height // 16)
            found = False
            row = 0
            step = coprime_step(height)
            while y <= limit:
                if is_cancelled(flag):
                    return -1
                # Skip rows whose longest free run is shorter than the row of the chart.
                fitting_rows = 0
                while fitting_rows < height:
                    outline_row = height - 1 - row if rotation % 2 == 1 else row
                    row_width = high[base + outline_row] - low[base + outline_row] + 1
                    if longest_runs[y + row] < 0 and row_width <= -longest_runs[y + row]:
                        longest_runs[y + row] = longest_free_run(last, y + row)
                    if row_width > abs(longest_runs[y + row]):
                        break
                    fitting_rows += 1
                    row += step
                    if row >= height:
                        row -= height
                x = 0
                free_rows = 0
                while fitting_rows == height and free_rows < height:
                    outline_row = height - 1 - row if rotation % 2 == 1 else row
                    left, right = low[base + outline_row], high[base + outline_row]
                    if rotation % 2 == 1:
                        left, right = width - 1 - right, width - 1 - left
                    if right >= left:
                        occupied = last[y + row, x + right]
                        if occupied >= x + left:
                            x = occupied + 1 - left
                            free_rows = 0
                            if x + width > size:
                                break
                            continue
                    free_rows += 1
                    row += step
                    if row >= height:
                        row -= height
                if free_rows < height:
                    y = limit if y < limit < y + row_step else y + row_step
                elif row_step == 1:
                    found = True
                    break
                else:
                    y = max(row_before, y - row_step) + 1
                    row_step = 1
            if found:
                best_top, best_x, best_y, best_rotation = y + height, x, y, rotation
            if key >= 0:
                start_rows[key] = y if found or y > start_rows[key] else start_rows[key]
        if best_rotation < 0:
            return -1
        placed[c, 0], placed[c, 1], placed[c, 2] = best_x, best_y, best_rotation
        used = max(used, best_top)
        axis = best_rotation // 2
        width, height = cells[c, axis], cells[c, 1 - axis]
        base = first[c] + (cells[c, 1] if axis == 1 else 0)
        for row in range(height):
            outline_row = height - 1 - row if best_rotation % 2 == 1 else row
            left, right = low[base + outline_row], high[base + outline_row]
            if right < left:
                continue
            if best_rotation % 2 == 1:
                left, right = width - 1 - right, width - 1 - left
            y = best_y + row
            start = last[y, best_x + left]
            for x in range(best_x + left, best_x + right + 1):
                last[y, x] = x
            x = best_x + right + 1
            while x < size and last[y, x] != x:
                last[y, x] = best_x + right
                x += 1
            if x - start - 1 >= longest_runs[y]:
                longest_runs[y] = -abs(longest_runs[y])
    return used


@kernel
def write_uv(flat, start, box, placed, scale, gap, uv, flag):
    for c in range(placed.shape[0]):
        if is_cancelled(flag):
            return
        rotation = placed[c, 2]
        axis = rotation // 2
        width = np.ceil(box[c, axis] * scale) + 1 + 2 * gap
        height = np.ceil(box[c, 1 - axis] * scale) + 1 + 2 * gap
        for r in range(start[c], start[c + 1]):
            x = flat[r, axis] * scale + gap
            y = flat[r, 1 - axis] * scale + gap
            if rotation % 2 == 1:
                x, y = width - x, height - y
            uv[r, 0] = placed[c, 0] + x
            uv[r, 1] = placed[c, 1] + y
