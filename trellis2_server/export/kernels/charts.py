"""Loops that project charts into the plane and flatten them.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0911, PLR0912, PLR0913, PLR0915, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def face_normals(start, stop, vertices, faces, normals, flag):
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        ux, uy, uz, vx, vy, vz = edge_vectors(vertices, faces, f)
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        scale = 1.0 / length if length > 1e-20 else 0.0
        normals[f, 0], normals[f, 1], normals[f, 2] = nx * scale, ny * scale, nz * scale
        normals[f, 3] = 0.5 * length


@kernel
def edge_vectors(vertices, faces, f):
    # From the first corner of the face to the other two.
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
def row_crossing(ax, ay, bx, by, y):
    # x where an edge crosses a row. Independent of the direction of the edge: adjacent faces share
    # no texel.
    if ay > by or (ay == by and ax > bx):
        ax, ay, bx, by = bx, by, ax, ay
    return ax + (bx - ax) * ((y - ay) / (by - ay))


@kernel
def rasterize_face(grid, token, is_write, ax, ay, bx, by, cx, cy, flag):
    # Whether the face covers the centre of no texel that contains the token. With `is_write`,
    # writes the token into its texels, up to the first that contained it.
    for row in range(int(np.ceil(min(ay, by, cy) - 0.5)), int(np.ceil(max(ay, by, cy) - 0.5))):
        if row & 15 == 15 and is_cancelled(flag):
            return False
        y = row + 0.5
        low, high = np.inf, -np.inf
        if (ay <= y) != (by <= y):
            x = row_crossing(ax, ay, bx, by, y)
            low, high = x, x
        if (by <= y) != (cy <= y):
            x = row_crossing(bx, by, cx, cy, y)
            low, high = min(low, x), max(high, x)
        if (cy <= y) != (ay <= y):
            x = row_crossing(cx, cy, ax, ay, y)
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
def plane_basis(x, y, z):
    # Two unit vectors that form a right-handed frame with the axis.
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
def list_faces(chart, first, order, flag):
    # Sort the faces by chart. `first` has zeros; the result has an element more than charts.
    for f in range(chart.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        first[chart[f]] += 1
    total = 0
    for c in range(first.shape[0]):
        if c & 1023 == 0 and is_cancelled(flag):
            return
        total += first[c]
        first[c] = total
    for f in range(chart.shape[0] - 1, -1, -1):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        first[chart[f]] -= 1
        order[first[chart[f]]] = f


@kernel
def longest_edges(start, stop, vertices, faces, lengths, flag):
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        ux, uy, uz, vx, vy, vz = edge_vectors(vertices, faces, f)
        wx, wy, wz = vx - ux, vy - uy, vz - uz
        lengths[f] = np.sqrt(
            max(
                ux * ux + uy * uy + uz * uz,
                vx * vx + vy * vy + vz * vz,
                wx * wx + wy * wy + wz * wz,
            )
        )


@kernel
def project_groups(
    start, stop, vertices, faces, normals, order, first, axes, boxes, has_no_overlap, flag
):
    # Project each group along its mean normal. boxes: low corner and extent of the projection.
    # has_no_overlap: whether the faces all face the axis.
    for c in range(start, stop):
        if is_cancelled(flag):
            return
        x, y, z = 0.0, 0.0, 0.0
        for n in range(first[c], first[c + 1]):
            if n & 1023 == 0 and is_cancelled(flag):
                return
            f = order[n]
            area = np.float64(normals[f, 3])
            x += area * normals[f, 0]
            y += area * normals[f, 1]
            z += area * normals[f, 2]
        length = np.sqrt(x * x + y * y + z * z)
        has_no_overlap[c] = 0
        if length <= 0.0:
            continue
        x, y, z = x / length, y / length, z / length
        axes[c, 0], axes[c, 1], axes[c, 2] = x, y, z
        tx, ty, tz, bx, by, bz = plane_basis(x, y, z)
        low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
        is_flat = True
        for n in range(first[c], first[c + 1]):
            if n & 1023 == 0 and is_cancelled(flag):
                return
            f = order[n]
            dot = normals[f, 0] * x + normals[f, 1] * y + normals[f, 2] * z
            if dot <= 0.15 and normals[f, 3] > 0.0:
                is_flat = False
                break
            for k in range(3):
                v = faces[f, k]
                px = tx * vertices[v, 0] + ty * vertices[v, 1] + tz * vertices[v, 2]
                py = bx * vertices[v, 0] + by * vertices[v, 1] + bz * vertices[v, 2]
                low_x, high_x = min(low_x, px), max(high_x, px)
                low_y, high_y = min(low_y, py), max(high_y, py)
        if not is_flat:
            continue
        has_no_overlap[c] = 1
        boxes[c, 0], boxes[c, 1] = low_x, low_y
        boxes[c, 2], boxes[c, 3] = high_x - low_x, high_y - low_y


@kernel
def find_overlaps(
    start, stop, vertices, faces, order, first, axes, boxes, scales, has_no_overlap, flag
):
    # Test whether faces of a group overlap in its projection, on a grid of texels. A face alone
    # does not.
    for c in range(start, stop):
        if is_cancelled(flag):
            return
        if has_no_overlap[c] == 0 or first[c + 1] - first[c] == 1:
            continue
        tx, ty, tz, bx, by, bz = plane_basis(axes[c, 0], axes[c, 1], axes[c, 2])
        low_x, low_y, scale = boxes[c, 0], boxes[c, 1], scales[c]
        grid = np.zeros((int(boxes[c, 3] * scale) + 4, int(boxes[c, 2] * scale) + 4), np.uint8)
        for n in range(first[c], first[c + 1]):
            if n & 63 == 0 and is_cancelled(flag):
                return
            f = order[n]
            a, b, d = faces[f, 0], faces[f, 1], faces[f, 2]
            if not rasterize_face(
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
                flag,
            ):  # fmt: skip
                has_no_overlap[c] = 0
                break


@kernel
def grow_charts(
    vertices, faces, twin, normals, order, first, group, density, group_axes, has_no_overlap,
    chart, axes, members, queue, visited, grid, flag,
):  # fmt: skip
    # chart: -1: not assigned yet. A group without overlaps is one chart, projected along its axis.
    # In other groups, charts grow face by face over a grid of texels; a face that would cover an
    # occupied texel is left for a later chart of the group.
    count = 0
    token = 0
    pass_id = 0
    side = grid.shape[0]
    for c in range(first.shape[0] - 1):
        if is_cancelled(flag):
            return 0
        if has_no_overlap[c]:
            for n in range(first[c], first[c + 1]):
                if n & 1023 == 0 and is_cancelled(flag):
                    return 0
                chart[order[n]] = count
            axes[count, 0], axes[count, 1], axes[count, 2] = (
                group_axes[c, 0],
                group_axes[c, 1],
                group_axes[c, 2],
            )
            count += 1
            continue
        done = first[c]
        passes, room = 0, members.shape[0] + 1
        while done < first[c + 1]:
            if done & 1023 == 0 and is_cancelled(flag):
                return 0
            seed = order[done]
            if chart[seed] >= 0:
                done += 1
                continue
            # The unassigned faces of the group that are connected to the seed.
            pass_id += 1
            members[0] = seed
            visited[seed] = pass_id
            size = 1
            head = 0
            x, y, z = 0.0, 0.0, 0.0
            while head < size < room:
                if head & 1023 == 1023 and is_cancelled(flag):
                    return 0
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
                    if group[g] == c and chart[g] < 0 and visited[g] != pass_id:
                        visited[g] = pass_id
                        members[size] = g
                        size += 1
            length = np.sqrt(x * x + y * y + z * z)
            best, best_dot = seed, -2.0
            if length > 0.0:
                x, y, z = x / length, y / length, z / length
                for i in range(size):
                    if i & 1023 == 1023 and is_cancelled(flag):
                        return 0
                    f = members[i]
                    dot = normals[f, 0] * x + normals[f, 1] * y + normals[f, 2] * z
                    if dot > best_dot:
                        best, best_dot = f, dot
            if best_dot < 0.2:
                # The normals cancel out: use the normal of the face itself.
                x = np.float64(normals[best, 0])
                y = np.float64(normals[best, 1])
                z = np.float64(normals[best, 2])
                if x == 0.0 and y == 0.0 and z == 0.0:
                    z = 1.0
            tx, ty, tz, bx, by, bz = plane_basis(x, y, z)
            low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
            for i in range(size):
                if i & 1023 == 1023 and is_cancelled(flag):
                    return 0
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
            chart[best] = count
            head, tail = 0, 1
            while head < tail:
                if head & 63 == 63 and is_cancelled(flag):
                    return 0
                f = queue[head]
                head += 1
                # The first face is accepted whatever it covers.
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
                is_free = dot > 0.15 or normals[f, 3] == 0.0
                if is_free and rasterize_face(grid, token, 0, u0, v0, u1, v1, u2, v2, flag):
                    rasterize_face(grid, token, 1, u0, v0, u1, v1, u2, v2, flag)
                else:
                    is_free = False
                if not is_free and f != best:
                    chart[f] = -1
                    continue
                for k in range(3):
                    h = twin[3 * f + k]
                    if h < 0:
                        continue
                    g = h // 3
                    if visited[g] == pass_id and chart[g] < 0:
                        chart[g] = count
                        # Visited once: a face that is rejected is not tried again.
                        visited[g] = pass_id - 1 if pass_id > 1 else -2
                        queue[tail] = g
                        tail += 1
            axes[count, 0], axes[count, 1], axes[count, 2] = x, y, z
            count += 1
            # A spiral stair of a million steps: without a limit, each chart would visit all faces.
            passes += 1
            if passes >= 64:
                room = max(256, 16 * tail)
    return count


@kernel
def project_charts(
    vertices, faces, order, first, axes, chart_of, row_of, flat, source, uv_faces, start, flag
):
    rows = 0
    for c in range(axes.shape[0]):
        if is_cancelled(flag):
            return 0
        start[c] = rows
        tx, ty, tz, bx, by, bz = plane_basis(
            np.float64(axes[c, 0]), np.float64(axes[c, 1]), np.float64(axes[c, 2])
        )
        for i in range(first[c], first[c + 1]):
            if i & 1023 == 0 and is_cancelled(flag):
                return 0
            f = order[i]
            for k in range(3):
                v = faces[f, k]
                if chart_of[v] != c:
                    chart_of[v] = c
                    row_of[v] = rows
                    source[rows] = v
                    x = np.float64(vertices[v, 0])
                    y = np.float64(vertices[v, 1])
                    z = np.float64(vertices[v, 2])
                    flat[rows, 0] = tx * x + ty * y + tz * z
                    flat[rows, 1] = bx * x + by * y + bz * z
                    rows += 1
                uv_faces[f, k] = row_of[v]
    start[axes.shape[0]] = rows
    return rows


@kernel
def monomial_gradients(x, y, degree, gradients):
    # gradients: of x^i y^j for 1 <= i + j <= degree, at a point. Returns the number of terms.
    count = 0
    for total in range(1, degree + 1):
        for j in range(total + 1):
            i = total - j
            gradients[count, 0] = i * x ** max(i - 1, 0) * y**j
            gradients[count, 1] = j * x**i * y ** max(j - 1, 0)
            count += 1
    return count


@kernel
def solve_cholesky(matrix, right, size):
    # Cholesky decomposition, in place: `right` [size, 2] becomes the solution.
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
def triangle_in_plane(vertices, faces, f):
    # A face in its own plane: the first corner at the origin, the second at (long, 0), the third at
    # (along, up).
    ax, ay, az, bx, by, bz = edge_vectors(vertices, faces, f)
    long = np.sqrt(ax * ax + ay * ay + az * az)
    if long <= 1e-20:
        return 0.0, 0.0, 0.0
    along = (ax * bx + ay * by + az * bz) / long
    return long, along, np.sqrt(max(bx * bx + by * by + bz * bz - along * along, 0.0))


@kernel
def jacobian(positions, i, j, k, long, along, up):
    # Of the map from the plane of a face, see `triangle_in_plane`, to the positions of its corners.
    ux, uy = positions[j, 0] - positions[i, 0], positions[j, 1] - positions[i, 1]
    wx, wy = positions[k, 0] - positions[i, 0], positions[k, 1] - positions[i, 1]
    j00, j10 = ux / long, uy / long
    return j00, (wx - along * j00) / up, j10, (wy - along * j10) / up


@kernel
def fit_polynomials(
    begin, end, vertices, faces, order, first, uv_faces, start, flat, degree, iterations, samples,
    flag,
):  # fmt: skip
    # Displace each chart by polynomials of its two coordinates that minimise the distortion of its
    # faces: least squares between the Jacobian of each face and the nearest rotation, weighted by
    # area. Large charts are sampled: about `samples` faces, evenly spaced.
    max_terms = (degree + 1) * (degree + 2) // 2 - 1
    gradients, terms_at = np.empty((max_terms, 2)), np.empty((max_terms, 2))
    normal_matrix, matrix = np.empty((max_terms, max_terms)), np.empty((max_terms, max_terms))
    coefficients = np.empty((max_terms, 2))
    for c in range(begin, end):
        if is_cancelled(flag):
            return
        count = first[c + 1] - first[c]
        if count < 2:
            continue
        # Odd: faces often come in pairs, the halves of a quad, and both have to be sampled.
        stride = (count // samples) | 1
        # At least three faces for each term, against overfitting.
        own_degree = 1
        while own_degree < degree and 3 * ((own_degree + 2) * (own_degree + 3) // 2 - 1) <= count:
            own_degree += 1
        low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
        for r in range(start[c], start[c + 1]):
            if r & 1023 == 0 and is_cancelled(flag):
                return
            low_x, high_x = min(low_x, flat[r, 0]), max(high_x, flat[r, 0])
            low_y, high_y = min(low_y, flat[r, 1]), max(high_y, flat[r, 1])
        half = 0.5 * max(high_x - low_x, high_y - low_y)
        if half <= 0.0:
            continue
        mid_x, mid_y = 0.5 * (low_x + high_x), 0.5 * (low_y + high_y)
        wide, tall = 0.5 * (high_x - low_x) / half, 0.5 * (high_y - low_y) / half
        terms = monomial_gradients(0.0, 0.0, own_degree, gradients)
        for i in range(terms):
            coefficients[i, 0], coefficients[i, 1] = 0.0, 0.0
        for iteration in range(iterations):
            total_area = 0.0
            right = np.zeros((max_terms, 2))
            if iteration == 0:
                for i in range(terms):
                    for j in range(i + 1):
                        normal_matrix[i, j] = 0.0
            for n in range(first[c], first[c + 1], stride):
                if n & 15 == 0 and is_cancelled(flag):
                    return
                f = order[n]
                long, along, up = triangle_in_plane(vertices, faces, f)
                if up <= 1e-3 * long:
                    continue
                r0, r1, r2 = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
                j00, j01, j10, j11 = jacobian(flat, r0, r1, r2, long, along, up)
                if j00 * j11 - j01 * j10 <= 0.0:
                    continue
                x = ((flat[r0, 0] + flat[r1, 0] + flat[r2, 0]) / 3.0 - mid_x) / half
                y = ((flat[r0, 1] + flat[r1, 1] + flat[r2, 1]) / 3.0 - mid_y) / half
                monomial_gradients(x, y, own_degree, gradients)
                k00, k01, k10, k11 = j00, j01, j10, j11
                for i in range(terms):
                    terms_at[i, 0] = gradients[i, 0] * j00 + gradients[i, 1] * j10
                    terms_at[i, 1] = gradients[i, 0] * j01 + gradients[i, 1] * j11
                    k00 += coefficients[i, 0] * terms_at[i, 0]
                    k01 += coefficients[i, 0] * terms_at[i, 1]
                    k10 += coefficients[i, 1] * terms_at[i, 0]
                    k11 += coefficients[i, 1] * terms_at[i, 1]
                co, si = k00 + k11, k10 - k01
                size = np.sqrt(co * co + si * si)
                if size <= 1e-12:
                    continue
                co, si = co / size, si / size
                area = 0.5 * long * up
                total_area += area
                for i in range(terms):
                    p, q = area * terms_at[i, 0], area * terms_at[i, 1]
                    right[i, 0] += p * (co - j00) + q * (-si - j01)
                    right[i, 1] += p * (si - j10) + q * (co - j11)
                    if iteration == 0:
                        for j in range(i + 1):
                            normal_matrix[i, j] += p * terms_at[j, 0] + q * terms_at[j, 1]
            if iteration == 0:
                # Keep the displacement small in the corners of the box, where there are no faces.
                for n in range(81):
                    monomial_gradients(
                        (n % 9 - 4) / 4.0 * wide, (n // 9 - 4) / 4.0 * tall, own_degree, gradients
                    )
                    for i in range(terms):
                        for j in range(i + 1):
                            normal_matrix[i, j] += (
                                2e-5
                                * total_area
                                * (
                                    gradients[i, 0] * gradients[j, 0]
                                    + gradients[i, 1] * gradients[j, 1]
                                )
                            )
            for i in range(terms):
                for j in range(i + 1):
                    matrix[i, j] = normal_matrix[i, j]
                matrix[i, i] += 1e-9 * total_area + 1e-30
                coefficients[i, 0], coefficients[i, 1] = right[i, 0], right[i, 1]
            solve_cholesky(matrix, coefficients, terms)
        # A map of a convex box is one-to-one if the symmetric part of its Jacobian is positive
        # definite: scale the displacement down until it is.
        worst = 0.0
        for n in range(289):
            monomial_gradients(
                (n % 17 - 8) / 8.0 * wide, (n // 17 - 8) / 8.0 * tall, own_degree, gradients
            )
            k00, k01, k11 = 0.0, 0.0, 0.0
            for i in range(terms):
                k00 += coefficients[i, 0] * gradients[i, 0]
                k01 += 0.5 * (
                    coefficients[i, 0] * gradients[i, 1] + coefficients[i, 1] * gradients[i, 0]
                )
                k11 += coefficients[i, 1] * gradients[i, 1]
            mean, difference = 0.5 * (k00 + k11), 0.5 * (k00 - k11)
            worst = min(worst, mean - np.sqrt(difference * difference + k01 * k01))
        scale = min(1.0, -0.8 / worst) if worst < 0.0 else 1.0
        for r in range(start[c], start[c + 1]):
            if r & 1023 == 0 and is_cancelled(flag):
                return
            x, y = (flat[r, 0] - mid_x) / half, (flat[r, 1] - mid_y) / half
            n = 0
            for total in range(1, own_degree + 1):
                for j in range(total + 1):
                    value = scale * half * x ** (total - j) * y**j
                    flat[r, 0] += value * coefficients[n, 0]
                    flat[r, 1] += value * coefficients[n, 1]
                    n += 1


@kernel
def add_edge_targets(target, positions, i, j, x, y, weight):
    # Add the target positions of the two ends of an edge that should be the vector (x, y).
    target[i, 0] += weight * (positions[j, 0] - x)
    target[i, 1] += weight * (positions[j, 1] - y)
    target[i, 2] += weight
    target[j, 0] += weight * (positions[i, 0] + x)
    target[j, 1] += weight * (positions[i, 1] + y)
    target[j, 2] += weight


@kernel
def relax_step(positions, triangles, faces, target, flag):
    # One Jacobi iteration: the weighted mean of the positions that the rotated faces around each
    # row ask for. The third column of `target` is 1 for rows that stay.
    for r in range(positions.shape[0]):
        target[r, 0], target[r, 1], target[r, 2] = 0.0, 0.0, 0.0
    for n in range(faces.shape[0]):
        if n & 1023 == 1023 and is_cancelled(flag):
            return
        long, along, up = triangles[n, 0], triangles[n, 1], triangles[n, 2]
        if up <= 1e-3 * long:
            continue
        i, j, k = faces[n, 0], faces[n, 1], faces[n, 2]
        j00, j01, j10, j11 = jacobian(positions, i, j, k, long, along, up)
        # The nearest rotation.
        co, si = j00 + j11, j10 - j01
        size = np.sqrt(co * co + si * si)
        if size <= 1e-12:
            continue
        co, si = co / size, si / size
        # Weight each edge with the cotangent of the opposite angle.
        at_i = min(max(along / up, 0.05), 10.0)
        at_j = min(max((long - along) / up, 0.05), 10.0)
        at_k = min(max((up * up - along * (long - along)) / (long * up), 0.05), 10.0)
        jx, jy = co * long, si * long
        kx, ky = co * along - si * up, si * along + co * up
        add_edge_targets(target, positions, i, j, jx, jy, at_k)
        add_edge_targets(target, positions, i, k, kx, ky, at_j)
        add_edge_targets(target, positions, j, k, kx - jx, ky - jy, at_i)
    for r in range(positions.shape[0]):
        if r & 1023 == 1023 and is_cancelled(flag):
            return
        if target[r, 2] > 0.0:
            target[r, 0], target[r, 1], target[r, 2] = (
                target[r, 0] / target[r, 2],
                target[r, 1] / target[r, 2],
                0.0,
            )
        else:
            target[r, 0], target[r, 1], target[r, 2] = positions[r, 0], positions[r, 1], 1.0


@kernel
def prevent_flips(positions, faces, target, flag):
    # Keep the corners of faces that would be flipped where they are.
    is_done = False
    while not is_done:
        is_done = True
        for n in range(faces.shape[0]):
            if n & 1023 == 1023 and is_cancelled(flag):
                return
            i, j, k = faces[n, 0], faces[n, 1], faces[n, 2]
            ux, uy = target[j, 0] - target[i, 0], target[j, 1] - target[i, 1]
            wx, wy = target[k, 0] - target[i, 0], target[k, 1] - target[i, 1]
            if ux * wy - uy * wx > 0.0:
                continue
            for m in range(3):
                r = faces[n, m]
                if target[r, 2] == 0.0:
                    target[r, 0], target[r, 1], target[r, 2] = positions[r, 0], positions[r, 1], 1.0
                    is_done = False


@kernel
def relax_charts(
    begin, end, vertices, faces, order, first, uv_faces, start, flat, steps, density, side, limits,
    flag,
):  # fmt: skip
    # Reduce the distortion of each chart further: Liu et al., "A Local/Global Approach to Mesh
    # Parameterization" (2008), with a Jacobi iteration as the global step. This flattens bends
    # along rims, which polynomials cannot follow. A chart stays as it was if more of its faces
    # would overlap.
    for c in range(begin, end):
        if is_cancelled(flag):
            return
        count, current = first[c + 1] - first[c], flat[start[c] : start[c + 1]]
        triangles, chart_faces = np.empty((count, 3)), np.empty((count, 3), np.int32)
        for n in range(count):
            if n & 1023 == 1023 and is_cancelled(flag):
                return
            f = order[first[c] + n]
            triangles[n, 0], triangles[n, 1], triangles[n, 2] = triangle_in_plane(
                vertices, faces, f
            )
            for m in range(3):
                chart_faces[n, m] = uv_faces[f, m] - start[c]
        positions, target = current.copy(), np.empty((current.shape[0], 3))
        for _ in range(steps):
            relax_step(positions, triangles, chart_faces, target, flag)
            prevent_flips(positions, chart_faces, target, flag)
            positions[:] = target[:, :2]
        if count == 1 or count_overlaps(
            positions, chart_faces, density, side, limits[c], flag
        ) <= count_overlaps(current, chart_faces, density, side, limits[c], flag):
            current[:] = positions


@kernel
def count_overlaps(positions, faces, density, side, limit, flag):
    # The number of faces that cover texels of earlier faces, on a grid of about `limit` texels.
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for r in range(positions.shape[0]):
        if r & 1023 == 1023 and is_cancelled(flag):
            return 0
        low_x, high_x = min(low_x, positions[r, 0]), max(high_x, positions[r, 0])
        low_y, high_y = min(low_y, positions[r, 1]), max(high_y, positions[r, 1])
    width, height = high_x - low_x, high_y - low_y
    scale = min(density, (side - 4) / max(width, height, 1e-20))
    scale = min(scale, np.sqrt(limit / max(width * height, 1e-300)))
    grid = np.zeros((int(height * scale) + 4, int(width * scale) + 4), np.uint8)
    count = 0
    for n in range(faces.shape[0]):
        if n & 63 == 63 and is_cancelled(flag):
            return 0
        i, j, k = faces[n, 0], faces[n, 1], faces[n, 2]
        if not rasterize_face(
            grid, 1, 1,
            (positions[i, 0] - low_x) * scale + 1.5, (positions[i, 1] - low_y) * scale + 1.5,
            (positions[j, 0] - low_x) * scale + 1.5, (positions[j, 1] - low_y) * scale + 1.5,
            (positions[k, 0] - low_x) * scale + 1.5, (positions[k, 1] - low_y) * scale + 1.5,
            flag,
        ):  # fmt: skip
            count += 1
    return count
