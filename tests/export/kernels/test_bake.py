"""Textures of a few texels, against one texel, face and voxel at a time."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.sampling import sample_field
from trellis2_server.export import bake
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.gaps import fill_gaps
from trellis2_server.export.kernels import bake as kernels
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Neighbours of a texel in the order in which a gutter takes their colour.
AROUND = [(-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]


def loose(random: np.random.Generator, count: int, size: float) -> Mesh:
    """Triangles of random shape and place; some are needles or have an edge without length."""
    corners = random.uniform(-0.4, 0.4, (count, 1, 3)) + random.uniform(-size, size, (count, 3, 3))
    corners[::7, 2] = 0.5 * (corners[::7, 0] + corners[::7, 1]) + 1e-5
    for at, (i, j) in enumerate([(0, 1), (1, 2), (2, 0)]):
        corners[3 + at :: 11, i] = corners[3 + at :: 11, j]
    faces = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    return Mesh(corners.reshape(-1, 3).astype(np.float32), faces)


def closest(triangle: Floats, point: Floats) -> Floats:
    """The closest point of one face: of its edges, or above it. trimesh's has fixed tolerances."""
    found: list[Floats] = []
    for k in range(3):
        start, along = triangle[k], triangle[(k + 1) % 3] - triangle[k]
        share = (point - start) @ along / max(along @ along, 1e-300)
        found.append(start + np.clip(share, 0, 1) * along)
    normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
    if normal @ normal > 0:
        foot = point - ((point - triangle[0]) @ normal) / (normal @ normal) * normal
        sides = [
            np.cross(triangle[(k + 1) % 3] - triangle[k], foot - triangle[k]) @ normal
            for k in range(3)
        ]
        if min(sides) >= 0:
            found.append(foot)
    return min(found, key=lambda each: float(np.linalg.norm(each - point)))


@pytest.mark.costly
@pytest.mark.parametrize(
    ("seed", "count", "size"), [(0, 1, 0.4), (1, 6, 0.5), (2, 40, 0.1), (3, 150, 0.03), (4, 60, 1)]
)
def test_the_closest_point_is_that_of_all_faces(seed: int, count: int, size: float) -> None:
    random = np.random.default_rng(seed)
    mesh = loose(random, count, size)
    triangles = mesh.vertices[mesh.faces].astype(np.float64)
    points = np.vstack(
        [
            random.uniform(-0.6, 0.6, (30, 3)),
            random.uniform(-4, 4, (8, 3)),
            triangles[0],  # at a corner
            triangles.mean(axis=1)[:5] + random.normal(0, 0.003, (min(count, 5), 3)),
        ]
    )
    found = bake.closest_points(points, mesh)
    for point, ours in zip(points, found, strict=True):
        all_faces = np.array([closest(triangle, point) for triangle in triangles])
        distances = np.linalg.norm(all_faces - point, axis=1)
        assert np.linalg.norm(ours - point) == pytest.approx(distances.min(), abs=2e-6)
        assert np.linalg.norm(all_faces - ours, axis=1).min() < 1e-5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_each_region_of_a_face_has_its_closest_points(scale: float) -> None:
    """Beside each edge, beyond each corner, over the face."""
    triangle = np.array([[0.1, 0.2, -0.3], [0.9, 0.3, 0.2], [0.3, 0.8, 0.1]]) * scale
    weights = np.array([*product((-1.5, -0.4, 0.2, 0.6, 1.4), repeat=2)])
    weights = np.column_stack([1 - weights.sum(axis=1), weights])
    normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
    normal /= np.linalg.norm(normal)
    points = np.vstack([weights @ triangle + height * scale * normal for height in (-0.7, 0, 0.2)])
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]):
        mesh = Mesh(triangle[order].astype(np.float32), np.array([[0, 1, 2]], np.int32))
        wanted = [closest(triangle, point) for point in points]
        np.testing.assert_allclose(bake.closest_points(points, mesh), wanted, atol=1e-6 * scale)


def trilinear(point: Floats, voxels: dict[tuple[int, ...], Floats], resolution: int) -> Floats:
    """The mean of the voxels present around a point, by their weights."""
    at = (point + 0.5) * resolution - 0.5
    low = np.floor(at).astype(int)
    total, values = 0.0, np.zeros(6)
    for step in product((0, 1), repeat=3):
        voxel = voxels.get(tuple((low + step).tolist()))
        if voxel is not None:
            weight = np.prod(np.where(step, at - low, 1 - at + low))
            total, values = total + weight, values + weight * voxel
    return np.clip(values / total, 0, 1) if total > 1e-6 else np.full(6, np.nan)


