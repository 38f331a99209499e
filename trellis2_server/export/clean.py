"""A mesh as an engine hands it over, made fit for decimation and unwrapping.

What this module does not know: colours, textures, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export.adjacency import twins
from trellis2_server.export.kernel import kernel
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Holes with a shorter rim than this, in model units, are closed.
HOLE_PERIMETER: Final = 0.03
#: A part is a floater when its box' diagonal is under this share of the whole …
FLOATER_SIZE: Final = 0.02
#: … and it has less than this share of the area of the largest part.
FLOATER_AREA: Final = 1e-3


def clean(mesh: Mesh) -> Mesh:
    """The mesh without duplicate or degenerate faces, floaters, small holes, stray vertices.

    Faces that share an edge are wound alike where the surface allows it, outward where it
    is closed; an open part keeps the winding that most of its area had. Vertices keep their
    order and are not moved.

    Raises:
        ExportError: the arrays are no mesh, or nothing is left of it.
    """
    mesh = checked(mesh)
    vertices, faces = mesh.vertices, mesh.faces
    faces = _weld_rims(vertices, faces)
    faces = drop_repeated(faces, len(vertices))
    if len(faces) == 0:
        raise ExportError("The mesh has no face with an area.")
    twin = twins(faces, len(vertices))
    faces = _drop_floaters(vertices, faces, twin)
    vertices, faces = drop_unused(vertices, faces)
    twin = twins(faces, len(vertices))
    faces = _wind(vertices, faces, twin)
    vertices, faces = _close_holes(vertices, faces)
    return Mesh(vertices, faces)


def checked(mesh: Mesh) -> Mesh:
    """The same mesh in the one memory layout that the kernels are compiled for.

    Raises:
        ExportError: a shape, an index or a coordinate is wrong; the sentence says which.
    """
    vertices, faces = mesh.vertices, mesh.faces
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:  # noqa: PLR2004
        raise ExportError("A mesh needs vertices [N, 3] and faces [F, 3].")
    if len(faces) == 0:
        raise ExportError("The mesh has no faces.")
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        raise ExportError("A face of the mesh names a vertex that is not there.")
    if not bool(np.isfinite(vertices).all()):
        raise ExportError("A vertex of the mesh is not finite.")
    return Mesh(
        np.require(vertices, np.float32, ["C", "W"]), np.require(faces, np.int32, ["C", "W"])
    )


def checked_field(field: VoxelField) -> VoxelField:
    """The same field in the one memory layout that the kernels are compiled for.

    Raises:
        ExportError: a shape, a coordinate or a value is wrong; the sentence says which.
    """
    coords, attributes = field.coords, field.attributes
    if coords.ndim != 2 or coords.shape[1] != 3 or attributes.shape != (len(coords), 6):  # noqa: PLR2004
        raise ExportError("A field needs coords [V, 3] and attributes [V, 6].")
    if len(coords) == 0:
        raise ExportError("The field has no voxels.")
    if int(coords.min()) < 0 or int(coords.max()) >= field.resolution:
        raise ExportError("A voxel of the field lies outside its resolution.")
    if not bool(np.isfinite(attributes).all()):
        raise ExportError("An attribute of the field is not finite.")
    return VoxelField(
        np.require(coords, np.int32, ["C", "W"]),
        np.require(attributes, np.float32, ["C", "W"]),
        int(field.resolution),
    )


def _weld_rims(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """Join open edges whose ends lie at exactly the same place."""
    open_edges = np.flatnonzero(twins(faces, len(vertices)) == -1)
    if open_edges.size == 0:
        return faces
    corner = faces.reshape(-1)
    ends = np.where(open_edges % 3 == 2, open_edges - 2, open_edges + 1)  # noqa: PLR2004
    rim = np.unique(np.concatenate([corner[open_edges], corner[ends]]))
    place = vertices[rim] + np.float32(0)  # -0.0 and 0.0 are one place
    order = np.lexsort(place.T)
    place = place[order]
    is_new = np.empty(len(rim), bool)
    is_new[0] = True
    np.any(place[1:] != place[:-1], axis=1, out=is_new[1:])
    group = np.cumsum(is_new) - 1
    # The smallest index stands for its group, so that the order of the vertices is kept.
    keeper = np.full(int(group[-1]) + 1, len(vertices), np.int32)
    np.minimum.at(keeper, group, rim[order].astype(np.int32))
    renamed = np.arange(len(vertices), dtype=np.int32)
    renamed[rim[order]] = keeper[group]
    return renamed[faces]


def drop_repeated(faces: NDArray[np.int32], vertex_count: int) -> NDArray[np.int32]:
    """Faces with three different corners, the first of those with the same three."""
    keep = np.ones(len(faces), bool)
    _mark_repeated(faces, np.full(vertex_count, -1, np.int32), np.empty(len(faces), np.int32), keep)
    return faces[keep]


@kernel
def _mark_repeated(faces, head, following, keep):
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


def _drop_floaters(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
) -> NDArray[np.int32]:
    part = np.empty(len(faces), np.int32)
    count = _label_parts(faces, twin, part, np.empty(len(faces), np.int32))
    if count == 1:
        return faces
    low = np.full((count, 3), np.inf, np.float32)
    high = np.full((count, 3), -np.inf, np.float32)
    area = np.zeros(count)
    _measure_parts(vertices, faces, part, low, high, area)
    size = np.linalg.norm(high - low, axis=1)
    whole = float(np.linalg.norm(high.max(axis=0) - low.min(axis=0)))
    floats = (size < FLOATER_SIZE * whole) & (area < FLOATER_AREA * area.max())
    return faces[~floats[part]] if bool(floats.any()) else faces


@kernel
def _label_parts(faces, twin, part, stack):
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
def _measure_parts(vertices, faces, part, low, high, area):
    for f in range(faces.shape[0]):
        p = part[f]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            low[p, k] = min(low[p, k], min(x, min(y, z)))
            high[p, k] = max(high[p, k], max(x, max(y, z)))
        ux, uy, uz = _minus(vertices, b, a)
        vx, vy, vz = _minus(vertices, c, a)
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area[p] += 0.5 * np.sqrt(nx * nx + ny * ny + nz * nz)


@kernel
def _minus(vertices, a, b):
    return (
        np.float64(vertices[a, 0]) - np.float64(vertices[b, 0]),
        np.float64(vertices[a, 1]) - np.float64(vertices[b, 1]),
        np.float64(vertices[a, 2]) - np.float64(vertices[b, 2]),
    )


def drop_unused(
    vertices: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Only the vertices that a face names, in their old order."""
    used = np.zeros(len(vertices), bool)
    used[faces.reshape(-1)] = True
    if bool(used.all()):
        return vertices, faces
    renamed = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return vertices[used], renamed[faces]


