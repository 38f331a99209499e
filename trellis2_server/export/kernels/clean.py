"""Loops that clean a mesh.

Compiled by numba, which infers every type from the arguments: see the callers for them.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0912, PLR0913, PLR0915, PLR0917, PLR1714, PLR2004
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
def label_parts(faces, twin, part, stack):
    # Parts are joined through edges with exactly two faces.
    for f in range(faces.shape[0]):
        part[f] = -1
    count = 0
    for seed in range(faces.shape[0]):
        if part[seed] >= 0:
            continue
        part[seed] = count
        stack[0] = seed
        top = 1
        while top > 0:
            top -= 1
            f = stack[top]
            for k in range(3):
                h = twin[3 * f + k]
                if h >= 0 and part[h // 3] < 0:
                    part[h // 3] = count
                    stack[top] = h // 3
                    top += 1
        count += 1
    return count


@kernel
def measure_parts(vertices, faces, part, low, high, area):
    for f in range(faces.shape[0]):
        p = part[f]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            low[p, k] = min(low[p, k], min(x, min(y, z)))
            high[p, k] = max(high[p, k], max(x, max(y, z)))
        ux, uy, uz = minus(vertices, b, a)
        vx, vy, vz = minus(vertices, c, a)
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area[p] += 0.5 * np.sqrt(nx * nx + ny * ny + nz * nz)


@kernel
def minus(vertices, a, b):
    return (
        np.float64(vertices[a, 0]) - np.float64(vertices[b, 0]),
        np.float64(vertices[a, 1]) - np.float64(vertices[b, 1]),
        np.float64(vertices[a, 2]) - np.float64(vertices[b, 2]),
    )


@kernel
def orient(vertices, faces, twin, flip, queue):
    # flip: 0 not seen (becomes 2), 1 turn it, 2 leave it; one part at a time.
    for seed in range(faces.shape[0]):
        if flip[seed] != 0:
            continue
        flip[seed] = 2
        queue[0] = seed
        head, tail = 0, 1
        is_closed, is_orientable = True, True
        while head < tail:
            f = queue[head]
            head += 1
            for k in range(3):
                h = twin[3 * f + k]
                if h < 0:
                    is_closed = False
                    continue
                g = h // 3
                # Two faces agree when they walk their edge in opposite directions.
                agree = faces[f, k] != faces[g, h % 3]
                wanted = flip[f] if agree else 3 - flip[f]
                if flip[g] == 0:
                    flip[g] = wanted
                    queue[tail] = g
                    tail += 1
                elif flip[g] != wanted:
                    is_orientable = False
        # The volume is taken against a corner of the part: far less cancellation. That of an
        # open part, which depends on where it is taken from, against its middle.
        volume, kept, turned = 0.0, 0.0, 0.0
        mx, my, mz, lx, ly, lz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        o = faces[seed, 0]
        for i in range(tail):
            f = queue[i]
            ax, ay, az = minus(vertices, faces[f, 0], o)
            bx, by, bz = minus(vertices, faces[f, 1], o)
            cx, cy, cz = minus(vertices, faces[f, 2], o)
            six = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
            volume += six if flip[f] == 2 else -six
            ux, uy, uz = bx - ax, by - ay, bz - az
            vx, vy, vz = cx - ax, cy - ay, cz - az
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            area = np.sqrt(nx * nx + ny * ny + nz * nz)
            if flip[f] == 2:
                kept += area
                lx, ly, lz = lx + nx, ly + ny, lz + nz
            else:
                turned += area
                lx, ly, lz = lx - nx, ly - ny, lz - nz
            mx, my, mz = (
                mx + area * (ax + bx + cx),
                my + area * (ay + by + cy),
                mz + area * (az + bz + cz),
            )
        if is_closed and is_orientable:
            inside_out = volume < 0.0
        elif min(kept, turned) < 0.4 * (kept + turned):
            inside_out = turned > kept
        else:
            # It was wound at random: outward as far as it bulges.
            total = 3.0 * (kept + turned) + 1e-300
            inside_out = volume < (mx * lx + my * ly + mz * lz) / total
        if inside_out:
            for i in range(tail):
                flip[queue[i]] = 3 - flip[queue[i]]


@kernel
def turn(start, stop, faces, flip, wound):
    for f in range(start, stop):
        far = 1 if flip[f] == 1 else 0
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
