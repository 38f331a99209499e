"""Loops that clean a mesh.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR1714, PLR2004
# ruff: noqa: PLW3301, SIM109
# Loops are written as the machine runs them: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.kernel import kernel


@kernel
def mark_repeated(faces, head, following, keep):
    # A chain of faces at each smallest vertex.
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if a == b or b == c or a == c:
            keep[f] = False
            continue
        low = min(a, min(b, c))
        high = max(a, max(b, c))
        middle = a ^ b ^ c ^ low ^ high
        g = head[low]
        steps = 0
        while g >= 0 and steps < 256:
            p, q, r = faces[g, 0], faces[g, 1], faces[g, 2]
            g_high = max(p, max(q, r))
            if g_high == high and (p ^ q ^ r ^ low ^ g_high) == middle:
                keep[f] = False
                break
            g = following[g]
            steps += 1
        if keep[f]:
            following[f] = head[low]
            head[low] = f


@kernel
def compare(start, stop, faces, twin, other, is_alike):
    # The face across each edge, and whether it is wound alike: two faces are when they walk
    # their edge in opposite directions.
    for f in range(start, stop):
        for k in range(3):
            h = twin[3 * f + k]
            g = np.int32(np.uint32(h) // np.uint32(3)) if h >= 0 else np.int32(-1)
            other[3 * f + k] = g
            is_alike[3 * f + k] = h >= 0 and faces[f, k] != faces[g, h - 3 * g]


@kernel
def find_folds(start, stop, vertices, faces, other, is_alike, fold):
    # How far the surface turns at each edge, were both faces wound alike: 0 by less than 30
    # degrees, 1 by less than 60, 2 by more.
    for f in range(start, stop):
        nx, ny, nz = normal(vertices, faces, f)
        for k in range(3):
            g = other[3 * f + k]
            fold[3 * f + k] = 0
            if g < 0:
                continue
            mx, my, mz = normal(vertices, faces, g)
            along = nx * mx + ny * my + nz * mz
            side = along if is_alike[3 * f + k] else -along
            square = (nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz)
            if side < 0.0 or 4.0 * side * side < square:
                fold[3 * f + k] = 2
            elif 4.0 * side * side < 3.0 * square:
                fold[3 * f + k] = 1


@kernel
def normal(vertices, faces, f):
    ux, uy, uz = minus(vertices, faces[f, 1], faces[f, 0])
    vx, vy, vz = minus(vertices, faces[f, 2], faces[f, 0])
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


# A part is a tree of its faces, whose root is the first of them. root: twice a face further up,
# itself at the root, and 1 more where the two are not wound alike. Parts of parts are the same.


@kernel
def find(root, f):
    # The root of f's part in the same form; on the way every other face is hung higher.
    turned = 0
    while root[f] >> 1 != f:
        root[f] = root[root[f] >> 1] ^ (root[f] & 1)
        turned ^= root[f] & 1
        f = root[f] >> 1
    return 2 * f + turned


@kernel
def join(root, f, g, is_alike):
    # Whether the parts of f and g are one, or now become one: not where f and g cannot be wound
    # alike any more.
    a, b = find(root, f), find(root, g)
    turned = ((a ^ b) & 1) ^ (0 if is_alike else 1)
    a, b = a >> 1, b >> 1
    if a == b:
        return turned == 0
    root[max(a, b)] = 2 * min(a, b) + turned
    return True


@kernel
def join_within(start, stop, pieces, other, is_alike, fold, root, is_twisted):
    # Join the faces of each piece of the list, by itself, through edges that are no folds.
    for piece in range(start, stop):
        low, high = root.shape[0] * piece // pieces, root.shape[0] * (piece + 1) // pieces
        for f in range(low, high):
            root[f] = 2 * f
            for i in range(3 * f, 3 * f + 3):
                if low <= other[i] < f and fold[i] == 0:
                    is_twisted[piece] |= not join(root, f, other[i], is_alike[i])


@kernel
def join_across(pieces, folds, other, is_alike, fold, root):
    # Join the pieces; then the faces on both sides of folds, the sharpest last: what cannot be
    # wound alike meets there, if anywhere.
    is_twisted = False
    for piece in range(pieces):
        low, high = root.shape[0] * piece // pieces, root.shape[0] * (piece + 1) // pieces
        for i in range(3 * low, 3 * high):
            if 0 <= other[i] < low and fold[i] == 0:
                is_twisted |= not join(root, i // 3, other[i], is_alike[i])
    for sharp in range(1, folds + 1):
        for i in range(other.shape[0]):
            if fold[i] == sharp and 0 <= other[i] < i // 3:
                is_twisted |= not join(root, i // 3, other[i], is_alike[i])
    return is_twisted


@kernel
def number_parts(root, part, flip):
    # In the order of their first faces. flip: whether a face has to be turned to be wound like
    # the first.
    count = 0
    for f in range(part.shape[0]):
        up = find(root, f)
        if up >> 1 == f:
            part[f] = count
            count += 1
        else:
            part[f] = part[up >> 1]
        flip[f] = up & 1 != 0
    return count


@kernel
def pair_smoothest(vertices, faces, half, first, partner, turn):
    # Of the faces at each edge of several, the two that go on into one another with the least
    # turn, then those of the rest: half-edges half[first[e]:first[e + 1]] are those at edge e.
    # turn: its cosine; partner: the other one. What turns by more than 60 degrees stays alone,
    # with -1, and so do more than 16: no surface is like that.
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
def join_parts(low, high, is_alike, root):
    for i in range(low.shape[0]):
        join(root, low[i], high[i], is_alike[i])


@kernel
def measure_parts(
    vertices, faces, other, is_alike, part, flip, is_open, origin, low, high, sums
):  # fmt: skip
    # is_open: the part has a rim, or only one side.
    # sums, of each part: twice the area of the faces that stay, and of those that are turned; six
    # times the volume; three times the area's first moment, and the area as a vector; its faces.
    # They are taken from a corner of the part: far less cancellation.
    for f in range(faces.shape[0]):
        p = part[f]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if origin[p] < 0:
            origin[p] = a
        for i in range(3 * f, 3 * f + 3):
            g = other[i]
            if g < 0 or flip[g] != (flip[f] == is_alike[i]):
                is_open[p] = True
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            low[p, k] = min(low[p, k], min(x, min(y, z)))
            high[p, k] = max(high[p, k], max(x, max(y, z)))
        o = origin[p]
        ax, ay, az = minus(vertices, a, o)
        bx, by, bz = minus(vertices, b, o)
        cx, cy, cz = minus(vertices, c, o)
        ux, uy, uz = bx - ax, by - ay, bz - az
        vx, vy, vz = cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area = np.sqrt(nx * nx + ny * ny + nz * nz)
        side = -1.0 if flip[f] else 1.0
        sums[p, 1 if flip[f] else 0] += area
        sums[p, 2] += side * (ax * nx + ay * ny + az * nz)
        sums[p, 3] += area * (ax + bx + cx)
        sums[p, 4] += area * (ay + by + cy)
        sums[p, 5] += area * (az + bz + cz)
        sums[p, 6] += side * nx
        sums[p, 7] += side * ny
        sums[p, 8] += side * nz
        sums[p, 9] += 1.0


@kernel
def mark_used(faces, used):
    for f in range(faces.shape[0]):
        used[faces[f, 0]] = used[faces[f, 1]] = used[faces[f, 2]] = True


@kernel
def rename(start, stop, faces, name, renamed):
    for f in range(start, stop):
        for k in range(3):
            renamed[f, k] = name[faces[f, k]]


@kernel
def minus(vertices, a, b):
    return (
        np.float64(vertices[a, 0]) - np.float64(vertices[b, 0]),
        np.float64(vertices[a, 1]) - np.float64(vertices[b, 1]),
        np.float64(vertices[a, 2]) - np.float64(vertices[b, 2]),
    )


@kernel
def turn(start, stop, faces, turned, wound):
    for f in range(start, stop):
        far = 1 if turned[f] else 0
        wound[f, 0], wound[f, 1], wound[f, 2] = faces[f, 0], faces[f, 1 + far], faces[f, 2 - far]


@kernel
def fan(vertices, start, stop, owner, leaving, loop, limit, new_vertices, new_faces):
    # leaving[v]: the rim edge that starts at v, -1 none, -2 several (no simple loop).
    for e in range(start.shape[0]):
        v = start[e]
        leaving[v] = e if leaving[v] == -1 else -2
    made_vertices, made_faces = 0, 0
    for first in range(start.shape[0]):
        length = 0
        perimeter = 0.0
        e = first
        while e >= 0:
            loop[length] = e
            length += 1
            dx, dy, dz = minus(vertices, stop[e], start[e])
            perimeter += np.sqrt(dx * dx + dy * dy + dz * dz)
            e = leaving[stop[e]]
            if e == first or perimeter > limit or length >= loop.shape[0]:
                break
        if e != first or perimeter > limit or length < 3 or leaving[start[first]] != first:
            continue
        if length == 3 and owner[loop[0]] == owner[loop[1]] == owner[loop[2]]:
            continue  # a lone triangle is no hole
        if length == 3:
            # The rim runs with its faces, the patch against them.
            new_faces[made_faces, 0] = start[loop[0]]
            new_faces[made_faces, 1] = start[loop[2]]
            new_faces[made_faces, 2] = start[loop[1]]
            made_faces += 1
        else:
            x, y, z = 0.0, 0.0, 0.0
            for i in range(length):
                v = start[loop[i]]
                x += vertices[v, 0]
                y += vertices[v, 1]
                z += vertices[v, 2]
                new_faces[made_faces, 0] = stop[loop[i]]
                new_faces[made_faces, 1] = v
                new_faces[made_faces, 2] = vertices.shape[0] + made_vertices
                made_faces += 1
            new_vertices[made_vertices, 0] = x / length
            new_vertices[made_vertices, 1] = y / length
            new_vertices[made_vertices, 2] = z / length
            made_vertices += 1
        for i in range(length):
            leaving[start[loop[i]]] = -1
    return made_vertices, made_faces