@pytest.mark.parametrize(("resolution", "share"), [(1, 1.0), (5, 0.5), (8, 1.0), (11, 0.3)])
def test_a_field_is_interpolated_over_the_voxels_that_it_has(resolution: int, share: float) -> None:
    random = np.random.default_rng(resolution)
    coords = np.array([*product(range(resolution), repeat=3)], np.int32)
    random.shuffle(coords)
    coords = np.ascontiguousarray(coords[: max(1, int(share * len(coords)))])
    values = random.uniform(-0.2, 1.2, (len(coords), 6)).astype(np.float32)
    voxels = {tuple(at): row for at, row in zip(coords.tolist(), values.astype(float), strict=True)}
    points = random.uniform(-0.6, 0.6, (150, 3))
    found = sample_field(points, VoxelField(coords, values, resolution))
    wanted = np.array([trilinear(point, voxels, resolution) for point in points])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def atlas_of(seed: int, size: int, count: int) -> tuple[Atlas, Mesh]:
    """Random faces that overlap, go beyond the texture, and are needles and points."""
    random = np.random.default_rng(seed)
    mesh = loose(random, count, 0.2)
    uv = random.uniform(-2, size + 2, (count, 1, 2)) + random.uniform(-5, 5, (count, 3, 2))
    uv[::4, 2] = uv[::4, 1] + random.uniform(-0.4, 0.4, (len(uv[::4]), 2))
    uv[2::5] = uv[2::5, :1]
    source = random.permutation(3 * count).astype(np.int32)
    rows = np.empty((3 * count, 2), np.float32)
    at = np.empty(3 * count, np.int32)  # of each vertex
    at[source] = np.arange(3 * count, dtype=np.int32)
    rows[at] = uv.reshape(-1, 2)
    faces = at[mesh.faces]
    return Atlas(rows, source, faces, np.arange(count, dtype=np.int32), size), mesh


def owners(atlas: Atlas, gutter: int) -> NDArray[np.int32]:
    """The face of each texel: the last that contains its centre, then those with a centroid."""
    size = atlas.size_px
    owner = np.full((size, size), -1)
    for face, (a, b, c) in enumerate(atlas.uv[atlas.faces].astype(float)):
        for row, column in product(range(size), repeat=2):
            at = np.array([column + 0.5, row + 0.5])
            sides = [
                (q[0] - p[0]) * (at[1] - p[1]) - (q[1] - p[1]) * (at[0] - p[0])
                for p, q in ((a, b), (b, c), (c, a))
            ]
            if (min(sides) >= 0 or max(sides) <= 0) and any(sides):
                owner[row, column] = face
    for face, points in enumerate(atlas.uv[atlas.faces]):
        column, row = np.clip(points.mean(axis=0), 0, size - 1).astype(int)
        if owner[row, column] == -1:
            owner[row, column] = face
    for _ in range(gutter):
        grown = owner.copy()
        for row, column in zip(*np.nonzero(owner == -1), strict=True):
            for y, x in AROUND:
                near = row + y, column + x
                if min(near) >= 0 and max(near) < size and owner[near] != -1:
                    grown[row, column] = owner[near] if owner[near] < 0 else -2 - owner[near]
                    break
        owner = grown
    return owner.astype(np.int32)


@pytest.mark.parametrize(("seed", "gutter"), [(0, 0), (1, 1), (2, 3)])
def test_each_texel_belongs_to_the_face_over_its_centre_or_beside_it(
    seed: int, gutter: int
) -> None:
    atlas, _ = atlas_of(seed, 14, 9)
    np.testing.assert_array_equal(bake.rasterize(atlas, gutter), owners(atlas, gutter))


def some_voxels(seed: int, resolution: int) -> VoxelField:
    random = np.random.default_rng(seed)
    coords = np.array([*product(range(resolution), repeat=3)], np.int32)
    coords = np.ascontiguousarray(coords[random.random(len(coords)) < 0.7])
    values = random.uniform(0, 1, (len(coords), 6)).astype(np.float32)
    return VoxelField(coords, values, resolution)


