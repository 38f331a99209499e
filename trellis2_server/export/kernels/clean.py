"""Loops that drop and renumber faces and fill holes.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0917, PLR1714, PLR2004
# ruff: noqa: PLW3301, SIM109
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel


@kernel
def mark_repeated(faces, head, next_face, keep, flag):
    # Clears `keep` for degenerate faces and for faces whose three vertices an earlier face has.
    # The faces are linked lists by their smallest vertex.
    for f in range(faces.shape[0]):
        if f & 255 == 0 and is_cancelled(flag):
            return
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
            g = next_face[g]
            steps += 1
        if keep[f]:
            next_face[f] = head[low]
            head[low] = f


@kernel
def mark_used(faces, used, flag):
    for f in range(faces.shape[0]):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        used[faces[f, 0]] = used[faces[f, 1]] = used[faces[f, 2]] = True


@kernel
def renumber(start, stop, faces, new_index, renumbered, flag):
    for f in range(start, stop):
        if f & 1023 == 0 and is_cancelled(flag):
            return
        for k in range(3):
            renumbered[f, k] = new_index[faces[f, k]]


@kernel
def fill_holes(vertices, start, stop, owner, edge_from, loop, limit, new_vertices, new_faces, flag):
    # Fills each hole whose rim is a simple loop with a fan of triangles around its centre.
    # edge_from[v]: the rim edge that starts at v; -1: none; -2: several, which is no simple loop.
    for e in range(start.shape[0]):
        if e & 1023 == 0 and is_cancelled(flag):
            return 0, 0
        v = start[e]
        edge_from[v] = e if edge_from[v] == -1 else -2
    vertex_count, face_count = 0, 0
    for first in range(start.shape[0]):
        if first & 1023 == 0 and is_cancelled(flag):
            return 0, 0
        length = 0
        perimeter = 0.0
        e = first
        while e >= 0:
            if length & 1023 == 1023 and is_cancelled(flag):
                return 0, 0
            loop[length] = e
            length += 1
            dx, dy, dz = difference(vertices, stop[e], start[e])
            perimeter += np.sqrt(dx * dx + dy * dy + dz * dz)
            e = edge_from[stop[e]]
            if e == first or perimeter > limit or length >= loop.shape[0]:
                break
        if e != first or perimeter > limit or length < 3 or edge_from[start[first]] != first:
            continue
        if length == 3 and owner[loop[0]] == owner[loop[1]] == owner[loop[2]]:
            continue  # the rim of a single triangle
        if length == 3:
            # The rim has the direction of its faces; the patch has the opposite one.
            new_faces[face_count, 0] = start[loop[0]]
            new_faces[face_count, 1] = start[loop[2]]
            new_faces[face_count, 2] = start[loop[1]]
            face_count += 1
        else:
            x, y, z = 0.0, 0.0, 0.0
            for i in range(length):
                v = start[loop[i]]
                x += vertices[v, 0]
                y += vertices[v, 1]
                z += vertices[v, 2]
                new_faces[face_count, 0] = stop[loop[i]]
                new_faces[face_count, 1] = v
                new_faces[face_count, 2] = vertices.shape[0] + vertex_count
                face_count += 1
            new_vertices[vertex_count, 0] = x / length
            new_vertices[vertex_count, 1] = y / length
            new_vertices[vertex_count, 2] = z / length
            vertex_count += 1
        for i in range(length):
            edge_from[start[loop[i]]] = -1
    return vertex_count, face_count


@kernel
def difference(vertices, a, b):
    return (
        np.float64(vertices[a, 0]) - np.float64(vertices[b, 0]),
        np.float64(vertices[a, 1]) - np.float64(vertices[b, 1]),
        np.float64(vertices[a, 2]) - np.float64(vertices[b, 2]),
    )
