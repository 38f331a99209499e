"""Loops that lay charts out and pack them.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917, PLR2004
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.kernel import kernel


@kernel
def measure(start, stop, vertices, faces, normals):
    for f in range(start, stop):
        ux, uy, uz, vx, vy, vz = sides(vertices, faces, f)
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        scale = 1.0 / length if length > 1e-20 else 0.0
        normals[f, 0], normals[f, 1], normals[f, 2] = nx * scale, ny * scale, nz * scale
        normals[f, 3] = 0.5 * length


@kernel
def sides(vertices, faces, f):
    # From the face's first corner to the others.
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    return (
        np.float64(vertices[b, 0]) - vertices[a, 0],
        np.float64(vertices[b, 1]) - vertices[a, 1],
        np.float64(vertices[b, 2]) - vertices[a, 2],
        np.float64(vertices[c, 0]) - vertices[a, 0],
        np.float64(vertices[c, 1]) - vertices[a, 1],
        np.float64(vertices[c, 2]) - vertices[a, 2],
    )


@kernel
def pick_borders(twin, group, half):
    count = 0
    for h in range(twin.shape[0]):
        t = twin[h]
        if t > h and group[t // 3] != group[h // 3]:
            half[count] = h
            count += 1
    return count


@kernel
def aim(start, stop, normals, ways, label):
    for f in range(start, stop):
        best = -2.0
        for w in range(ways.shape[0]):
            dot = (
                normals[f, 0] * ways[w, 0] + normals[f, 1] * ways[w, 1] + normals[f, 2] * ways[w, 2]
            )
            if dot > best:
                best = dot
                label[f] = w


@kernel
def smooth(start, stop, normals, ways, twin, label, other):
    # A face takes the label that suits its normal and its neighbours best.
    for f in range(start, stop):
        best = -10.0
        for i in range(4):
            w = label[f]
            if i < 3:
                h = twin[3 * f + i]
                if h < 0:
                    continue
                w = label[h // 3]
            score = (
                normals[f, 0] * ways[w, 0] + normals[f, 1] * ways[w, 1] + normals[f, 2] * ways[w, 2]
            )
            for k in range(3):
                h = twin[3 * f + k]
                if h >= 0 and label[h // 3] == w:
                    score += 0.16
            if score > best or (score == best and w < other[f]):
                best = score
                other[f] = w


@kernel
def connect(twin, label, group, stack):
    for f in range(label.shape[0]):
        group[f] = -1
    count = 0
    for seed in range(label.shape[0]):
        if group[seed] >= 0:
            continue
        group[seed] = count
        stack[0] = seed
        top = 1
        while top > 0:
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
def sum_normals(normals, group, sums):
    # Per group: area, normal times area, and the six products of the normal times area.
    for f in range(group.shape[0]):
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
def merge(low, high, sums, parent, limit, limit_small, small):
    merged = 0
    for i in range(low.shape[0]):
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
        a = g
        while parent[a] != a:
            a = parent[a]
        parent[g] = a
    return merged


@kernel
def crossing(ax, ay, bx, by, y):
    # Where an edge crosses a row: the same from both ends, so neighbours share no texel.
    if ay > by or (ay == by and ax > bx):
        ax, ay, bx, by = bx, by, ax, ay
    return ax + (bx - ax) * ((y - ay) / (by - ay))


@kernel
def stamp(grid, token, is_write, ax, ay, bx, by, cx, cy):
    # Whether a face of texels covers the middle of none that holds the token; with
    # `is_write` they hold it then, up to the first that did before.
    for row in range(int(np.ceil(min(ay, by, cy) - 0.5)), int(np.ceil(max(ay, by, cy) - 0.5))):
        y = row + 0.5
        low, high = np.inf, -np.inf
        if (ay <= y) != (by <= y):
            x = crossing(ax, ay, bx, by, y)
            low, high = x, x
        if (by <= y) != (cy <= y):
            x = crossing(bx, by, cx, cy, y)
            low, high = min(low, x), max(high, x)
        if (cy <= y) != (ay <= y):
            x = crossing(cx, cy, ax, ay, y)
            low, high = min(low, x), max(high, x)
        if low >= high:
            continue
        for column in range(int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))):
            if grid[row, column] == token:
                return False
            if is_write == 1:
                grid[row, column] = token
    return True


@kernel
def basis(x, y, z):
    # Two unit vectors with which the axis makes a right-handed frame.
    if abs(x) <= abs(y) and abs(x) <= abs(z):
        tx, ty, tz = 0.0, z, -y
    elif abs(y) <= abs(z):
        tx, ty, tz = -z, 0.0, x
    else:
        tx, ty, tz = y, -x, 0.0
    length = np.sqrt(tx * tx + ty * ty + tz * tz)
    tx, ty, tz = tx / length, ty / length, tz / length
    return tx, ty, tz, y * tz - z * ty, z * tx - x * tz, x * ty - y * tx


@kernel
def look(start, stop, vertices, faces, normals, order, first, density, side, axes, is_plain):
    # Each group seen along its mean normal, and whether no face then covers another one.
    for c in range(start, stop):
        x, y, z = 0.0, 0.0, 0.0
        for n in range(first[c], first[c + 1]):
            f = order[n]
            area = np.float64(normals[f, 3])
            x += area * normals[f, 0]
            y += area * normals[f, 1]
            z += area * normals[f, 2]
        length = np.sqrt(x * x + y * y + z * z)
        is_plain[c] = 0
        if length <= 0.0:
            continue
        x, y, z = x / length, y / length, z / length
        axes[c, 0], axes[c, 1], axes[c, 2] = x, y, z
        tx, ty, tz, bx, by, bz = basis(x, y, z)
        low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
        plain = True
        for n in range(first[c], first[c + 1]):
            f = order[n]
            dot = normals[f, 0] * x + normals[f, 1] * y + normals[f, 2] * z
            if dot <= 0.15 and normals[f, 3] > 0.0:
                plain = False
                break
            for k in range(3):
                v = faces[f, k]
                px = tx * vertices[v, 0] + ty * vertices[v, 1] + tz * vertices[v, 2]
                py = bx * vertices[v, 0] + by * vertices[v, 1] + bz * vertices[v, 2]
                low_x, high_x = min(low_x, px), max(high_x, px)
                low_y, high_y = min(low_y, py), max(high_y, py)
        if not plain:
            continue
        wide, tall = high_x - low_x, high_y - low_y
        scale = min(density, (side - 4) / max(wide, tall, 1e-20))
        grid = np.zeros((int(tall * scale) + 4, int(wide * scale) + 4), np.uint8)
        for n in range(first[c], first[c + 1]):
            f = order[n]
            a, b, d = faces[f, 0], faces[f, 1], faces[f, 2]
            if not stamp(
                grid, 1, 1,
                (tx * vertices[a, 0] + ty * vertices[a, 1] + tz * vertices[a, 2] - low_x) * scale
                + 1.5,
                (bx * vertices[a, 0] + by * vertices[a, 1] + bz * vertices[a, 2] - low_y) * scale
                + 1.5,
                (tx * vertices[b, 0] + ty * vertices[b, 1] + tz * vertices[b, 2] - low_x) * scale
                + 1.5,
                (bx * vertices[b, 0] + by * vertices[b, 1] + bz * vertices[b, 2] - low_y) * scale
                + 1.5,
                (tx * vertices[d, 0] + ty * vertices[d, 1] + tz * vertices[d, 2] - low_x) * scale
                + 1.5,
                (bx * vertices[d, 0] + by * vertices[d, 1] + bz * vertices[d, 2] - low_y) * scale
                + 1.5,
            ):  # fmt: skip
                plain = False
                break
        is_plain[c] = plain


@kernel
def lay_out(
    vertices, faces, twin, normals, order, first, group, density, seen, is_plain,
    final, axes, members, queue, mark, grid,
):  # fmt: skip
    # final: -1 not laid out. A plain group is one chart, seen along its axis. Any other is
    # grown face by face over a grid of texels; what would cover a taken texel is left for a
    # later chart of the same group.
    count = 0
    token = 0
    turn = 0
    side = grid.shape[0]
    for c in range(first.shape[0] - 1):
        if is_plain[c]:
            for n in range(first[c], first[c + 1]):
                final[order[n]] = count
            axes[count, 0], axes[count, 1], axes[count, 2] = seen[c, 0], seen[c, 1], seen[c, 2]
            count += 1
            continue
        done = first[c]
        while done < first[c + 1]:
            seed = order[done]
            if final[seed] >= 0:
                done += 1
                continue
            # What is left of the group around the seed.
            turn += 1
            members[0] = seed
            mark[seed] = turn
            size = 1
            head = 0
            x, y, z = 0.0, 0.0, 0.0
            while head < size:
                f = members[head]
                head += 1
                area = normals[f, 3]
                x += area * normals[f, 0]
                y += area * normals[f, 1]
                z += area * normals[f, 2]
                for k in range(3):
                    h = twin[3 * f + k]
                    if h < 0:
                        continue
                    g = h // 3
                    if group[g] == c and final[g] < 0 and mark[g] != turn:
                        mark[g] = turn
                        members[size] = g
                        size += 1
            length = np.sqrt(x * x + y * y + z * z)
            best, best_dot = seed, -2.0
            if length > 0.0:
                x, y, z = x / length, y / length, z / length
                for i in range(size):
                    f = members[i]
                    dot = normals[f, 0] * x + normals[f, 1] * y + normals[f, 2] * z
                    if dot > best_dot:
                        best, best_dot = f, dot
            if best_dot < 0.2:
                # The normals cancel out: start from the face itself.
                x = np.float64(normals[best, 0])
                y = np.float64(normals[best, 1])
                z = np.float64(normals[best, 2])
                if x == 0.0 and y == 0.0 and z == 0.0:
                    z = 1.0
            tx, ty, tz, bx, by, bz = basis(x, y, z)
            low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
            for i in range(size):
                f = members[i]
                for k in range(3):
                    v = faces[f, k]
                    px = tx * vertices[v, 0] + ty * vertices[v, 1] + tz * vertices[v, 2]
                    py = bx * vertices[v, 0] + by * vertices[v, 1] + bz * vertices[v, 2]
                    low_x, high_x = min(low_x, px), max(high_x, px)
                    low_y, high_y = min(low_y, py), max(high_y, py)
            extent = max(high_x - low_x, high_y - low_y, 1e-20)
            scale = min(density, (side - 4) / extent)
            token += 1
            queue[0] = best
            final[best] = count
            head, tail = 0, 1
            while head < tail:
                f = queue[head]
                head += 1
                # Taken faces stay in `final`; the first is taken whatever it covers.
                u0 = (tx * vertices[faces[f, 0], 0] + ty * vertices[faces[f, 0], 1]
                      + tz * vertices[faces[f, 0], 2] - low_x) * scale + 1.5  # fmt: skip
                v0 = (bx * vertices[faces[f, 0], 0] + by * vertices[faces[f, 0], 1]
                      + bz * vertices[faces[f, 0], 2] - low_y) * scale + 1.5  # fmt: skip
                u1 = (tx * vertices[faces[f, 1], 0] + ty * vertices[faces[f, 1], 1]
                      + tz * vertices[faces[f, 1], 2] - low_x) * scale + 1.5  # fmt: skip
                v1 = (bx * vertices[faces[f, 1], 0] + by * vertices[faces[f, 1], 1]
                      + bz * vertices[faces[f, 1], 2] - low_y) * scale + 1.5  # fmt: skip
                u2 = (tx * vertices[faces[f, 2], 0] + ty * vertices[faces[f, 2], 1]
                      + tz * vertices[faces[f, 2], 2] - low_x) * scale + 1.5  # fmt: skip
                v2 = (bx * vertices[faces[f, 2], 0] + by * vertices[faces[f, 2], 1]
                      + bz * vertices[faces[f, 2], 2] - low_y) * scale + 1.5  # fmt: skip
                dot = normals[f, 0] * x + normals[f, 1] * y + normals[f, 2] * z
                fits = dot > 0.15 or normals[f, 3] == 0.0
                if fits and stamp(grid, token, 0, u0, v0, u1, v1, u2, v2):
                    stamp(grid, token, 1, u0, v0, u1, v1, u2, v2)
                else:
                    fits = False
                if not fits and f != best:
                    final[f] = -1
                    continue
                for k in range(3):
                    h = twin[3 * f + k]
                    if h < 0:
                        continue
                    g = h // 3
                    if mark[g] == turn and final[g] < 0:
                        final[g] = count
                        # Seen once: a face that does not fit is not tried again.
                        mark[g] = turn - 1 if turn > 1 else -2
                        queue[tail] = g
                        tail += 1
            axes[count, 0], axes[count, 1], axes[count, 2] = x, y, z
            count += 1
    return count


@kernel
def flatten(vertices, faces, order, first, axes, owner, slot, flat, source, uv_faces, start):
    rows = 0
    for c in range(axes.shape[0]):
        start[c] = rows
        tx, ty, tz, bx, by, bz = basis(
            np.float64(axes[c, 0]), np.float64(axes[c, 1]), np.float64(axes[c, 2])
        )
        for i in range(first[c], first[c + 1]):
            f = order[i]
            for k in range(3):
                v = faces[f, k]
                if owner[v] != c:
                    owner[v] = c
                    slot[v] = rows
                    source[rows] = v
                    x = np.float64(vertices[v, 0])
                    y = np.float64(vertices[v, 1])
                    z = np.float64(vertices[v, 2])
                    flat[rows, 0] = tx * x + ty * y + tz * z
                    flat[rows, 1] = bx * x + by * y + bz * z
                    rows += 1
                uv_faces[f, k] = slot[v]
    start[axes.shape[0]] = rows
    return rows


@kernel
def slopes(x, y, degree, slope):
    # The gradients of x^i y^j for 1 <= i + j <= degree at a point; how many there are.
    count = 0
    for total in range(1, degree + 1):
        for j in range(total + 1):
            i = total - j
            slope[count, 0] = i * x ** max(i - 1, 0) * y**j
            slope[count, 1] = j * x**i * y ** max(j - 1, 0)
            count += 1
    return count


@kernel
def solve(matrix, right, size):
    # Cholesky, in place: `right` [size, 2] becomes the solution.
    for i in range(size):
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            if i == j:
                matrix[i, i] = np.sqrt(max(value, 1e-30))
            else:
                matrix[i, j] = value / matrix[j, j]
    for c in range(2):
        for i in range(size):
            value = right[i, c]
            for k in range(i):
                value -= matrix[i, k] * right[k, c]
            right[i, c] = value / matrix[i, i]
        for i in range(size - 1, -1, -1):
            value = right[i, c]
            for k in range(i + 1, size):
                value -= matrix[k, i] * right[k, c]
            right[i, c] = value / matrix[i, i]


@kernel
def lie(vertices, faces, f):
    # A face in its own plane: from its first corner at 0, the second is at (long, 0), the third
    # at (along, up).
    ax, ay, az, bx, by, bz = sides(vertices, faces, f)
    long = np.sqrt(ax * ax + ay * ay + az * az)
    if long <= 1e-20:
        return 0.0, 0.0, 0.0
    along = (ax * bx + ay * by + az * bz) / long
    return long, along, np.sqrt(max(bx * bx + by * by + bz * bz - along * along, 0.0))


@kernel
def jacobian(place, i, j, k, long, along, up):
    # Of the map from a face's own plane, see `lie`, to where its corners are.
    ux, uy = place[j, 0] - place[i, 0], place[j, 1] - place[i, 1]
    wx, wy = place[k, 0] - place[i, 0], place[k, 1] - place[i, 1]
    j00, j10 = ux / long, uy / long
    return j00, (wx - along * j00) / up, j10, (wy - along * j10) / up


@kernel
def unbend(
    begin, end, vertices, faces, order, first, uv_faces, start, flat, degree, rounds, enough
):
    # Move each chart's projection by polynomials of its two coordinates, so that its faces
    # get the shapes that they have in space as nearly as can be: least squares between each
    # face's Jacobian and the rotation nearest to it, the faces weighted by their areas. A chart
    # of many faces asks every few of them, `enough` in all.
    most = (degree + 1) * (degree + 2) // 2 - 1
    slope, at = np.empty((most, 2)), np.empty((most, 2))
    wanted, matrix = np.empty((most, most)), np.empty((most, most))
    move = np.empty((most, 2))
    for c in range(begin, end):
        count = first[c + 1] - first[c]
        if count < 2:
            continue
        # Odd: faces come in pairs, the halves of a square, and both shall have their turns.
        stride = (count // enough) | 1
        # Three faces at least for each term: fewer would let it bend between them.
        level = 1
        while level < degree and 3 * ((level + 2) * (level + 3) // 2 - 1) <= count:
            level += 1
        low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
        for r in range(start[c], start[c + 1]):
            low_x, high_x = min(low_x, flat[r, 0]), max(high_x, flat[r, 0])
            low_y, high_y = min(low_y, flat[r, 1]), max(high_y, flat[r, 1])
        half = 0.5 * max(high_x - low_x, high_y - low_y)
        if half <= 0.0:
            continue
        mid_x, mid_y = 0.5 * (low_x + high_x), 0.5 * (low_y + high_y)
        wide, tall = 0.5 * (high_x - low_x) / half, 0.5 * (high_y - low_y) / half
        terms = slopes(0.0, 0.0, level, slope)
        for i in range(terms):
            move[i, 0], move[i, 1] = 0.0, 0.0
        for turn in range(rounds):
            whole = 0.0
            right = np.zeros((most, 2))
            if turn == 0:
                for i in range(terms):
                    for j in range(i + 1):
                        wanted[i, j] = 0.0
            for n in range(first[c], first[c + 1], stride):
                f = order[n]
                long, along, up = lie(vertices, faces, f)
                if up <= 1e-3 * long:
                    continue
                r0, r1, r2 = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
                j00, j01, j10, j11 = jacobian(flat, r0, r1, r2, long, along, up)
                if j00 * j11 - j01 * j10 <= 0.0:
                    continue
                x = ((flat[r0, 0] + flat[r1, 0] + flat[r2, 0]) / 3.0 - mid_x) / half
                y = ((flat[r0, 1] + flat[r1, 1] + flat[r2, 1]) / 3.0 - mid_y) / half
                slopes(x, y, level, slope)
                k00, k01, k10, k11 = j00, j01, j10, j11
                for i in range(terms):
                    at[i, 0] = slope[i, 0] * j00 + slope[i, 1] * j10
                    at[i, 1] = slope[i, 0] * j01 + slope[i, 1] * j11
                    k00 += move[i, 0] * at[i, 0]
                    k01 += move[i, 0] * at[i, 1]
                    k10 += move[i, 1] * at[i, 0]
                    k11 += move[i, 1] * at[i, 1]
                co, si = k00 + k11, k10 - k01
                size = np.sqrt(co * co + si * si)
                if size <= 1e-12:
                    continue
                co, si = co / size, si / size
                area = 0.5 * long * up
                whole += area
                for i in range(terms):
                    p, q = area * at[i, 0], area * at[i, 1]
                    right[i, 0] += p * (co - j00) + q * (-si - j01)
                    right[i, 1] += p * (si - j10) + q * (co - j11)
                    if turn == 0:
                        for j in range(i + 1):
                            wanted[i, j] += p * at[j, 0] + q * at[j, 1]
            if turn == 0:
                # Beside the faces, in the corners of their box, the move stays small.
                for n in range(81):
                    slopes((n % 9 - 4) / 4.0 * wide, (n // 9 - 4) / 4.0 * tall, level, slope)
                    for i in range(terms):
                        for j in range(i + 1):
                            wanted[i, j] += (
                                2e-5
                                * whole
                                * (slope[i, 0] * slope[j, 0] + slope[i, 1] * slope[j, 1])
                            )
            for i in range(terms):
                for j in range(i + 1):
                    matrix[i, j] = wanted[i, j]
                matrix[i, i] += 1e-9 * whole + 1e-30
                move[i, 0], move[i, 1] = right[i, 0], right[i, 1]
            solve(matrix, move, terms)
        # A map of a convex box whose Jacobian has a positive definite symmetric part is one to
        # one: hold the move back until that is so.
        worst = 0.0
        for n in range(289):
            slopes((n % 17 - 8) / 8.0 * wide, (n // 17 - 8) / 8.0 * tall, level, slope)
            k00, k01, k11 = 0.0, 0.0, 0.0
            for i in range(terms):
                k00 += move[i, 0] * slope[i, 0]
                k01 += 0.5 * (move[i, 0] * slope[i, 1] + move[i, 1] * slope[i, 0])
                k11 += move[i, 1] * slope[i, 1]
            mean, apart = 0.5 * (k00 + k11), 0.5 * (k00 - k11)
            worst = min(worst, mean - np.sqrt(apart * apart + k01 * k01))
        share = min(1.0, -0.8 / worst) if worst < 0.0 else 1.0
        for r in range(start[c], start[c + 1]):
            x, y = (flat[r, 0] - mid_x) / half, (flat[r, 1] - mid_y) / half
            n = 0
            for total in range(1, level + 1):
                for j in range(total + 1):
                    value = share * half * x ** (total - j) * y**j
                    flat[r, 0] += value * move[n, 0]
                    flat[r, 1] += value * move[n, 1]
                    n += 1


@kernel
def pull(to, place, i, j, x, y, weight):
    # Each end of an edge that should be (x, y) wants to be where the other one asks it to.
    to[i, 0] += weight * (place[j, 0] - x)
    to[i, 1] += weight * (place[j, 1] - y)
    to[i, 2] += weight
    to[j, 0] += weight * (place[i, 0] + x)
    to[j, 1] += weight * (place[i, 1] + y)
    to[j, 2] += weight


@kernel
def approach(place, shape, faces, to):
    # One step of Jacobi's: where the faces around each row, turned as they lie, ask it to be. The
    # third column of `to` says whether a row stays.
    for r in range(place.shape[0]):
        to[r, 0], to[r, 1], to[r, 2] = 0.0, 0.0, 0.0
    for n in range(faces.shape[0]):
        long, along, up = shape[n, 0], shape[n, 1], shape[n, 2]
        if up <= 1e-3 * long:
            continue
        i, j, k = faces[n, 0], faces[n, 1], faces[n, 2]
        j00, j01, j10, j11 = jacobian(place, i, j, k, long, along, up)
        # The rotation nearest to it.
        co, si = j00 + j11, j10 - j01
        size = np.sqrt(co * co + si * si)
        if size <= 1e-12:
            continue
        co, si = co / size, si / size
        # Each edge weighs as much as the cotangent of the angle across it.
        at_i = min(max(along / up, 0.05), 10.0)
        at_j = min(max((long - along) / up, 0.05), 10.0)
        at_k = min(max((up * up - along * (long - along)) / (long * up), 0.05), 10.0)
        jx, jy = co * long, si * long
        kx, ky = co * along - si * up, si * along + co * up
        pull(to, place, i, j, jx, jy, at_k)
        pull(to, place, i, k, kx, ky, at_j)
        pull(to, place, j, k, kx - jx, ky - jy, at_i)
    for r in range(place.shape[0]):
        if to[r, 2] > 0.0:
            to[r, 0], to[r, 1], to[r, 2] = to[r, 0] / to[r, 2], to[r, 1] / to[r, 2], 0.0
        else:
            to[r, 0], to[r, 1], to[r, 2] = place[r, 0], place[r, 1], 1.0


@kernel
def hold_back(place, faces, to):
    # The corners of what would be turned over stay.
    is_done = False
    while not is_done:
        is_done = True
        for n in range(faces.shape[0]):
            i, j, k = faces[n, 0], faces[n, 1], faces[n, 2]
            ux, uy = to[j, 0] - to[i, 0], to[j, 1] - to[i, 1]
            wx, wy = to[k, 0] - to[i, 0], to[k, 1] - to[i, 1]
            if ux * wy - uy * wx > 0.0:
                continue
            for m in range(3):
                r = faces[n, m]
                if to[r, 2] == 0.0:
                    to[r, 0], to[r, 1], to[r, 2] = place[r, 0], place[r, 1], 1.0
                    is_done = False


@kernel
def relax(begin, end, vertices, faces, order, first, uv_faces, start, flat, steps, density, side):
    # Bring the faces of each chart nearer to the shapes that they have in space: "A Local/Global
    # Approach to Mesh Parameterization" by Liu et al. (2008), with a step of Jacobi's for the
    # global one. That unfolds what is bent along rims, for which polynomials are too stiff. A
    # chart where more faces come to cover others stays as it was.
    for c in range(begin, end):
        count, before = first[c + 1] - first[c], flat[start[c] : start[c + 1]]
        shape, own = np.empty((count, 3)), np.empty((count, 3), np.int32)
        for n in range(count):
            f = order[first[c] + n]
            shape[n, 0], shape[n, 1], shape[n, 2] = lie(vertices, faces, f)
            for m in range(3):
                own[n, m] = uv_faces[f, m] - start[c]
        place, to = before.copy(), np.empty((before.shape[0], 3))
        for _ in range(steps):
            approach(place, shape, own, to)
            hold_back(place, own, to)
            place[:] = to[:, :2]
        if overlaps(place, own, density, side) <= overlaps(before, own, density, side):
            before[:] = place


@kernel
def overlaps(place, faces, density, side):
    # How many faces cover texels of those before them.
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for r in range(place.shape[0]):
        low_x, high_x = min(low_x, place[r, 0]), max(high_x, place[r, 0])
        low_y, high_y = min(low_y, place[r, 1]), max(high_y, place[r, 1])
    wide, tall = high_x - low_x, high_y - low_y
    scale = min(density, (side - 4) / max(wide, tall, 1e-20))
    grid = np.zeros((int(tall * scale) + 4, int(wide * scale) + 4), np.uint8)
    count = 0
    for n in range(faces.shape[0]):
        i, j, k = faces[n, 0], faces[n, 1], faces[n, 2]
        if not stamp(
            grid, 1, 1, (place[i, 0] - low_x) * scale + 1.5, (place[i, 1] - low_y) * scale + 1.5,
            (place[j, 0] - low_x) * scale + 1.5, (place[j, 1] - low_y) * scale + 1.5,
            (place[k, 0] - low_x) * scale + 1.5, (place[k, 1] - low_y) * scale + 1.5,
        ):  # fmt: skip
            count += 1
    return count


@kernel
def straighten(begin, end, flat, start, angles):
    # Turn each chart so that its box is smallest and lies down, with a corner at 0.
    for c in range(begin, end):
        best, best_area = 0, np.inf
        for i in range(angles):
            co, si = np.cos(0.5 * np.pi * i / angles), np.sin(0.5 * np.pi * i / angles)
            low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
            for r in range(start[c], start[c + 1]):
                x = co * flat[r, 0] - si * flat[r, 1]
                y = si * flat[r, 0] + co * flat[r, 1]
                low_x, high_x = min(low_x, x), max(high_x, x)
                low_y, high_y = min(low_y, y), max(high_y, y)
            area = (high_x - low_x) * (high_y - low_y)
            # A chart keeps its angle unless another one is clearly better.
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
def pick_rims(twin, chart, rim):
    count = 0
    for h in range(twin.shape[0]):
        if twin[h] < 0 or chart[twin[h] // 3] != chart[h // 3]:
            rim[count] = h
            count += 1
    return count


@kernel
def measure_boxes(flat, start, box):
    for c in range(box.shape[0]):
        for r in range(start[c], start[c + 1]):
            box[c, 0] = max(box[c, 0], flat[r, 0])
            box[c, 1] = max(box[c, 1], flat[r, 1])


@kernel
def outline(flat, edges, owner, scale, gap, cells, first, low, high):
    # For each chart: the leftmost and rightmost cell of each row, then of each column,
    # widened by the gap on all sides.
    for e in range(edges.shape[0]):
        c = owner[e]
        for way in range(2):
            base = first[c] + (cells[c, 1] if way == 1 else 0)
            px = flat[edges[e, 0], way] * scale + gap
            py = flat[edges[e, 0], 1 - way] * scale + gap
            qx = flat[edges[e, 1], way] * scale + gap
            qy = flat[edges[e, 1], 1 - way] * scale + gap
            if py > qy:
                px, py, qx, qy = qx, qy, px, py
            for row in range(int(py), int(qy) + 1):
                slope = (qx - px) / (qy - py) if qy > py else 0.0
                x0 = px + slope * (max(np.float64(row), py) - py)
                x1 = px + slope * (min(row + 1.0, qy) - py)
                if qy == py:
                    x1 = qx
                left = int(min(x0, x1)) - gap
                right = int(max(x0, x1)) + gap
                for near in range(max(0, row - gap), min(cells[c, 1 - way], row + gap + 1)):
                    low[base + near] = min(low[base + near], max(left, 0))
                    high[base + near] = max(high[base + near], min(right, cells[c, way] - 1))


@kernel
def longest(last, y):
    # The longest run of free cells in a row.
    run = 0
    x = last.shape[1] - 1
    while x >= run:
        run = max(run, x - last[y, x])
        x = last[y, x]
        while x >= 0 and last[y, x] == x:
            x -= 1
    return run


@kernel
def apart(height):
    # A step that visits all rows, distant ones first.
    step = max(1, int(0.382 * height))
    while True:
        a, b = height, step
        while b > 0:
            a, b = b, a % b
        if a == 1:
            return step
        step += 1


@kernel
def place(order, cells, ways, first, low, high, last, hint, is_hasty, place):
    # last[y, x]: the nearest taken cell at or left of x in row y.
    # hint: the row at which the last chart of about that size found room; those above it are not
    # searched again for small ones, and for large ones where that is_hasty.
    # ways: 0 or 1 where only the rows, or only the columns, outline a chart well; else 2.
    # place: x, y and how the chart is turned: 0 as it is, 1 half, 2 mirrored over the
    # diagonal, 3 that and half.
    size = last.shape[0]
    used = 0
    unit = max(4, size // 512)
    coarse = 8 * unit
    # The longest free run of each row; negative: at most so long, to be measured again.
    room = np.full(size, size, np.int64)
    for n in range(order.shape[0]):
        c = order[n]
        best_top, best_x, best_y, best_turn = 1 << 30, -1, -1, -1
        for turn in range(4):
            way = turn // 2
            if ways[c] == 1 - way:
                continue
            width, height = cells[c, way], cells[c, 1 - way]
            base = first[c] + (cells[c, 1] if way == 1 else 0)
            if width > size or height > size:
                continue
            y = 0
            key = -1
            if max(width, height) < 16 * unit:
                key = (width // unit * 16 + height // unit) * 4 + turn
            elif is_hasty:
                key = 1024 + min(width // coarse, 15) * 64 + min(height // coarse, 15) * 4 + turn
            if key >= 0:
                y = hint[key]
            before = y - 1
            limit = min(size, best_top - 1) - height
            # A tall one is tried at every few rows, then at those above the one that does.
            pace = max(1, height // 16)
            found = False
            row = 0
            step = apart(height)
            while y <= limit:
                # A row with no free run as long as the chart's needs no search.
                fitting = 0
                while fitting < height:
                    own = height - 1 - row if turn % 2 == 1 else row
                    wide = high[base + own] - low[base + own] + 1
                    if room[y + row] < 0 and wide <= -room[y + row]:
                        room[y + row] = longest(last, y + row)
                    if wide > abs(room[y + row]):
                        break
                    fitting += 1
                    row += step
                    if row >= height:
                        row -= height
                x = 0
                free = 0
                while fitting == height and free < height:
                    own = height - 1 - row if turn % 2 == 1 else row
                    left, right = low[base + own], high[base + own]
                    if turn % 2 == 1:
                        left, right = width - 1 - right, width - 1 - left
                    if right >= left:
                        taken = last[y + row, x + right]
                        if taken >= x + left:
                            x = taken + 1 - left
                            free = 0
                            if x + width > size:
                                break
                            continue
                    free += 1
                    row += step
                    if row >= height:
                        row -= height
                if free < height:
                    y = limit if y < limit < y + pace else y + pace
                elif pace == 1:
                    found = True
                    break
                else:
                    y = max(before, y - pace) + 1
                    pace = 1
            if found:
                best_top, best_x, best_y, best_turn = y + height, x, y, turn
            if key >= 0:
                hint[key] = y if found or y > hint[key] else hint[key]
        if best_turn < 0:
            return -1
        place[c, 0], place[c, 1], place[c, 2] = best_x, best_y, best_turn
        used = max(used, best_top)
        way = best_turn // 2
        width, height = cells[c, way], cells[c, 1 - way]
        base = first[c] + (cells[c, 1] if way == 1 else 0)
        for row in range(height):
            own = height - 1 - row if best_turn % 2 == 1 else row
            left, right = low[base + own], high[base + own]
            if right < left:
                continue
            if best_turn % 2 == 1:
                left, right = width - 1 - right, width - 1 - left
            y = best_y + row
            start = last[y, best_x + left]
            for x in range(best_x + left, best_x + right + 1):
                last[y, x] = x
            x = best_x + right + 1
            while x < size and last[y, x] != x:
                last[y, x] = best_x + right
                x += 1
            if x - start - 1 >= room[y]:
                room[y] = -abs(room[y])
    return used


@kernel
def move(flat, start, box, place, scale, gap, uv):
    for c in range(place.shape[0]):
        turn = place[c, 2]
        way = turn // 2
        width = np.ceil(box[c, way] * scale) + 1 + 2 * gap
        height = np.ceil(box[c, 1 - way] * scale) + 1 + 2 * gap
        for r in range(start[c], start[c + 1]):
            x = flat[r, way] * scale + gap
            y = flat[r, 1 - way] * scale + gap
            if turn % 2 == 1:
                x, y = width - x, height - y
            uv[r, 0] = place[c, 0] + x
            uv[r, 1] = place[c, 1] + y