def _wind(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
) -> NDArray[np.int32]:
    flip = np.zeros(len(faces), np.int8)
    _orient(vertices, faces, twin, flip, np.empty(len(faces), np.int32))
    wound = faces.copy()
    turned = flip == 1
    wound[turned] = faces[turned][:, [0, 2, 1]]
    return wound


@kernel
def _orient(vertices, faces, twin, flip, queue):
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
        # The volume is taken against a corner of the part: far less cancellation.
        volume, kept, turned = 0.0, 0.0, 0.0
        o = faces[seed, 0]
        for i in range(tail):
            f = queue[i]
            ax, ay, az = _minus(vertices, faces[f, 0], o)
            bx, by, bz = _minus(vertices, faces[f, 1], o)
            cx, cy, cz = _minus(vertices, faces[f, 2], o)
            six = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
            volume += six if flip[f] == 2 else -six
            ux, uy, uz = bx - ax, by - ay, bz - az
            vx, vy, vz = cx - ax, cy - ay, cz - az
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            area = np.sqrt(nx * nx + ny * ny + nz * nz)
            if flip[f] == 2:
                kept += area
            else:
                turned += area
        inside_out = volume < 0.0 if is_closed and is_orientable else turned > kept
        if inside_out:
            for i in range(tail):
                flip[queue[i]] = 3 - flip[queue[i]]


def _close_holes(
    vertices: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Close rims shorter than `HOLE_PERIMETER` with a fan about their middle."""
    corner = faces.reshape(-1)
    rim = np.flatnonzero(twins(faces, len(vertices)) == -1)
    if rim.size == 0:
        return vertices, faces
    ends = np.where(rim % 3 == 2, rim - 2, rim + 1)  # noqa: PLR2004
    start, stop = corner[rim], corner[ends]
    new_vertices = np.empty((rim.size, 3), np.float32)
    new_faces = np.empty((rim.size, 3), np.int32)
    vertex_count, face_count = _fan(
        vertices,
        start,
        stop,
        rim // 3,
        np.full(len(vertices), -1, np.int32),
        np.empty(rim.size, np.int32),
        HOLE_PERIMETER,
        new_vertices,
        new_faces,
    )
    return (
        np.concatenate([vertices, new_vertices[:vertex_count]]),
        np.concatenate([faces, new_faces[:face_count]]),
    )


@kernel
def _fan(vertices, start, stop, owner, leaving, loop, limit, new_vertices, new_faces):
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
            dx, dy, dz = _minus(vertices, stop[e], start[e])
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
