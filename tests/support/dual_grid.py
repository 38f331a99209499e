"""Meshes like those of TRELLIS.2, without its weights.

A surface is voxelised: each voxel that it touches gets one vertex near the surface, and the four
voxels around an edge of the grid that it crosses get a quad. Quads are wound by the axis of the
edge, not by the surface. The mesh is open where the surface is, has edges of four faces where
sheets meet, inner walls and floaters. This is the flexible dual grid of "Native and Compact
Structured Latents for 3D Generation".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.support import shapes
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Number of candidates for a crossing that are processed together.
_BATCH = 2_000_000
#: The four voxels around an edge along x, y and z, in the order of the quad.
_AROUND = (
    ((0, 0, 0), (0, 0, -1), (0, -1, -1), (0, -1, 0)),
    ((0, 0, 0), (-1, 0, 0), (-1, 0, -1), (0, 0, -1)),
    ((0, 0, 0), (0, -1, 0), (-1, -1, 0), (-1, 0, 0)),
)


def voxelised(mesh: Mesh, resolution: int, *, seed: int = 0) -> Mesh:
    """Return the surface of the mesh as a dual grid.

    Args:
        mesh: inside [-0.5, 0.5]³.
        resolution: voxels along an edge of the cube.
        seed: of the noise of the vertices, 0.05 voxels, and of the holes, one quad in 10,000.
    """
    rng = np.random.default_rng(seed)
    corner = ((mesh.vertices[mesh.faces].astype(np.float64) + 0.5) * resolution).astype(np.float32)
    edges, points = zip(*(_crossings(corner, axis) for axis in range(3)), strict=True)
    quads = []
    for axis in range(3):
        edge = np.unique(edges[axis], axis=0)
        quads.append(edge[:, None, :] + np.array(_AROUND[axis], np.int32))
    quad = np.concatenate(quads)
    key = (quad[..., 0].astype(np.int64) * (resolution + 2) + quad[..., 1]) * (
        resolution + 2
    ) + quad[..., 2]
    voxel, number = np.unique(key, return_inverse=True)
    number = number.reshape(-1, 4)
    # The vertex of a voxel: the mean of the crossings of the edges around it.
    total, count = np.zeros((len(voxel), 3)), np.zeros(len(voxel))
    for axis in range(3):
        around = edges[axis][:, None, :] + np.array(_AROUND[axis], np.int32)
        place = (around[..., 0].astype(np.int64) * (resolution + 2) + around[..., 1]) * (
            resolution + 2
        ) + around[..., 2]
        row = np.searchsorted(voxel, place.reshape(-1))
        for k in range(3):
            total[:, k] += np.bincount(row, np.repeat(points[axis][:, k], 4), len(voxel))
        count += np.bincount(row, minlength=len(voxel))
    vertices = total / count[:, None] + rng.uniform(-0.05, 0.05, total.shape)
    number = number[rng.random(len(number)) > 1e-4]
    is_other = rng.random(len(number)) < 0.5
    cut = np.where(is_other[:, None], [0, 1, 3, 3, 1, 2], [0, 1, 2, 0, 2, 3])
    faces = np.take_along_axis(number, cut, axis=1).reshape(-1, 3)
    return Mesh(
        (vertices / resolution - 0.5).astype(np.float32), np.ascontiguousarray(faces, np.int32)
    )


def _crossings(
    corner: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the edges of the grid along an axis that cross triangles.

    Args:
        corner: float32 [F, 3, 3], the corners of the triangles, in voxels.
        axis: 0, 1 or 2.

    Returns:
        int32 [N, 3], edges.
        float32 [N, 3], crossings.
    """
    m, n = (axis + 1) % 3, (axis + 2) % 3
    low = np.ceil(corner.min(axis=1)).astype(np.int64)
    high = np.floor(corner.max(axis=1)).astype(np.int64)
    wide = np.maximum(high[:, m] - low[:, m] + 1, 0)
    tall = np.maximum(high[:, n] - low[:, n] + 1, 0)
    amount = wide * tall
    bounds = np.searchsorted(np.cumsum(amount), np.arange(_BATCH, amount.sum() + _BATCH, _BATCH))
    edges, points = [np.empty((0, 3), np.int32)], [np.empty((0, 3), np.float32)]
    for start, stop in zip([0, *bounds[:-1]], [*bounds[:-1], len(amount)], strict=True):
        face = np.repeat(np.arange(start, stop), amount[start:stop])
        if face.size == 0:
            continue
        first = np.cumsum(amount[start:stop]) - amount[start:stop]
        which = np.arange(face.size) - np.repeat(first, amount[start:stop])
        u = low[face, m] + which % wide[face]
        v = low[face, n] + which // wide[face]
        a, b, c = (corner[face, k].astype(np.float64) for k in range(3))

        def side(
            p: NDArray[np.float64], q: NDArray[np.float64], u: NDArray[np.int64] = u,
            v: NDArray[np.int64] = v,
        ) -> NDArray[np.float64]:  # fmt: skip
            return (q[:, m] - p[:, m]) * (v - p[:, n]) - (q[:, n] - p[:, n]) * (u - p[:, m])

        ab, bc, ca = side(a, b), side(b, c), side(c, a)
        whole = ab + bc + ca
        inside = ((ab >= 0) & (bc >= 0) & (ca >= 0)) | ((ab <= 0) & (bc <= 0) & (ca <= 0))
        inside &= whole != 0
        depth = (bc * a[:, axis] + ca * b[:, axis] + ab * c[:, axis])[inside] / whole[inside]
        point = np.empty((len(depth), 3), np.float32)
        point[:, axis], point[:, m], point[:, n] = depth, u[inside], v[inside]
        edge = np.floor(point).astype(np.int32)
        edges.append(edge)
        points.append(point)
    return np.concatenate(edges), np.concatenate(points)


