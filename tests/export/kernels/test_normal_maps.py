"""Normal maps of a few texels, against one texel and face at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export import bake, normals
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import bake as kernels
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def triangles(random: np.random.Generator, count: int) -> Mesh:
    corners = random.uniform(-0.4, 0.4, (count, 1, 3)) + random.uniform(-0.2, 0.2, (count, 3, 3))
    faces = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    return Mesh(corners.reshape(-1, 3).astype(np.float32), random.permutation(faces))


def nearest(mesh: Mesh, point: Floats) -> tuple[int, Floats]:
    """Return the face closest to a point, and the shares of its corners at its closest point."""
    found: list[tuple[float, int, Floats]] = []
    for face, (a, b, c) in enumerate(mesh.vertices.astype(np.float64)[mesh.faces]):
        sides = np.stack([b - a, c - a], axis=1)
        s, t = np.linalg.lstsq(sides, point - a, rcond=None)[0]
        candidates = [np.array([1 - s - t, s, t])] if min(s, t, 1 - s - t) >= 0 else []
        for k, (p, q) in enumerate(((a, b), (b, c), (c, a))):
            share = np.clip((point - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1)
            shares = np.zeros(3)
            shares[k], shares[(k + 1) % 3] = 1 - share, share
            candidates.append(shares)
        for shares in candidates:
            place = shares @ np.array([a, b, c])
            found.append((float(np.linalg.norm(place - point)), face, shares))
    _, face, shares = min(found, key=lambda each: each[0])
    return face, shares


def shares_at(corners: Floats, point: Floats) -> Floats:
    """Return the shares of three corners in the texture, those of a point inside."""
    sides = (corners[1:] - corners[0]).T
    if abs(np.linalg.det(sides)) <= 1e-12:
        return np.full(3, 1 / 3)
    beyond = np.linalg.solve(sides, point - corners[0])
    shares = np.maximum([1 - beyond.sum(), *beyond], 0)
    return shares / shares.sum()


class Scene:
    """A mesh with a texture of a few texels, and the surface whose normals are seen."""

    def __init__(self, seed: int, size: int) -> None:
        random = np.random.default_rng(seed)
        count = 9
        self.mesh = triangles(random, count)
        self.original = triangles(random, 12)
        uv = random.uniform(0, size, (count, 1, 2)) + random.uniform(
            -size / 2, size / 2, (count, 3, 2)
        )
        uv[3] = uv[3, :1]  # a point
        source = random.permutation(3 * count).astype(np.int32)
        at = np.empty(3 * count, np.int32)
        at[source] = np.arange(3 * count, dtype=np.int32)
        rows = np.empty((3 * count, 2), np.float32)
        rows[at[self.mesh.faces]] = uv
        charts = random.integers(0, 3, count).astype(np.int32)
        self.atlas = Atlas(rows, source, at[self.mesh.faces], charts, size)
        self.normals = unit(random.normal(size=(3 * count, 3))).astype(np.float32)
        along = unit(random.normal(size=(3 * count, 3)))
        hands = random.choice([-1, 1], (3 * count, 1))
        self.along = np.concatenate([along, hands], axis=1).astype(np.float32)
        self.seen = unit(random.normal(size=(36, 3))).astype(np.float32)
        self.seen[self.original.faces[2]] = 0  # without a normal
        self.owner = bake.rasterize(self.atlas, gutter=1)

    def sample(self, step: int, row: int, column: int) -> tuple[int, Floats]:
        """Return chart and normal of a block; chart -1: it has no face."""
        size = self.atlas.size_px
        texels = [(row * step + step // 2, column * step + step // 2)]
        texels += [(row * step + i, column * step + j) for i in range(step) for j in range(step)]
        faces = [self.owner[min(size - 1, y), min(size - 1, x)] for y, x in texels]
        face = next((int(each) for each in faces if each >= 0), -1)
        if face < 0:
            return -1, np.zeros(3)
        corners = self.atlas.faces[face]
        middle = np.array([(column + 0.5) * step, (row + 0.5) * step])
        shares = shares_at(self.atlas.uv[corners].astype(np.float64), middle)
        vertices = self.atlas.source[corners]
        seen_face, seen_shares = nearest(self.original, shares @ self.mesh.vertices[vertices])
        own = shares @ self.normals[vertices].astype(np.float64)
        a, b, c = self.original.vertices[self.original.faces[seen_face]].astype(np.float64)
        plane = np.cross(b - a, c - a)
        at_corners = self.seen[self.original.faces[seen_face]].astype(np.float64)
        at_corners[at_corners @ plane < 0] *= -1
        found = seen_shares @ at_corners
        if not found.any():
            found = own
        return int(self.atlas.chart[face]), unit(found) * (1 if found @ own >= 0 else -1)

    def texel(
        self, step: int, row: int, column: int, charts: Floats, samples: Floats
    ) -> Floats | None:
        """Return the normal at a texel in its own frame, of length 1."""
        face = int(self.owner[row, column])
        if face == -1:
            return None
        face = -2 - face if face < 0 else face
        y, x = (row + 0.5) / step - 0.5, (column + 0.5) / step - 0.5
        j, i = int(np.floor(y)), int(np.floor(x))
        total, weights = np.zeros(3), 0.0
        for down in (0, 1):
            for right in (0, 1):
                at = tuple(np.clip([j + down, i + right], 0, len(charts) - 1))
                if charts[at] != self.atlas.chart[face]:
                    continue
                weight = 1e-6 + (y - j if down else 1 - y + j) * (x - i if right else 1 - x + i)
                total, weights = total + weight * samples[at], weights + weight
        if weights == 0:
            return None
        corners = self.atlas.faces[face]
        point = np.array([column + 0.5, row + 0.5])
        shares = shares_at(self.atlas.uv[corners].astype(np.float64), point)
        out = unit(shares @ self.normals[self.atlas.source[corners]].astype(np.float64))
        along = shares @ self.along[corners, :3].astype(np.float64)
        along = unit(along - (along @ out) * out)
        up = self.along[corners[0], 3] * np.cross(out, along)
        local = np.array([total @ along, total @ up, total @ out])
        local[2] = max(local[2], 0.1 * float(np.linalg.norm(local[:2])), 1e-6)
        return unit(local)


@pytest.mark.parametrize(("seed", "step", "size"), [(1, 1, 12), (2, 2, 12), (3, 3, 13), (4, 4, 21)])
def test_a_texel_has_the_normals_of_its_chart_in_its_own_frame(
    seed: int, step: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(seed, size)
    monkeypatch.setattr(normals, "_sampling_step", lambda *_: step)
    monkeypatch.setattr(normals, "fill_gaps", lambda *_: None)
    surface = normals.FullSurface(
        scene.original.faces, scene.seen, bake.index_faces(scene.original, 8)
    )
    found = normals.bake_normal_map(
        scene.mesh, scene.normals, scene.atlas, scene.along, scene.owner, surface
    )
    blocks = -(-size // step)
    charts, samples = np.empty((blocks, blocks), int), np.empty((blocks, blocks, 3))
    for row, column in np.ndindex(blocks, blocks):
        charts[row, column], samples[row, column] = scene.sample(step, row, column)
    count = 0
    for row, column in np.ndindex(size, size):
        wanted = scene.texel(step, row, column, charts, samples)
        if wanted is None:
            assert found[row, column].tolist() == [0, 0, 0]
            continue
        count += 1
        np.testing.assert_allclose(found[row, column], wanted * 127.5 + 127.5, atol=0.6)
    assert count > 30


def test_a_normal_is_compared_with_the_closest_face_whatever_its_winding() -> None:
    random = np.random.default_rng(6)
    mesh = triangles(random, 10)
    points = random.uniform(-0.5, 0.5, (20, 3))
    seen = unit(random.normal(size=(20, 3)))
    cosines = np.empty(20)
    index = bake.index_faces(mesh, 8)
    call(kernels.compare_normals, 0, 20, points, seen, *index, cosines)
    for point, normal, cosine in zip(points, seen, cosines, strict=True):
        a, b, c = mesh.vertices[mesh.faces[nearest(mesh, point)[0]]].astype(np.float64)
        assert cosine == pytest.approx(abs(unit(np.cross(b - a, c - a)) @ normal), abs=1e-5)


@pytest.mark.parametrize(
    ("share", "full_faces", "faces", "step"),
    [
        (1.0, 4096, 100, 2),  # an edge of 1.5 texels, of which 1.4 are 2.1
        (1.0, 4600, 100, 1),
        (1.0, 1500, 100, 3),
        (1.0, 1100, 100, 4),
        (1.0, 64, 7, 4),  # and no more
        (0.25, 1024, 100, 2),  # of a texture that is covered in part
        (1.0, 4096, 511, 2),
        (1.0, 4096, 512, 3),  # twice the edge where the mesh has itself the detail
        (1.0, 1100, 1100, 5),
        (1.0, 64, 64, 6),
        (0.0, 4096, 100, 1),
    ],
)
def test_normals_are_looked_up_about_once_for_each_face_of_the_surface(
    share: float, full_faces: int, faces: int, step: int
) -> None:
    owner = np.full((64, 64), -1, np.int32)
    owner[: round(64 * share)] = 3
    assert normals._sampling_step(owner, full_faces, faces) == step
