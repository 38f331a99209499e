"""Small meshes and a voxel field, defined by formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Surface = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def grid(rows: int, columns: int, place: Surface, *, wraps: tuple[bool, bool]) -> Mesh:
    """Return a triangulated surface over [0, 1]².

    Args:
        rows: number of vertices along the first parameter.
        columns: number of vertices along the second parameter.
        place: positions [..., 3] of the parameters.
        wraps: whether the surface is closed along each parameter.
    """
    u = np.linspace(0, 1, rows, endpoint=not wraps[0])
    v = np.linspace(0, 1, columns, endpoint=not wraps[1])
    points = place(*np.meshgrid(u, v, indexing="ij")).reshape(-1, 3)
    i = np.arange(rows if wraps[0] else rows - 1)[:, None]
    j = np.arange(columns if wraps[1] else columns - 1)[None, :]
    a = i * columns + j
    b = (i + 1) % rows * columns + j
    c = (i + 1) % rows * columns + (j + 1) % columns
    d = i * columns + (j + 1) % columns
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    return Mesh(points.astype(np.float32), faces.astype(np.int32))


def torus(rows: int = 60, columns: int = 30, *, middle: float = 0.0, turned: bool = False) -> Mesh:
    """Return a closed torus around the z axis, or around the y axis if `turned`."""

    def place(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        u, v = 2 * np.pi * u, 2 * np.pi * v
        ring = 0.25 + 0.09 * np.cos(v)
        p = np.stack([ring * np.cos(u), ring * np.sin(u), 0.09 * np.sin(v)], -1)
        if turned:
            p = np.stack([p[..., 0], -p[..., 2], p[..., 1]], -1)
        return p + np.array([middle, 0, 0])

    return grid(rows, columns, place, wraps=(True, True))


def sphere(rows: int = 32, radius: float = 0.4) -> Mesh:
    """Return a closed sphere: a subdivided octahedron."""
    corners = np.array(
        [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float64
    )
    sides = [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [1, 0, 5], [2, 1, 5], [3, 2, 5], [0, 3, 5]]
    points, faces = [], []
    for side in sides:
        a, b, c = corners[side]
        name = {}
        for i in range(rows + 1):
            for j in range(rows + 1 - i):
                name[i, j] = len(points)
                points.append((a * (rows - i - j) + b * i + c * j) / rows)
        for (i, j), here in name.items():
            if i + j < rows:
                faces.append([here, name[i + 1, j], name[i, j + 1]])
            if i + j < rows - 1:
                faces.append([name[i + 1, j], name[i + 1, j + 1], name[i, j + 1]])
    p = np.array(points)
    _, first, where = np.unique(p.round(9), axis=0, return_index=True, return_inverse=True)
    p = p[first]
    p *= radius / np.linalg.norm(p, axis=1, keepdims=True)
    return Mesh(p.astype(np.float32), where.reshape(-1)[np.array(faces)].astype(np.int32))


def noisy_blob() -> Mesh:
    """Return a closed sphere with bumps."""
    round_one = sphere(48)
    x, y, z = round_one.vertices.T.astype(np.float64)
    bumps = 1 + 0.15 * np.sin(9 * x + 1) * np.sin(12 * y) + 0.03 * np.sin(61 * z) * np.sin(57 * x)
    return Mesh((round_one.vertices * bumps[:, None]).astype(np.float32), round_one.faces)


def sheet() -> Mesh:
    """Return an open, wavy sheet."""

    def place(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        x, z = 0.8 * u - 0.4, 0.8 * v - 0.4
        return np.stack([x, 0.1 * np.sin(9 * x) * np.cos(7 * z), z], -1)

    return grid(60, 60, place, wraps=(False, False))


def thin_box() -> Mesh:
    """Return a closed, wavy sheet with a thickness of 0.01."""
    front = sheet()
    back = front.vertices + np.array([0, 0.01, 0], np.float32)
    n = len(front.vertices)
    number = np.arange(n).reshape(60, 60)
    rim = np.concatenate([number[:-1, 0], number[-1, :-1], number[:0:-1, -1], number[0, :0:-1]])
    after = np.roll(rim, -1)
    wall = np.concatenate(
        [np.stack([rim, after, after + n], 1), np.stack([rim, after + n, rim + n], 1)]
    )
    faces = np.concatenate([front.faces, front.faces[:, ::-1] + n, wall[:, ::-1]])
    return Mesh(np.concatenate([front.vertices, back]), faces.astype(np.int32))


def moebius() -> Mesh:
    """Return a Moebius strip, which cannot be wound consistently."""
    n, m = 120, 9
    around = 2 * np.pi * np.arange(n) / n
    u, v = np.meshgrid(around, np.linspace(-0.12, 0.12, m), indexing="ij")
    ring = 0.3 + v * np.cos(u / 2)
    p = np.stack([ring * np.cos(u), ring * np.sin(u), v * np.sin(u / 2)], -1).reshape(-1, 3)
    faces = []
    for i in range(n):
        for j in range(m - 1):
            a, d = i * m + j, i * m + j + 1
            b, c = ((i + 1) * m + j, (i + 1) * m + j + 1) if i + 1 < n else (m - 1 - j, m - 2 - j)
            faces += [[a, b, c], [a, c, d]]
    return Mesh(p.astype(np.float32), np.array(faces, np.int32))


def links() -> Mesh:
    """Return two interlocked tori."""
    return joined(torus(middle=-0.12), torus(middle=0.12, turned=True))


def soup() -> Mesh:
    """Return random triangles with repeated, degenerate and flipped faces."""
    rng = np.random.default_rng(7)
    middle = rng.uniform(-0.4, 0.4, (400, 1, 3))
    points = (middle + rng.normal(0, 0.04, (400, 3, 3))).reshape(-1, 3).astype(np.float32)
    faces = np.arange(1200, dtype=np.int32).reshape(-1, 3)
    bad = np.array([[0, 0, 1], [5, 5, 5], [7, 9, 7]], np.int32)
    return Mesh(
        points,
        np.concatenate([faces, faces[:50], faces[50:90, ::-1], faces[90:99, [1, 2, 0]], bad]),
    )


def needles() -> Mesh:
    """Return a sphere whose faces are split into slivers, some of them without an area."""
    round_one = sphere(8)
    a, b = (round_one.vertices[round_one.faces[:, k]] for k in range(2))
    cut = a * np.float32(0.9999) + b * np.float32(0.0001)
    n = len(round_one.vertices)
    middle = np.arange(n, n + len(cut))
    f = round_one.faces
    faces = np.concatenate(
        [
            np.stack([f[:, 0], middle, f[:, 2]], 1),
            np.stack([middle, f[:, 1], f[:, 2]], 1),
            np.stack([f[:, 0], f[:, 1], middle], 1),
        ]
    )
    return Mesh(np.concatenate([round_one.vertices, cut]), faces.astype(np.int32))


def joined(*meshes: Mesh) -> Mesh:
    """Return the meshes as one."""
    start = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + np.int32(n) for mesh, n in zip(meshes, start, strict=False)]),
    )


ALL = {
    shape.__name__: shape
    for shape in (torus, sphere, noisy_blob, sheet, thin_box, moebius, links, soup, needles)
}


def colors(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return six attributes at points [N, 3]: smooth, opaque, in [0, 1]."""
    x, y, z = np.asarray(points, np.float64).T
    out = np.empty((len(points), 6), np.float32)
    out[:, 0] = 0.5 + 0.4 * np.sin(9 * x + 2 * z)
    out[:, 1] = 0.5 + 0.4 * np.sin(11 * y + 1)
    out[:, 2] = 0.5 + 0.4 * np.cos(8 * z - 3 * x)
    out[:, 3] = 0.5 + 0.45 * np.sin(7 * y + 3 * x)
    out[:, 4] = 0.5 + 0.4 * np.sin(6 * x + 5 * y)
    out[:, 5] = 1.0
    return out