def tube(path: NDArray[np.float64], radius: float, sides: int = 8) -> Mesh:
    """Return a closed tube along a path of points, float64 [N, 3]."""
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    aside = np.cross(ahead, [0.31, 0.24, 0.92])
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    up = np.cross(ahead, aside)
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = (
        path[:, None]
        + radius * np.cos(angle)[None, :, None] * aside[:, None]
        + radius * np.sin(angle)[None, :, None] * up[:, None]
    )
    count = len(path)
    i, j = np.meshgrid(np.arange(count - 1), np.arange(sides), indexing="ij")
    a, b = i * sides + j, i * sides + (j + 1) % sides
    quads = np.stack([a, b, b + sides, a, b + sides, a + sides], -1).reshape(-1, 3)
    ends = [
        [end * sides, end * sides + k, end * sides + k + 1]
        for end in (0, count - 1)
        for k in range(1, sides - 1)
    ]
    return Mesh(
        ring.reshape(-1, 3).astype(np.float32), np.concatenate([quads, ends]).astype(np.int32)
    )


def hair() -> Mesh:
    """Return forty thin tubes that hang from a sphere."""
    rng = np.random.default_rng(11)
    s = np.linspace(0, 1, 60)[:, None]
    tubes = []
    for _ in range(40):
        root = rng.uniform([-0.2, -0.2, 0.25], [0.2, 0.2, 0.3])
        bend = rng.uniform(-0.12, 0.12, 3)
        way = root + s * np.array([0, 0, -0.6]) + np.sin(3 * s) * bend * [1, 1, 0.1]
        tubes.append(tube(way, 0.006))
    cap = shapes.sphere(24, radius=0.24)
    return shapes.joined(Mesh(cap.vertices + np.array([0, 0, 0.22], np.float32), cap.faces), *tubes)


def cloth() -> Mesh:
    """Return two open, folded sheets, one above the other, and a third one between them."""
    sheet = shapes.sheet()
    p = sheet.vertices.astype(np.float64)
    over = np.stack([p[:, 0], p[:, 2], 0.15 + 0.1 * np.sin(14 * p[:, 0]) * np.cos(4 * p[:, 2])], 1)
    under = np.stack([p[:, 0], p[:, 2], -0.15 + 0.1 * np.sin(9 * p[:, 2])], 1)
    hem = np.stack([p[:, 0], 0.05 * np.sin(8 * p[:, 0]), 0.3 * p[:, 2] - 0.05], 1)
    return shapes.joined(*(Mesh(q.astype(np.float32), sheet.faces) for q in (over, under, hem)))


def crowded() -> Mesh:
    """Return interlocked rings around a hollow sphere with an inner wall, and floaters."""
    rng = np.random.default_rng(2)
    hollow = shapes.sphere(24, radius=0.22), shapes.sphere(16, radius=0.12)
    floater = shapes.sphere(2, radius=0.004)
    floaters = [
        Mesh(floater.vertices + rng.uniform(-0.45, 0.45, 3).astype(np.float32), floater.faces)
        for _ in range(20)
    ]
    wall = shapes.sheet()
    wall = Mesh(wall.vertices * np.float32(0.35), wall.faces)
    return shapes.joined(shapes.links(), *hollow, wall, *floaters)


def bolt() -> Mesh:
    """Return intersecting boxes, which have sharp edges."""
    return shapes.joined(
        _box([-0.1, -0.1, -0.4], [0.1, 0.1, 0.4]),
        _box([-0.3, -0.25, 0.2], [0.3, 0.25, 0.4]),
        _box([-0.35, -0.02, -0.3], [0.35, 0.02, 0.1]),
    )


def _box(low: list[float], high: list[float]) -> Mesh:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)]
    vertices = np.array(low) + corners * (np.array(high) - np.array(low))
    # Shifted so that no side lies in a plane of the grid.
    return Mesh((vertices + 0.00123).astype(np.float32), np.array(faces, np.int32))


REAL = {shape.__name__: shape for shape in (hair, cloth, crowded, bolt)}
