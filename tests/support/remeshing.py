"""Small meshes on the grids on which they are remeshed, and the corners of these grids."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import trimesh
from scipy import ndimage

from trellis2_server.export import remesh
from trellis2_server.export.validation import checked_mesh
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Volume = NDArray[np.bool_]

#: Half the thickness of a shell, in cells.
HALF = 0.505
UNIT = np.eye(3, dtype=int)


def loose(corners: NDArray[np.float64]) -> Mesh:
    """A mesh of single triangles, float64 [F, 3, 3]."""
    faces = np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3)
    return checked_mesh(Mesh(corners.reshape(-1, 3).astype(np.float32), faces))


def solid(*, is_turned: bool = True) -> Mesh:
    ball = trimesh.creation.icosphere(0, radius=0.3)
    if is_turned:
        ball.apply_transform(trimesh.transformations.rotation_matrix(0.7, [1, 2, 3]))
    return checked_mesh(Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32)))


def block(*sides: float) -> Mesh:
    corners = trimesh.creation.box(sides)
    return checked_mesh(Mesh(corners.vertices.astype(np.float32), corners.faces.astype(np.int32)))


def sheet() -> Mesh:
    """Two triangles with a crease."""
    return loose(
        np.array(
            [
                [[-0.4, -0.3, 0.1], [0.4, -0.3, 0.0], [0.4, 0.4, 0.2]],
                [[-0.4, -0.3, 0.1], [0.4, 0.4, 0.2], [-0.3, 0.4, -0.2]],
            ]
        )
    )


def scattered(seed: int) -> Mesh:
    return loose(np.random.default_rng(seed).uniform(-0.4, 0.4, (5, 3, 3)))


MESHES = {
    "solid": (solid, 11),
    "block": (lambda: block(0.5, 0.3, 0.4), 12),
    # Grids of 2, 3 and 4 bricks along each axis.
    "beam": (lambda: block(0.9, 0.25, 0.5), 15),
    "post": (lambda: block(0.25, 0.5, 0.9), 15),
    "sheet": (sheet, 9),
    **{f"scattered {seed}": (lambda seed=seed: scattered(seed), 10) for seed in (0, 2, 17)},
}


class Gridded(NamedTuple):
    """A mesh on the grid on which it is remeshed."""

    points: NDArray[np.float64]
    faces: NDArray[np.int32]
    low: NDArray[np.float64]
    resolution: int
    box: NDArray[np.int32]
    place: NDArray[np.int64]
    first: NDArray[np.int64]
    members: NDArray[np.int32]

    def corners(self) -> remesh._Corners:
        return remesh._classify(
            self.points, self.faces, self.box, self.place, self.first, self.members,
            lambda _: None,
        )  # fmt: skip


def gridded(name: str) -> Gridded:
    make, resolution = MESHES[name]
    mesh = make()
    low = mesh.vertices.min(axis=0) - (5 + np.array([0.137, 0.291, 0.413])) / resolution
    points = (mesh.vertices.astype(np.float64) - low) * resolution
    sides = np.ceil((np.ptp(mesh.vertices, axis=0) * resolution + 12) / 8).astype(int)
    box, place = remesh._bricks(points, mesh.faces, sides)
    first, members = remesh._members(points, mesh.faces, box, len(place))
    return Gridded(points, mesh.faces, low, resolution, box, place, first, members)


def volume(masks: NDArray[np.uint64], box: NDArray[np.int32], absent: NDArray[np.uint8]) -> Volume:
    """Corners, bool [8 X, 8 Y, 8 Z], of bricks with masks and without."""
    out = np.kron(absent.astype(bool), np.ones((8, 8, 8), bool))
    for i, j, k in zip(*np.nonzero(box >= 0), strict=True):
        bits = [[int(word) >> bit & 1 for bit in range(64)] for word in masks[box[i, j, k]]]
        brick = np.array(bits, bool).reshape(8, 8, 8)
        out[8 * i : 8 * i + 8, 8 * j : 8 * j + 8, 8 * k : 8 * k + 8] = brick
    return out


def crossings(mesh: Gridded, axis: int) -> list[tuple[tuple[int, ...], float, int]]:
    """Lower corner of each crossed edge along an axis, the place along it, and the face."""
    found: list[tuple[tuple[int, ...], float, int]] = []
    m, n = (axis + 1) % 3, (axis + 2) % 3
    for number, face in enumerate(mesh.faces):
        a, b, c = mesh.points[face]
        matrix = np.array([[b[m] - a[m], c[m] - a[m]], [b[n] - a[n], c[n] - a[n]]])
        if abs(np.linalg.det(matrix)) < 1e-12:
            continue
        inverse = np.linalg.inv(matrix)
        corners = mesh.points[face][:, [m, n]]
        low, high = np.ceil(corners.min(axis=0)), np.floor(corners.max(axis=0))
        for x, y in product(*(np.arange(low[k], high[k] + 1) for k in (0, 1))):
            s, t = inverse @ [x - a[m], y - a[n]]
            if min(s, t, 1 - s - t) < 0:
                continue
            depth = a[axis] + s * (b[axis] - a[axis]) + t * (c[axis] - a[axis])
            at = np.zeros(3, int)
            at[[axis, m, n]] = int(np.floor(depth)), int(x), int(y)
            found.append((tuple(at.tolist()), depth - np.floor(depth), number))
    return found


def normals(mesh: Gridded) -> NDArray[np.float64]:
    a, b, c = (mesh.points[mesh.faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    return cross / np.linalg.norm(cross, axis=1, keepdims=True)


def shifted(values: Volume, axis: int, step: int) -> Volume:
    """The value one step along the axis; outside of the grid: no."""
    moved = np.roll(values, -step, axis)
    edge: list[slice | int] = [slice(None)] * 3
    edge[axis] = -1 if step > 0 else 0
    moved[tuple(edge)] = False
    return moved


def reached(free: Volume) -> Volume:
    labels, _ = ndimage.label(free)
    return (labels == labels[0, 0, 0]) & free


def expected_corners(mesh: Gridded) -> tuple[Volume, Volume]:
    """Outside corners with sheets of no thickness, and with shells."""
    sides = tuple(8 * size for size in mesh.box.shape)
    crossed, near_low, near_high = (np.zeros((3, *sides), bool) for _ in range(3))
    unit = np.abs(normals(mesh))
    for axis in range(3):
        for at, depth, face in crossings(mesh, axis):
            crossed[axis][at] = True
            near_low[axis][at] |= depth * unit[face, axis] <= HALF
            near_high[axis][at] |= (1 - depth) * unit[face, axis] <= HALF
    ends = crossed.any(axis=0)
    for axis in range(3):
        ends = ends | shifted(crossed[axis], axis, -1)
    far = ~ndimage.binary_dilation(ends)
    outside = reached(far)
    inside = far & ~outside
    while True:
        grown = []
        for region in (outside, inside):
            more = np.zeros(sides, bool)
            for axis in range(3):
                more |= shifted(region, axis, 1) & ~crossed[axis]
                more |= shifted(region, axis, -1) & ~shifted(crossed[axis], axis, -1)
            grown.append(more & ~outside & ~inside)
        if not (grown[0] | grown[1]).any():
            break
        inside = inside | grown[1]
        outside = outside | (grown[0] & ~grown[1])
    near = np.zeros(sides, bool)
    for axis in range(3):
        near |= near_low[axis] & outside & shifted(outside, axis, 1)
        near |= shifted(near_high[axis], axis, -1) & outside & shifted(outside, axis, -1)
    return outside, reached(outside & ~near)
