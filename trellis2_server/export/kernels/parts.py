"""Loops that find the connected parts of a mesh and unify their winding.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR2004
# ruff: noqa: PLW3301
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def find_neighbours(start, stop, faces, twin, neighbour, is_consistent, flag):
    # The face on the other side of each edge, and whether its winding is consistent: two faces are
    # consistent if they traverse their edge in opposite directions.
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(3):
            h = twin[3 * f + k]
            g = np.int32(np.uint32(h) // np.uint32(3)) if h >= 0 else np.int32(-1)
            neighbour[3 * f + k] = g
            is_consistent[3 * f + k] = h >= 0 and faces[f, k] != faces[g, h - 3 * g]


@kernel
def find_folds(start, stop, vertices, faces, neighbour, is_consistent, fold, flag):
    # Angle between the faces at each edge, assuming consistent winding: 0: below 30 degrees,
    # 1: below 60, 2: above.
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        nx, ny, nz = face_normal(vertices, faces, f)
        for k in range(3):
            g = neighbour[3 * f + k]
            fold[3 * f + k] = 0
            if g < 0:
                continue
            mx, my, mz = face_normal(vertices, faces, g)
            along = nx * mx + ny * my + nz * mz
            side = along if is_consistent[3 * f + k] else -along
            square = (nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz)
            if side < 0.0 or 4.0 * side * side < square:
                fold[3 * f + k] = 2
            elif 4.0 * side * side < 3.0 * square:
                fold[3 * f + k] = 1


@kernel
def face_normal(vertices, faces, f):
    ux, uy, uz = difference(vertices, faces[f, 1], faces[f, 0])
    vx, vy, vz = difference(vertices, faces[f, 2], faces[f, 0])
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


# Parts are a union-find forest over faces; the root of a part is its first face. root[f] is twice a
# face nearer to the root (f itself at the root), plus 1 if the winding of the two is inconsistent.
# The same form is used for groups of parts.


@kernel
def find_root(root, f):
    # The root of f's part, in the form of `root[f]`. Halves the path to it.
    is_flipped = 0
    while root[f] >> 1 != f:
        root[f] = root[root[f] >> 1] ^ (root[f] & 1)
        is_flipped ^= root[f] & 1
        f = root[f] >> 1
    return 2 * f + is_flipped


@kernel
def unite(root, f, g, is_consistent):
    # Unite the parts of f and g. False if they already are one part in which the winding of f and
    # g is the opposite of `is_consistent`.
    a, b = find_root(root, f), find_root(root, g)
    is_flipped = ((a ^ b) & 1) ^ (0 if is_consistent else 1)
    a, b = a >> 1, b >> 1
    if a == b:
        return is_flipped == 0
    root[max(a, b)] = 2 * min(a, b) + is_flipped
    return True


@kernel
def unite_within_chunks(
    start, stop, chunks, neighbour, is_consistent, fold, root, has_conflict, flag
):
    # Unite faces across edges without a fold, separately in each chunk of the list of faces.
    for chunk in range(start, stop):
        if is_cancelled(flag):
            return
        low, high = root.shape[0] * chunk // chunks, root.shape[0] * (chunk + 1) // chunks
        for f in range(low, high):
            if f & 1023 == 0 and is_cancelled(flag):
                return
            root[f] = 2 * f
            for i in range(3 * f, 3 * f + 3):
                if low <= neighbour[i] < f and fold[i] == 0:
                    has_conflict[chunk] |= not unite(root, f, neighbour[i], is_consistent[i])


@kernel
def unite_across_chunks(chunks, folds, neighbour, is_consistent, fold, root, flag):
    # Unite faces of different chunks, then faces across folds, the sharpest last: so a conflict of
    # winding ends up at a sharp fold where possible.
    has_conflict = False
    for chunk in range(chunks):
        if is_cancelled(flag):
            return False
        low, high = root.shape[0] * chunk // chunks, root.shape[0] * (chunk + 1) // chunks
        for i in range(3 * low, 3 * high):
            if i & 1023 == 0 and is_cancelled(flag):
                return False
            if 0 <= neighbour[i] < low and fold[i] == 0:
                has_conflict |= not unite(root, i // 3, neighbour[i], is_consistent[i])
    for sharpness in range(1, folds + 1):
        if is_cancelled(flag):
            return False
        for i in range(neighbour.shape[0]):
            if i & 1023 == 0 and is_cancelled(flag):
                return False
            if fold[i] == sharpness and 0 <= neighbour[i] < i // 3:
                has_conflict |= not unite(root, i // 3, neighbour[i], is_consistent[i])
    return has_conflict


@kernel
def number_parts(root, part, flip, flag):
    # Number the parts in the order of their first faces. flip: the face has to be flipped to be
    # consistent with the first face of its part.
    count = 0
    for f in range(part.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return 0
        found = find_root(root, f)
        if found >> 1 == f:
            part[f] = count
            count += 1
        else:
            part[f] = part[found >> 1]
        flip[f] = found & 1 != 0
    return count


@kernel
def pair_smoothest(vertices, faces, half, first, partner, cosine, flag):
    # At each edge of more than two faces, pair the faces that continue each other most smoothly,
    # then the best pair of the rest, and so on. half[first[e]:first[e + 1]] are the half-edges at
    # edge e. partner: the paired half-edge, -1: none; cosine: of the angle. Angles above
    # 60 degrees are not paired, nor are edges of more than 16 faces.
    for i in range(half.shape[0]):
        if i & 255 == 0 and is_cancelled(flag):
            return
        partner[i] = -1
    for e in range(first.shape[0] - 1):
        if e & 255 == 0 and is_cancelled(flag):
            return
        while first[e + 1] - first[e] <= 16:
            best, best_i, best_j = 0.5, -1, -1
            for i in range(first[e], first[e + 1]):
                if partner[i] >= 0:
                    continue
                nx, ny, nz = face_normal(vertices, faces, half[i] // 3)
                for j in range(i + 1, first[e + 1]):
                    if partner[j] >= 0:
                        continue
                    mx, my, mz = face_normal(vertices, faces, half[j] // 3)
                    square = (nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz)
                    along = (nx * mx + ny * my + nz * mz) / np.sqrt(square + 1e-300)
                    if faces[half[i] // 3, half[i] % 3] == faces[half[j] // 3, half[j] % 3]:
                        along = -along
                    if along > best:
                        best, best_i, best_j = along, i, j
            if best_i < 0:
                break
            partner[best_i], partner[best_j] = half[best_j], half[best_i]
            cosine[best_i] = cosine[best_j] = best


@kernel
def unite_parts(low, high, is_consistent, root, flag):
    for i in range(low.shape[0]):
        if i & 1023 == 0 and is_cancelled(flag):
            return
        unite(root, low[i], high[i], is_consistent[i])


@kernel
def measure_parts(
    vertices, faces, neighbour, is_consistent, part, flip, is_open, origin, low, high, sums, flag,
):  # fmt: skip
    # is_open: the part has a rim or cannot be wound consistently.
    # sums of each part: 0 and 1: twice the area of the faces that are kept and that are flipped;
    # 2: six times the volume; 3:6: six times the first moment of the area; 6:9: twice the area
    # vector; 9: number of faces. All relative to a vertex of the part, which reduces cancellation.
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        p = part[f]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if origin[p] < 0:
            origin[p] = a
        for i in range(3 * f, 3 * f + 3):
            g = neighbour[i]
            if g < 0 or flip[g] != (flip[f] == is_consistent[i]):
                is_open[p] = True
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            low[p, k] = min(low[p, k], min(x, min(y, z)))
            high[p, k] = max(high[p, k], max(x, max(y, z)))
        o = origin[p]
        ax, ay, az = difference(vertices, a, o)
        bx, by, bz = difference(vertices, b, o)
        cx, cy, cz = difference(vertices, c, o)
        ux, uy, uz = bx - ax, by - ay, bz - az
        vx, vy, vz = cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area = np.sqrt(nx * nx + ny * ny + nz * nz)
        sign = -1.0 if flip[f] else 1.0
        sums[p, 1 if flip[f] else 0] += area
        sums[p, 2] += sign * (ax * nx + ay * ny + az * nz)
        sums[p, 3] += area * (ax + bx + cx)
        sums[p, 4] += area * (ay + by + cy)
        sums[p, 5] += area * (az + bz + cz)
        sums[p, 6] += sign * nx
        sums[p, 7] += sign * ny
        sums[p, 8] += sign * nz
        sums[p, 9] += 1.0


@kernel
def flip_faces(start, stop, faces, is_flipped, flipped, flag):
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        swap = 1 if is_flipped[f] else 0
        flipped[f, 0], flipped[f, 1], flipped[f, 2] = (
            faces[f, 0],
            faces[f, 1 + swap],
            faces[f, 2 - swap],
        )


@kernel
def difference(vertices, a, b):
    return (
        np.float64(vertices[a, 0]) - np.float64(vertices[b, 0]),
        np.float64(vertices[a, 1]) - np.float64(vertices[b, 1]),
        np.float64(vertices[a, 2]) - np.float64(vertices[b, 2]),
    )
