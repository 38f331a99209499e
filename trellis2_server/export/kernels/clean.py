"""Loops that clean a mesh.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, D103, PLR0913, PLR0917, PLR1714, PLR2004
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
def find_folds(start, stop, vertices, faces, other, is_alike, is_joint, is_fold):
    # Edges where the surface turns by more than 60 degrees, were both faces wound alike, and
    # those that end where several sheets meet.
    for f in range(start, stop):
        nx, ny, nz = normal(vertices, faces, f)
        for k in range(3):
            g = other[3 * f + k]
            is_fold[3 * f + k] = False
            if g >= 0:
                mx, my, mz = normal(vertices, faces, g)
                along = nx * mx + ny * my + nz * mz
                square = (nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz)
                side = along if is_alike[3 * f + k] else -along
                is_fold[3 * f + k] = (
                    is_joint[faces[f, k]]
                    or is_joint[faces[f, (k + 1) % 3]]
                    or side < 0.0
                    or 4.0 * side * side < square
                )


@kernel
def normal(vertices, faces, f):
    ux, uy, uz = minus(vertices, faces[f, 1], faces[f, 0])
    vx, vy, vz = minus(vertices, faces[f, 2], faces[f, 0])
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@kernel
def label_parts(other, is_alike, is_fold, part, flip, stack, later):
    # Parts are joined through edges with exactly two faces. flip: whether a face has to be
    # turned to be wound like the first of its part, which is the first in the order of faces.
    # Folds are crossed last, so that faces which cannot agree meet there, if anywhere.
    for f in range(part.shape[0]):
        part[f] = -1
    count, is_twisted = 0, False
    for seed in range(part.shape[0]):
        if part[seed] >= 0:
            continue
        part[seed] = count
        flip[seed] = False
        stack[0] = seed
        top, postponed = 1, 0
        while top > 0 or postponed > 0:
            if top > 0:
                top -= 1
                f = stack[top]
                first, last = 3 * f, 3 * f + 3
            else:
                postponed -= 1
                first = later[postponed]
                last = first + 1
                f = first // 3
            for i in range(first, last):
                g = other[i]
                if g < 0:
                    continue
                turned = flip[f] == is_alike[i]
                if part[g] >= 0:
                    is_twisted |= flip[g] != turned
                elif last > first + 1 and is_fold[i]:
                    later[postponed] = i
                    postponed += 1
                else:
                    part[g] = count
                    flip[g] = turned
                    stack[top] = g
                    top += 1
        count += 1
    return count, is_twisted


@kernel
def measure_parts(
    vertices, faces, other, is_alike, part, flip, is_open, origin, low, high, sums
):  # fmt: skip
    # is_open: the part has a rim, or only one side.
    # sums, of each part: twice the area of the faces that stay, and of those that are turned; six
    # times the volume; three times the area's first moment, and the area as a vector. They are
    # taken from a corner of the part: far less cancellation.
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