def field(resolution: int = 48) -> VoxelField:
    """Return `colors` at all voxels of the cube."""
    axis = np.arange(resolution, dtype=np.int32)
    coords = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return VoxelField(coords, colors((coords + 0.5) / resolution - 0.5), resolution)


def edge_uses(faces: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the faces of each edge.

    Returns:
        Number of faces.
        Number of faces that traverse it from the smaller to the larger vertex, minus that of the
            others.
    """
    half = np.concatenate([faces[:, [k, (k + 1) % 3]] for k in range(3)]).astype(np.int64)
    up = half[:, 0] < half[:, 1]
    _, where = np.unique(np.sort(half, axis=1), axis=0, return_inverse=True)
    where = where.reshape(-1)
    return np.bincount(where), np.bincount(where, np.where(up, 1.0, -1.0)).astype(np.int64)


def volume(mesh: Mesh) -> float:
    """Return the signed volume, positive if the faces are wound outward."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def is_closed(mesh: Mesh) -> bool:
    """Return whether each edge has two faces that traverse it in opposite directions."""
    uses, balance = edge_uses(mesh.faces)
    return bool((uses == 2).all() and (balance == 0).all())


def blocks(solid: NDArray[np.bool_]) -> Mesh:
    """Return the closed surface of the cubes that are set in an array [X, Y, Z].

    It is a manifold if no two cubes meet at an edge or a corner only. The largest of the array's
    sides is 0.9 long.
    """
    padded = np.pad(solid, 1)
    quads: list[NDArray[np.int64]] = []
    for axis in range(3):
        m, n = (axis + 1) % 3, (axis + 2) % 3
        change = np.diff(padded.astype(np.int8), axis=axis)
        places = np.argwhere(change)
        places[:, axis] += 1
        quad = np.repeat(places[:, None], 4, 1)
        quad[:, [1, 2], m] += 1
        quad[:, [2, 3], n] += 1
        is_inward = change[change != 0] > 0
        quad[is_inward] = quad[is_inward][:, ::-1]
        quads.append(quad)
    points, corner = np.unique(np.concatenate(quads).reshape(-1, 3), axis=0, return_inverse=True)
    corner = corner.reshape(-1, 4)
    faces = np.concatenate([corner[:, [0, 1, 2]], corner[:, [0, 2, 3]]])
    place = 0.9 * (points - np.array(padded.shape) / 2) / max(solid.shape)
    return Mesh(place.astype(np.float32), faces.astype(np.int32))


def pierced_plate(rows: int, columns: int) -> Mesh:
    """Return a closed plate with `rows * columns` square holes, which is its genus."""
    solid = np.ones((4 * rows + 2, 4 * columns + 2, 2), bool)
    inner = [np.arange(4 * count + 2) % 4 >= 2 for count in (rows, columns)]
    solid[np.ix_(*inner)] = False
    return blocks(solid)


def cage(cells: int) -> Mesh:
    """Return a closed frame of struts along the edges of `cells`³ cubes."""
    is_strut = [np.arange(4 * cells + 2) % 4 < 2] * 3
    along = np.stack(np.meshgrid(*is_strut, indexing="ij")).sum(axis=0)
    return blocks(along >= 2)
