"""The colours of a voxel field, painted into an atlas.

Every texel of a face is taken back to its place on the surface, from there to the closest
point of the original surface, and its colour is read from the voxels around that point.
Texels outside every face get the colours of the nearest ones, so that filtering and mipmaps
never see anything else.

What this module does not know: image formats, how the atlas was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.kernel import kernel, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.export.unwrap import Atlas
    from trellis2_server.mesh import Mesh, VoxelField


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """The painted textures, row 0 at the top.

    Attributes:
        base_color: uint8 [S, S, 4], sRGB and alpha.
        metal_rough: uint8 [S, S, 3], glTF's packing: roughness in G, metallic in B, linear;
            R repeats G.
        covered: uint8 [S, S], 1 where a face of the atlas got its colour from voxels,
            2 in the gutter beside, 0 where the colour was filled in.
    """

    base_color: NDArray[np.uint8]
    metal_rough: NDArray[np.uint8]
    covered: NDArray[np.uint8]


def bake(
    mesh: Mesh,
    atlas: Atlas,
    field: VoxelField,
    original: Mesh | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Maps:
    """The field's colours on the surface of `mesh`, as textures for `atlas`.

    Args:
        mesh: what the atlas was made of.
        atlas: where each face lies.
        field: read at the surface, trilinearly.
        original: where given, each point moves to the closest point of this surface first.
        report: called between steps with "bake", the step and their number.
    """
    size = atlas.size_px
    steps = 3
    if report:
        report("bake", 0, steps)
    owner = _raster(atlas, gutter=3 if size >= 1024 else 2)  # noqa: PLR2004
    if report:
        report("bake", 1, steps)
    boxes, masks, ranks, rows = _index_voxels(field)
    is_projected = original is not None
    target = original or mesh
    # Without a projection the search has nothing to look through.
    spheres, origin, cell, first, members = _index_faces(target, is_empty=not is_projected)
    base_color = np.zeros((size, size, 4), np.uint8)
    metal_rough = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), np.uint8)
    spread(
        _paint, size, owner, atlas.uv, atlas.faces, atlas.source,
        mesh.vertices, target.vertices, target.faces,
        is_projected, spheres, origin, cell, first, members,
        boxes, masks, ranks, rows, field.attributes,
        field.resolution, base_color, metal_rough, covered, grain=16,
    )  # fmt: skip
    if report:
        report("bake", 2, steps)
    _fill(base_color, covered)
    _fill(metal_rough, covered)
    if report:
        report("bake", steps, steps)
    return Maps(base_color, metal_rough, covered)


def look_up(
    points: NDArray[np.float64], field: VoxelField, original: Mesh | None = None
) -> NDArray[np.float64]:
    """The field's attributes at points, as `bake` reads them.

    Args:
        points: float64 [N, 3], in the model frame.
        field: the attributes.
        original: where given, each point moves to the closest point of this surface first.

    Returns:
        float64 [N, 6], in [0, 1]; NaN where no voxel is near.
    """
    values = np.full((len(points), 6), np.nan)
    places = np.array(points, np.float64, order="C")
    if original is not None:
        spheres, origin, cell, first, members = _index_faces(original, is_empty=False)
        spread(
            _project, len(places), places, original.vertices,
            original.faces, spheres, origin, cell, first, members,
        )  # fmt: skip
    boxes, masks, ranks, rows = _index_voxels(field)
    spread(
        _read, len(places), places, boxes, masks, ranks, rows,
        field.attributes, field.resolution, values,
    )  # fmt: skip
    return values


@kernel
def _project(start, stop, places, vertices, faces, spheres, origin, cell, first, members):
    hit, trial = np.empty(3), np.empty(3)
    for p in range(start, stop):
        x, y, z = places[p, 0], places[p, 1], places[p, 2]
        face = _closest(
            vertices, faces, spheres, origin, cell, first, members, x, y, z, -1, hit, trial
        )
        if face >= 0:
            places[p, 0], places[p, 1], places[p, 2] = hit[0], hit[1], hit[2]


@kernel
def _read(start, stop, places, boxes, masks, ranks, rows, attributes, resolution, values):
    value = np.empty(6)
    for p in range(start, stop):
        if _sample(
            places[p, 0], places[p, 1], places[p, 2],
            boxes, masks, ranks, rows, attributes, resolution, value,
        ):  # fmt: skip
            for k in range(6):
                values[p, k] = value[k]


def _raster(atlas: Atlas, gutter: int) -> NDArray[np.int32]:
    """The face of each texel, int32 [S, S]: -1 none, -2 - face in the gutter beside it."""
    size = atlas.size_px
    owner = np.full((size, size), -1, np.int32)
    seen = np.zeros(len(atlas.faces), np.uint8)
    spread(_scan, size, atlas.uv, atlas.faces, owner, seen, grain=256)
    _rescue(atlas.uv, atlas.faces, owner, seen)
    for _ in range(gutter):
        wider = np.empty_like(owner)
        spread(_widen, size, owner, wider, grain=64)
        owner = wider
    return owner


@kernel
def _scan(start, stop, uv, faces, owner, seen):
    size = owner.shape[1]
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ay, by, cy = np.float64(uv[a, 1]), np.float64(uv[b, 1]), np.float64(uv[c, 1])
        row_0 = max(start, int(np.ceil(min(ay, by, cy) - 0.5)))
        row_1 = min(stop - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        if row_0 > row_1:
            continue
        ax, bx, cx = np.float64(uv[a, 0]), np.float64(uv[b, 0]), np.float64(uv[c, 0])
        for row in range(row_0, row_1 + 1):
            y = row + 0.5
            low, high = np.inf, -np.inf
            for side in range(3):
                if side == 0:
                    px, py, qx, qy = ax, ay, bx, by
                elif side == 1:
                    px, py, qx, qy = bx, by, cx, cy
                else:
                    px, py, qx, qy = cx, cy, ax, ay
                if py > qy:
                    px, py, qx, qy = qx, qy, px, py
                if py <= y <= qy and py < qy:
                    x = px + (qx - px) * ((y - py) / (qy - py))
                    low, high = min(low, x), max(high, x)
            if low > high:
                continue
            for column in range(
                max(0, int(np.ceil(low - 0.5))), min(size - 1, int(np.floor(high - 0.5))) + 1
            ):
                owner[row, column] = f
                seen[f] = 1


@kernel
def _rescue(uv, faces, owner, seen):
    # A face that covers no texel's centre takes the texel that it lies in, if it is free.
    size = owner.shape[0]
    for f in range(faces.shape[0]):
        if seen[f] == 0:
            x = (uv[faces[f, 0], 0] + uv[faces[f, 1], 0] + uv[faces[f, 2], 0]) / 3.0
            y = (uv[faces[f, 0], 1] + uv[faces[f, 1], 1] + uv[faces[f, 2], 1]) / 3.0
            column = min(size - 1, max(0, int(x)))
            row = min(size - 1, max(0, int(y)))
            if owner[row, column] == -1:
                owner[row, column] = f


@kernel
def _widen(start, stop, owner, wider):
    size = owner.shape[0]
    for row in range(start, stop):
        for column in range(size):
            value = owner[row, column]
            if value == -1:
                for i in range(8):
                    # The four sides first, then the corners.
                    dy = (-1, 0, 0, 1, -1, -1, 1, 1)[i]
                    dx = (0, -1, 1, 0, -1, 1, -1, 1)[i]
                    y, x = row + dy, column + dx
                    if 0 <= y < size and 0 <= x < size and owner[y, x] != -1:
                        near = owner[y, x]
                        value = -2 - near if near >= 0 else near
                        break
            wider[row, column] = value


def _index_voxels(
    field: VoxelField,
) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """The voxels by bricks of 4 x 4 x 4.

    Returns:
        boxes: int32 [B, B, B], the brick of each box of the grid, -1 none.
        masks: uint64 [bricks], which of its 64 voxels a brick holds.
        ranks: int32 [bricks], how many voxels all bricks before it hold.
        rows: int32 [V], the row of each voxel in brick order.
    """
    side = (field.resolution + 3) // 4
    coords = field.coords
    boxes = np.full((side, side, side), -1, np.int32)
    bricks = _count_bricks(coords, boxes)
    masks = np.zeros(bricks, np.uint64)
    ranks = np.empty(bricks, np.int32)
    rows = np.zeros(len(coords), np.int32)
    _rank_voxels(coords, boxes, masks, ranks, rows)
    return boxes, masks, ranks, rows


@kernel
def _count_bricks(coords, boxes):
    bricks = 0
    for v in range(coords.shape[0]):
        i, j, k = coords[v, 0] >> 2, coords[v, 1] >> 2, coords[v, 2] >> 2
        if boxes[i, j, k] < 0:
            boxes[i, j, k] = bricks
            bricks += 1
    return bricks


@kernel
def _bits(mask):
    mask = mask - ((mask >> np.uint64(1)) & np.uint64(0x5555555555555555))
    mask = (mask & np.uint64(0x3333333333333333)) + (
        (mask >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    mask = (mask + (mask >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((mask * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def _rank_voxels(coords, boxes, masks, ranks, rows):
    one = np.uint64(1)
    for v in range(coords.shape[0]):
        i, j, k = coords[v, 0], coords[v, 1], coords[v, 2]
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        masks[boxes[i >> 2, j >> 2, k >> 2]] |= one << bit
    total = 0
    for b in range(masks.shape[0]):
        ranks[b] = total
        total += _bits(masks[b])
    for v in range(coords.shape[0]):
        i, j, k = coords[v, 0], coords[v, 1], coords[v, 2]
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        b = boxes[i >> 2, j >> 2, k >> 2]
        rows[ranks[b] + _bits(masks[b] & ((one << bit) - one))] = v


@kernel
def _sample(x, y, z, boxes, masks, ranks, rows, attributes, resolution, out):
    # Trilinear over the voxels that are there, their weights renormalised.
    one = np.uint64(1)
    gx, gy, gz = (
        (x + 0.5) * resolution - 0.5,
        (y + 0.5) * resolution - 0.5,
        (z + 0.5) * resolution - 0.5,
    )
    i0, j0, k0 = int(np.floor(gx)), int(np.floor(gy)), int(np.floor(gz))
    total = 0.0
    for c in range(6):
        out[c] = 0.0
    for corner in range(8):
        i, j, k = i0 + (corner >> 2), j0 + ((corner >> 1) & 1), k0 + (corner & 1)
        if i < 0 or j < 0 or k < 0 or i >= resolution or j >= resolution or k >= resolution:
            continue
        b = boxes[i >> 2, j >> 2, k >> 2]
        if b < 0:
            continue
        bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (k & 3))
        if (masks[b] >> bit) & one == np.uint64(0):
            continue
        weight = (1.0 - abs(gx - i)) * (1.0 - abs(gy - j)) * (1.0 - abs(gz - k))
        v = rows[ranks[b] + _bits(masks[b] & ((one << bit) - one))]
        total += weight
        for c in range(6):
            out[c] += weight * attributes[v, c]
    if total <= 1e-6:
        return False
    for c in range(6):
        out[c] = min(1.0, max(0.0, out[c] / total))
    return True


def _index_faces(
    mesh: Mesh, *, is_empty: bool
) -> tuple[NDArray[np.float32], NDArray[np.float64], float, NDArray[np.int32], NDArray[np.int32]]:
    """The faces that touch each cell of a uniform grid around the mesh.

    Returns:
        spheres: float32 [F, 4], middle and radius of a sphere around each face.
        origin: float64 [3], the grid's corner.
        cell: the edge of a cell.
        first: int32 [X, Y, Z + 1], where a cell's faces start and stop in `members`.
        members: int32 [...], faces.
    """
    if is_empty:
        nothing = np.zeros(1, np.int32)
        return np.zeros((1, 4), np.float32), np.zeros(3), 1.0, nothing.reshape(1, 1, 1), nothing
    vertices, faces = mesh.vertices, mesh.faces
    low = vertices.min(axis=0).astype(np.float64)
    extent = vertices.max(axis=0).astype(np.float64) - low
    longest = max(float(extent.max()), 1e-6)
    # About two edges of a typical face, were the surface a few times its box' side.
    cell = max(longest / 224, 2.5 * longest * float(np.sqrt(2.0 / len(faces))))
    sides = np.floor(extent / cell).astype(np.int64) + 1
    first = np.zeros((int(sides[0]), int(sides[1]), int(sides[2]) + 1), np.int32)
    flat = np.zeros(int(sides.prod()) + 1, np.int32)
    _count_members(vertices, faces, low, cell, sides, flat, np.empty(0, np.int32))
    np.cumsum(flat, out=flat)
    members = np.empty(int(flat[-1]), np.int32)
    _count_members(vertices, faces, low, cell, sides, flat, members)
    # Filling has moved every start to its stop.
    starts = np.empty_like(flat)
    starts[0] = 0
    starts[1:] = flat[:-1]
    shape = (int(sides[0]), int(sides[1]), int(sides[2]))
    first[:, :, :-1] = starts[:-1].reshape(shape)
    first[:, :, -1] = starts[1:].reshape(shape)[:, :, -1]
    spheres = np.empty((len(faces), 4), np.float32)
    spread(_bound, len(faces), vertices, faces, spheres)
    return spheres, low, cell, first, members


@kernel
def _count_members(vertices, faces, low, cell, sides, flat, members):
    # First call, without members: flat[cell + 1] counts. Second: flat[cell] is the cursor.
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        i0 = int((min(vertices[a, 0], vertices[b, 0], vertices[c, 0]) - low[0]) / cell)
        i1 = int((max(vertices[a, 0], vertices[b, 0], vertices[c, 0]) - low[0]) / cell)
        j0 = int((min(vertices[a, 1], vertices[b, 1], vertices[c, 1]) - low[1]) / cell)
        j1 = int((max(vertices[a, 1], vertices[b, 1], vertices[c, 1]) - low[1]) / cell)
        k0 = int((min(vertices[a, 2], vertices[b, 2], vertices[c, 2]) - low[2]) / cell)
        k1 = int((max(vertices[a, 2], vertices[b, 2], vertices[c, 2]) - low[2]) / cell)
        for i in range(i0, min(i1, sides[0] - 1) + 1):
            for j in range(j0, min(j1, sides[1] - 1) + 1):
                for k in range(k0, min(k1, sides[2] - 1) + 1):
                    box = (i * sides[1] + j) * sides[2] + k
                    if members.shape[0] == 0:
                        flat[box + 1] += 1
                    else:
                        members[flat[box]] = f
                        flat[box] += 1


@kernel
def _closest_on_face(vertices, faces, f, px, py, pz, out):
    # Ericson, "Real-Time Collision Detection" (2005), 5.1.5: by Voronoi regions.
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    ax, ay, az = np.float64(vertices[a, 0]), np.float64(vertices[a, 1]), np.float64(vertices[a, 2])
    ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
    vx, vy, vz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
    wx, wy, wz = px - ax, py - ay, pz - az
    uu, uv, vv = (
        ux * ux + uy * uy + uz * uz,
        ux * vx + uy * vy + uz * vz,
        vx * vx + vy * vy + vz * vz,
    )
    d1, d2 = ux * wx + uy * wy + uz * wz, vx * wx + vy * wy + vz * wz
    d3, d4 = d1 - uu, d2 - uv
    d5, d6 = d1 - uv, d2 - vv
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    s, t = 0.0, 0.0
    if d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        s = 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        s = d1 / (d1 - d3) if d1 > d3 else 0.0
    elif d6 >= 0.0 and d5 <= d6:
        t = 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        t = d2 / (d2 - d6) if d2 > d6 else 0.0
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        span = (d4 - d3) + (d5 - d6)
        t = (d4 - d3) / span if span > 0.0 else 0.0
        s = 1.0 - t
    else:
        whole = va + vb + vc
        if whole != 0.0:
            s, t = vb / whole, vc / whole
    out[0], out[1], out[2] = ax + s * ux + t * vx, ay + s * uy + t * vy, az + s * uz + t * vz
    dx, dy, dz = px - out[0], py - out[1], pz - out[2]
    return dx * dx + dy * dy + dz * dz


@kernel
def _bound(start, stop, vertices, faces, spheres):
    # A sphere around each face: about the middle of its longest edge, or of its corners.
    for f in range(start, stop):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        square = 0.0
        for k in range(3):
            spheres[f, k] = (vertices[a, k] + vertices[b, k] + vertices[c, k]) / np.float32(3.0)
        for v in (a, b, c):
            dx = np.float64(vertices[v, 0]) - spheres[f, 0]
            dy = np.float64(vertices[v, 1]) - spheres[f, 1]
            dz = np.float64(vertices[v, 2]) - spheres[f, 2]
            square = max(square, dx * dx + dy * dy + dz * dz)
        # Rounded up, so that the bound holds in float32 as well.
        spheres[f, 3] = np.sqrt(square) * 1.000001 + 1e-9


@kernel
def _closest(vertices, faces, spheres, origin, cell, first, members, px, py, pz, seed, hit, trial):
    # The closest point of the surface into `hit`; its face is returned, -1 for none.
    # First the seed, for a bound; then cells in a growing box around the point, until
    # nothing outside the box can be closer.
    best_face = seed
    best = np.inf
    radius = 0.2 * cell
    if seed >= 0:
        best = _closest_on_face(vertices, faces, seed, px, py, pz, hit)
        radius = min(radius, np.sqrt(best))
    reach = np.sqrt(best)
    for _ in range(40):
        i0 = max(0, int((px - radius - origin[0]) / cell))
        j0 = max(0, int((py - radius - origin[1]) / cell))
        k0 = max(0, int((pz - radius - origin[2]) / cell))
        i1 = min(first.shape[0] - 1, int((px + radius - origin[0]) / cell))
        j1 = min(first.shape[1] - 1, int((py + radius - origin[1]) / cell))
        k1 = min(first.shape[2] - 2, int((pz + radius - origin[2]) / cell))
        if k1 >= k0:
            for i in range(i0, i1 + 1):
                for j in range(j0, j1 + 1):
                    for n in range(first[i, j, k0], first[i, j, k1 + 1]):
                        f = members[n]
                        dx, dy, dz = px - spheres[f, 0], py - spheres[f, 1], pz - spheres[f, 2]
                        far = reach + spheres[f, 3]
                        if dx * dx + dy * dy + dz * dz > far * far:
                            continue
                        square = _closest_on_face(vertices, faces, f, px, py, pz, trial)
                        if square < best:
                            best, best_face = square, f
                            reach = np.sqrt(best)
                            hit[0], hit[1], hit[2] = trial[0], trial[1], trial[2]
        if reach <= radius:
            break
        # Rounded up, so that the next round ends the search.
        radius = min(reach * 1.000001 + 1e-12, 4.0 * radius)
    return best_face


@kernel
def _paint(
    start, stop, owner, uv, uv_faces, source, vertices, target_vertices, target_faces,
    is_projected, spheres, origin, cell, first, members, boxes, masks, ranks, rows, attributes,
    resolution, base_color, metal_rough, covered,
):  # fmt: skip
    point, hit, trial = np.empty(3), np.empty(3), np.empty(3)
    value = np.empty(6)
    for row in range(start, stop):
        # Each row starts without a seed: where the range was cut must not show.
        seed = -1
        for column in range(owner.shape[1]):
            f = owner[row, column]
            if f == -1:
                continue
            is_gutter = f < 0
            if is_gutter:
                f = -2 - f
            a, b, c = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
            ax, ay = np.float64(uv[a, 0]), np.float64(uv[a, 1])
            ux, uy = uv[b, 0] - ax, uv[b, 1] - ay
            vx, vy = uv[c, 0] - ax, uv[c, 1] - ay
            wx, wy = column + 0.5 - ax, row + 0.5 - ay
            det = ux * vy - uy * vx
            s, t = 1.0 / 3.0, 1.0 / 3.0
            if abs(det) > 1e-12:
                s, t = (wx * vy - wy * vx) / det, (ux * wy - uy * wx) / det
            r = 1.0 - s - t
            r, s, t = max(r, 0.0), max(s, 0.0), max(t, 0.0)
            total = r + s + t
            r, s, t = r / total, s / total, t / total
            for k in range(3):
                point[k] = (
                    r * vertices[source[a], k]
                    + s * vertices[source[b], k]
                    + t * vertices[source[c], k]
                )
            hit[0], hit[1], hit[2] = point[0], point[1], point[2]
            if is_projected:
                seed = _closest(
                    target_vertices, target_faces, spheres, origin, cell, first, members,
                    point[0], point[1], point[2], seed, hit, trial,
                )  # fmt: skip
            if _sample(
                hit[0], hit[1], hit[2], boxes, masks, ranks, rows, attributes, resolution, value
            ):
                for k in range(3):
                    base_color[row, column, k] = np.uint8(value[k] * 255.0 + 0.5)
                base_color[row, column, 3] = np.uint8(value[5] * 255.0 + 0.5)
                metal_rough[row, column, 0] = np.uint8(value[4] * 255.0 + 0.5)
                metal_rough[row, column, 1] = np.uint8(value[4] * 255.0 + 0.5)
                metal_rough[row, column, 2] = np.uint8(value[3] * 255.0 + 0.5)
                covered[row, column] = 2 if is_gutter else 1


def _fill(image: NDArray[np.uint8], covered: NDArray[np.uint8]) -> None:
    """Give texels without a colour the mean of the nearest ones, in place (push-pull)."""
    levels = [(image, covered)]
    while levels[-1][1].shape[0] > 1:
        fine, known = levels[-1]
        half = (known.shape[0] + 1) // 2
        coarse = np.zeros((half, half, fine.shape[2]), np.uint8)
        coarse_known = np.zeros((half, half), np.uint8)
        spread(_pull, half, fine, known, coarse, coarse_known, grain=64)
        levels.append((coarse, coarse_known))
    for (fine, known), (coarse, _) in zip(levels[-2::-1], levels[:0:-1], strict=True):
        spread(_push, known.shape[0], fine, known, coarse, grain=64)


@kernel
def _pull(start, stop, fine, known, coarse, coarse_known):
    size = known.shape[0]
    for row in range(start, stop):
        for column in range(coarse.shape[1]):
            for c in range(fine.shape[2]):
                total, count = 0, 0
                for y in range(2 * row, min(2 * row + 2, size)):
                    for x in range(2 * column, min(2 * column + 2, size)):
                        if known[y, x] != 0:
                            total += fine[y, x, c]
                            count += 1
                if count > 0:
                    coarse[row, column, c] = np.uint8((total + count // 2) // count)
                    coarse_known[row, column] = 1


@kernel
def _push(start, stop, fine, known, coarse):
    # Bilinear from the coarser level, which has no gaps any more.
    last = coarse.shape[0] - 1
    for row in range(start, stop):
        y0 = row // 2
        y1 = min(last, max(0, y0 + (1 if row % 2 == 1 else -1)))
        for column in range(known.shape[1]):
            if known[row, column] != 0:
                continue
            x0 = column // 2
            x1 = min(last, max(0, x0 + (1 if column % 2 == 1 else -1)))
            for c in range(fine.shape[2]):
                total = (
                    9 * np.int64(coarse[y0, x0, c])
                    + 3 * np.int64(coarse[y0, x1, c])
                    + 3 * np.int64(coarse[y1, x0, c])
                    + np.int64(coarse[y1, x1, c])
                )
                fine[row, column, c] = np.uint8((total + 8) // 16)