@pytest.mark.parametrize(("seed", "has_original"), [(0, False), (1, True), (5, True)])
def test_each_texel_has_the_colour_of_its_place(seed: int, *, has_original: bool) -> None:
    """Over two tiles in each direction; the place is that on the original surface."""
    atlas, mesh = atlas_of(seed, 21, 12)
    field = some_voxels(seed, 6)
    original = loose(np.random.default_rng(seed + 9), 8, 0.5) if has_original else None
    maps = bake.bake(mesh, atlas, bake.build_index(field, original))
    voxels = {
        tuple(at): row
        for at, row in zip(field.coords.tolist(), field.attributes.astype(float), strict=True)
    }
    owner = bake.rasterize(atlas, gutter=2)
    places = mesh.vertices[mesh.faces].astype(float)
    is_seen = np.zeros(owner.shape, bool)
    for row, column in np.ndindex(*owner.shape):
        if owner[row, column] == -1:
            continue
        is_gutter = owner[row, column] < -1
        face = -2 - owner[row, column] if is_gutter else owner[row, column]
        a, b, c = atlas.uv[atlas.faces[face]].astype(float)
        weights = np.full(3, 1 / 3)
        sides = np.stack([b - a, c - a], 1)
        if abs(np.linalg.det(sides)) > 1e-12:
            s, t = np.linalg.inv(sides) @ (np.array([column + 0.5, row + 0.5]) - a)
            weights = np.maximum([1 - s - t, s, t], 0)
            weights /= weights.sum()
        place = weights @ places[face]
        if original is not None:
            (place,) = bake.closest_points(place[None], original)
        wanted = 255 * trilinear(place, voxels, 6)
        if np.isnan(wanted).any():
            continue
        is_seen[row, column] = True
        assert maps.covered[row, column] == (2 if is_gutter else 1)
        np.testing.assert_allclose(maps.base_color[row, column], wanted[[0, 1, 2, 5]], atol=0.52)
        np.testing.assert_allclose(maps.metal_rough[row, column], wanted[[4, 4, 3]], atol=0.52)
    assert 100 < is_seen.sum() < 441
    np.testing.assert_array_equal(maps.covered > 0, is_seen)


def filled(texels: NDArray[np.int64], covered: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Push-pull: the gaps of a level from the next one, which has half its texels."""
    size = len(texels)
    if size == 1:
        return texels
    half = (size + 1) // 2
    coarse, is_known = np.zeros((half, half, 3), np.int64), np.zeros((half, half), bool)
    for row, column in product(range(half), repeat=2):
        block = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
        known = texels[block][covered[block]]
        if len(known):
            is_known[row, column] = True
            coarse[row, column] = np.floor(known.mean(axis=0) + 0.5)
    coarse = filled(coarse, is_known)
    out = texels.copy()
    for row, column in zip(*np.nonzero(~covered), strict=True):
        y, x = row // 2, column // 2
        other_y = np.clip(y + (1 if row % 2 else -1), 0, half - 1)
        other_x = np.clip(x + (1 if column % 2 else -1), 0, half - 1)
        total = 9 * coarse[y, x] + 3 * coarse[y, other_x] + 3 * coarse[other_y, x]
        out[row, column] = (total + coarse[other_y, other_x] + 8) // 16
    return out


@pytest.mark.parametrize("size", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_gaps_are_filled_from_ever_coarser_levels(size: int, share: float) -> None:
    random = np.random.default_rng(size)
    covered = (random.random((size, size)) < share).astype(np.uint8)
    covered[0, 0] = 2
    base = random.integers(0, 256, (size, size, 4)).astype(np.uint8)
    metal = random.integers(0, 256, (size, size, 3)).astype(np.uint8)
    metal[..., 0] = metal[..., 1]
    before = np.concatenate([base, metal], axis=2).astype(np.int64)
    fill_gaps(base, covered)
    fill_gaps(metal, covered)
    after = np.concatenate([base, metal], axis=2)
    for bands in ([0, 1, 2], [3, 4, 5], [6, 5, 4]):
        np.testing.assert_array_equal(after[..., bands], filled(before[..., bands], covered > 0))


def test_a_search_range_is_rounded_outward_and_has_seven_bits() -> None:
    for cell in (0, 5):
        for place in np.linspace(-0.5, 1.5, 4001):
            query = kernels.quantize_query(cell + place, cell + place, cell)
            high, low = int(query[0]) - 128, 255 - int(query[1])
            exact = place * 127
            assert max(0, min(127, exact - 1.02)) <= low <= max(0, min(127, exact))
            assert max(0, min(127, exact)) <= high <= max(0, min(127, exact + 1.02))


def test_all_bits_of_a_brick_have_their_row() -> None:
    """Each voxel of two bricks, one of them full, is found by its own value."""
    full = np.array([*product(range(4), repeat=3)], np.int32)
    some = np.array([[4, 0, 0], [5, 3, 2], [7, 3, 3]], np.int32)
    coords = np.ascontiguousarray(np.vstack([some[:1], full[::-1], some[1:]]))
    values = np.zeros((len(coords), 6), np.float32)
    values[:, 0] = np.arange(len(coords)) / 100
    found = sample_field((coords + 0.5) / 8 - 0.5, VoxelField(coords, values, 8))
    np.testing.assert_allclose(found[:, 0], values[:, 0], atol=1e-6)
