"""Loops that find the closest point of a chart to a place, starting nearby.

Compiled by numba, which infers all types from the arguments: see the callers.
"""

# ruff: noqa: ANN001, ANN201, C901, D103, PLR0913, PLR0917, PLR2004
# Loops are written for speed: flat, with positional scalars and arrays.
# pyright: basic

from __future__ import annotations

import numpy as np

from trellis2_server.export.jit import is_cancelled, kernel

#: Steps from a face to those around it, at most.
MOST_STEPS = 64


@kernel
def closest_shares(vertices, a, b, c, px, py, pz):
    # Barycentric coordinates of the closest point of a triangle, and its squared distance.
    # Ericson, "Real-Time Collision Detection" (2005), 5.1.5: by Voronoi regions.
    ax, ay, az = np.float64(vertices[a, 0]), np.float64(vertices[a, 1]), np.float64(vertices[a, 2])
    ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
    vx, vy, vz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
    wx, wy, wz = px - ax, py - ay, pz - az
    uu, uv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz
    vv = vx * vx + vy * vy + vz * vz
    d1, d2 = ux * wx + uy * wy + uz * wz, vx * wx + vy * wy + vz * wz
    d3, d4, d5, d6 = d1 - uu, d2 - uv, d1 - uv, d2 - vv
    ab, ac, bc = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    s, t = 0.0, 0.0
    if min(ab, ac, bc) > 0.0:
        s, t = ac / (ab + ac + bc), ab / (ab + ac + bc)
    elif d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        s = 1.0
    elif ab <= 0.0 and d1 >= 0.0 and d3 <= 0.0 and uu > 0.0:
        s = d1 / uu
    elif d6 >= 0.0 and d5 <= d6:
        t = 1.0
    elif ac <= 0.0 and d2 >= 0.0 and d6 <= 0.0 and vv > 0.0:
        t = d2 / vv
    else:
        whole = (d4 - d3) + (d5 - d6)
        t = min(1.0, max(0.0, (d4 - d3) / whole)) if whole > 0.0 else 0.0
        s = 1.0 - t
    dx, dy, dz = wx - s * ux - t * vx, wy - s * uy - t * vy, wz - s * uz - t * vz
    return s, t, dx * dx + dy * dy + dz * dz


@kernel
def shares_beyond(vertices, a, b, c, px, py, pz):
    # Barycentric coordinates of a place's projection onto the plane of a triangle; not of a sliver.
    ax, ay, az = np.float64(vertices[a, 0]), np.float64(vertices[a, 1]), np.float64(vertices[a, 2])
    ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
    vx, vy, vz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
    wx, wy, wz = px - ax, py - ay, pz - az
    uu, uv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz
    vv = vx * vx + vy * vy + vz * vz
    wu, wv = wx * ux + wy * uy + wz * uz, wx * vx + wy * vy + wz * vz
    whole = uu * vv - uv * uv
    if whole <= 1e-4 * uu * vv:
        return False, 0.0, 0.0
    return True, (wu * vv - wv * uv) / whole, (wv * uu - wu * uv) / whole


@kernel
def extend(vertices, faces, uv, uv_faces, is_rim, most, f, p, x, y, z, shares):
    # Where the closest point of the chart lies on its rim, move it on along the plane of the face,
    # by at most so many texels.
    is_at_rim = False
    for k in range(3):
        is_at_rim |= shares[p, (k + 2) % 3] == 0.0 and is_rim[3 * f + k]
    if not is_at_rim:
        return
    is_flat, s, t = shares_beyond(vertices, faces[f, 0], faces[f, 1], faces[f, 2], x, y, z)
    if not is_flat:
        return
    a, b, c = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
    ds, dt = s - shares[p, 1], t - shares[p, 2]
    du = ds * (uv[b, 0] - np.float64(uv[a, 0])) + dt * (uv[c, 0] - np.float64(uv[a, 0]))
    dv = ds * (uv[b, 1] - np.float64(uv[a, 1])) + dt * (uv[c, 1] - np.float64(uv[a, 1]))
    length = np.sqrt(du * du + dv * dv)
    part = 1.0 if length <= most else most / length
    shares[p, 0] -= part * (ds + dt)
    shares[p, 1] += part * ds
    shares[p, 2] += part * dt


@kernel
def find_footpoints(
    start, stop, points, rows, is_held, vertices, faces, uv, uv_faces, is_rim, gutter, first,
    corners, found, shares, distances, flag,
):  # fmt: skip
    # Walk from the faces at a row of the texture coordinates to closer and closer ones, within the
    # chart: the corners around a row are only those of its chart.
    for p in range(start, stop):
        if p & 63 == 0 and is_cancelled(flag):
            return
        row = rows[p]
        f, k = corners[first[row]] // 3, corners[first[row]] % 3
        found[p], distances[p] = f, np.inf
        for c in range(3):
            shares[p, c] = 1.0 if c == k else 0.0
        if is_held[p]:
            continue
        x, y, z = np.float64(points[p, 0]), np.float64(points[p, 1]), np.float64(points[p, 2])
        least = np.inf
        for step in range(MOST_STEPS):
            centre, closer = f, -1
            for side in range(1 if step == 0 else 3):
                around = row if step == 0 else uv_faces[centre, side]
                for i in range(first[around], first[around + 1]):
                    if i & 1023 == 1023 and is_cancelled(flag):
                        return
                    g = corners[i] // 3
                    s, t, square = closest_shares(
                        vertices, faces[g, 0], faces[g, 1], faces[g, 2], x, y, z
                    )
                    if square < least:
                        least, closer = square, g
                        shares[p, 0], shares[p, 1], shares[p, 2] = 1.0 - s - t, s, t
            if closer < 0:
                break
            f = closer
        found[p], distances[p] = f, np.sqrt(least)
        extend(vertices, faces, uv, uv_faces, is_rim, gutter, f, p, x, y, z, shares)
