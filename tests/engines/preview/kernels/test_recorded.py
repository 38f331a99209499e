"""What each loop makes of small arrays is what it made when it was recorded.

So is how often it looks at its flag. Other tests say what is right of it; these notice every other
change. If one is meant, `pytest tests/engines/preview/kernels/test_recorded.py --force-regen`
records again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.loops import observed
from tests.support.preview import disc, grid
from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.silhouette import incidence

if TYPE_CHECKING:
    from tests.support.recorded import Recorded

Array = NDArray[Any]


def noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def ragged(size: int) -> Array:
    """Return a mask, 0 to 1: a ring with a bar, a line of one pixel, a saddle and a speck."""
    x, y = grid(size)
    unit = size / 32
    ring = disc(size, 13 * unit, 13 * unit, 9 * unit) - disc(size, 12 * unit, 14 * unit, 3.4 * unit)
    bar = (abs(x - y - 0.3) < 2.2 * unit) & (x > 15 * unit) & (x < 28 * unit)
    line = (abs(y - 26.5 * unit) < 0.5) & (x > 3 * unit) & (x < 20 * unit)
    mask = np.maximum(np.clip(ring, 0, 1), np.maximum(bar, line))
    corner = int(27 * unit)
    mask[4, corner] = mask[5, corner + 1] = 0.9
    mask[9, corner] = 0.7
    return mask.astype(np.float32)


def framed(mask: Array) -> Array:
    """Return a mask as nodes with a frame of empty ones, of a multiple of 32 cells."""
    size = -(-len(mask) // 32) * 32
    field = np.zeros((size + 1, size + 1), np.float32)
    field[1 : len(mask) + 1, 1 : len(mask) + 1] = mask
    return field


class Triangulated:
    """The silhouette of a mask, in triangles.

    Args:
        mask: float32 [size, size], 0 to 1.
        inner: coarseness inside.
        outer: coarseness at the outline.
    """

    def __init__(self, mask: Array, inner: float, outer: float) -> None:
        loops = kernels.load("triangulation")
        field = framed(mask)
        n = len(field) - 1
        cells = [(n >> k) ** 2 for k in range(loops.TOP_LEVEL + 1)]
        offsets = np.cumsum([0, *cells]).astype(np.int64)
        self.kind = np.full(offsets[-1], 7, np.uint8)
        self.error = np.full(offsets[-1], -1, np.float32)
        self.split = np.full(offsets[-1], 9, np.uint8)
        _, self.looks = observed(loops.classify, field, offsets, self.kind, self.error)
        x, y = grid(n // 2)
        room = (1 + np.hypot(x - 8, y - 9) / 5).astype(np.float32)
        ids = np.full((3, n + 1, n + 1), -1, np.int32)
        state = np.zeros(2, np.int64)

        def run(points: Array, faces: Array, outline: Array) -> int:
            made, looks = observed(
                loops.triangulate, field, offsets, self.kind, self.error, room, inner, outer,
                self.split, ids, points, faces, outline, state,
            )  # fmt: skip
            self.looks += looks
            return made

        self.count = run(np.empty((0, 2)), np.empty((0, 3), np.int32), np.empty(0, np.uint8))
        assert state.tolist() == [0, 0]
        points = np.zeros((2 * self.count, 2))
        outline = np.zeros(2 * self.count, np.uint8)
        self.faces = np.empty((self.count, 3), np.int32)
        assert run(points, self.faces, outline) == self.count == state[1]
        self.points, self.outline = points[: state[0]].copy(), outline[: state[0]].copy()


SIZES = {"fine": (31, 0.25, 0.25), "even": (62, 2, 2), "inner": (62, 16, 1), "coarse": (62, 16, 16)}


@pytest.mark.parametrize("name", SIZES)
def test_triangles(recorded: Recorded, name: str) -> None:
    size, inner, outer = SIZES[name]
    made = Triangulated(ragged(size), inner, outer)
    recorded.check(
        kind=made.kind,
        error=np.minimum(made.error, 99),
        split=made.split,
        points=made.points,
        faces=made.faces,
        outline=made.outline,
        looks=made.looks,
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_triangles_of_noise(recorded: Recorded, seed: int) -> None:
    made = Triangulated(np.clip(1.6 * noise(seed, 30, 30) - 0.1, 0, 1), 3, 1 + seed)
    recorded.check(points=made.points, faces=made.faces, outline=made.outline, error=made.error)


@pytest.mark.parametrize("rounds", [1, 4])
def test_evened_triangles(recorded: Recorded, rounds: int) -> None:
    made = Triangulated(ragged(31), 4, 2)
    points = made.points + 0.2 * (noise(3, *made.points.shape) - 0.5)
    start, members = incidence(len(points), made.faces)
    relax = kernels.load("inflation").relax
    arguments = points, made.faces, made.outline, start, members, rounds, 0.4, 1.5, 29.0
    _, looks = observed(relax, *arguments)
    recorded.check(points=points, looks=looks)


def test_heights(recorded: Recorded) -> None:
    made = Triangulated(ragged(31), 4, 1)
    start, members = incidence(len(made.points), made.faces)
    found = {}
    for rounds in (1, 3, 200):
        u = np.zeros(len(made.points))
        solve = kernels.load("inflation").solve_poisson
        arguments = made.points, made.faces, made.outline, start, members, u, 1e-3, rounds
        steps, looks = observed(solve, *arguments)
        found |= {f"u{rounds}": u, f"steps{rounds}": [steps, looks]}
    recorded.check(**found)


@pytest.mark.parametrize(
    ("part", "hole"), [(0, 0), (4, 4), (9, 200)], ids=["none", "small", "large"]
)
def test_specks(recorded: Recorded, part: int, hole: int) -> None:
    field = np.maximum(framed(ragged(31)), framed((noise(8, 31, 31) > 0.9) * np.float32(0.6)))
    field[12:16, 11:15] = 0.3  # a pane in the ring's hole
    seen = np.zeros(field.shape, np.uint8)
    area, looks = observed(kernels.load("mask").drop_specks, field, seen, part, hole)
    recorded.check(field=field, seen=seen, area=[area, looks])


def test_looks_at_many_nodes_of_a_mask() -> None:
    field = np.zeros((100, 100), np.float32)
    field[5:90, 5:90] = 1
    drop_specks = kernels.load("mask").drop_specks
    assert observed(drop_specks, field, np.zeros(field.shape, np.uint8), 9, 9) == (7225, 4)


def test_distances(recorded: Recorded) -> None:
    distance = np.where(ragged(31) > 0.4, np.float32(1e6), np.float32(0))
    distance[20:, 22:] = 1e6
    _, looks = observed(kernels.load("distance").chamfer, distance)
    recorded.check(distance=distance, looks=looks)


@pytest.mark.parametrize("name", ["ragged", "wide", "tall", "full", "empty"])
def test_balls(recorded: Recorded, name: str) -> None:
    alpha = {
        "ragged": ragged(31),
        "wide": ragged(31)[3:14],
        "tall": ragged(31)[:, 4:12],
        "full": np.ones((5, 7), np.float32),
        "empty": np.full((7, 5), 0.4, np.float32),
    }[name].copy()
    distance, squared, radius = (np.full(alpha.shape, -7, np.float32) for _ in range(3))
    _, looks = observed(kernels.load("balls").inflate_balls, alpha, distance, squared, radius)
    recorded.check(distance=distance, squared=squared, radius=radius, looks=looks)


def test_diffusion(recorded: Recorded) -> None:
    squared = noise(1, 9, 12)
    inside = (noise(2, 9, 12) > 0.3).astype(np.uint8)
    _, looks = observed(kernels.load("balls").diffuse, squared, inside, 3)
    recorded.check(squared=squared, looks=looks)


@pytest.mark.parametrize("sigma", [0.2, 0.8, 2.3])
def test_blurred(recorded: Recorded, sigma: float) -> None:
    values, out = noise(4, 40, 17), np.full((40, 17), 9, np.float32)
    _, looks = observed(kernels.load("smoothing").blur, values, sigma, out)
    recorded.check(out=out, looks=looks)


def test_parts(recorded: Recorded) -> None:
    inside = (ragged(31) > 0.5).astype(np.uint8)
    u = noise(1, 31, 31)
    conductance, pull = 0.05 + 0.95 * noise(2, 31, 31), 0.1 + noise(3, 31, 31)
    solve = kernels.load("parts").solve_parts
    _, looks = observed(solve, inside, conductance, pull, 0.7, 5, u)
    recorded.check(u=u, looks=looks)


@pytest.mark.parametrize(
    ("margin", "scale", "columns"),
    [(0.0, 1.0, 12), (2.0, 1.7, 11), (-1.3, 0.6, 24), (0.5, 5.0, 4)],
    ids=["same", "smaller", "larger", "few"],
)
def test_columns(recorded: Recorded, margin: float, scale: float, columns: int) -> None:
    picture = (256 * noise(5, 12, 12, 4)).astype(np.uint8)
    picture[..., 3][noise(6, 12, 12) < 0.4] = 0
    out = np.full((columns, columns, 4), -1, np.float32)
    _, looks = observed(kernels.load("colors").resample, picture, margin, scale, out)
    recorded.check(out=out, looks=looks)


def test_finer_colours(recorded: Recorded) -> None:
    level = noise(8, 10, 14, 4)
    level[..., 3] *= noise(9, 10, 14) > 0.4
    level[..., :3] *= level[..., 3:]
    out = np.full((10, 14, 3), -1, np.float32)
    _, looks = observed(kernels.load("colors").refine, noise(7, 5, 7, 3), level, out)
    recorded.check(out=out, looks=looks)


def patches(size: int) -> tuple[Array, Array, Array, Array]:
    """Return a picture, what is wanted of it, sources and the hole.

    The picture has whole numbers, so that patches differ as much on every processor.
    """
    x, y = grid(size)
    stripes = 60 * ((x + 2 * y) % 5 < 2) + 30 * (x % 3 < 1)
    picture = np.stack([stripes, 90 - stripes / 2, 9 * y], -1) + (9 * noise(3, size, size, 3))
    picture = np.floor(picture).astype(np.float32)
    hole = np.zeros((size, size), np.uint8)
    hole[6:10, 5:9] = 1
    wanted = np.zeros_like(hole)
    wanted[4:12, 3:11] = 1
    inner = np.zeros_like(hole)
    inner[2:-2, 2:-2] = 1
    picture[hole != 0] = 40
    sources = np.ascontiguousarray(np.argwhere(inner & ~wanted), np.int32)
    return picture, wanted, sources, hole


@pytest.mark.parametrize(("away", "rounds"), [(0.0, 1), (0.5, 2), (40.0, 5)])
def test_similar_patches(recorded: Recorded, away: float, rounds: int) -> None:
    picture, wanted, sources, _ = patches(16)
    field = np.full((16, 16, 2), -1, np.int32)
    field[5, 5] = sources[7]
    field[5, 6] = 7, 6  # no source
    costs = np.full((16, 16), -1, np.float32)
    match = kernels.load("patches").match
    seed = np.uint32(99 + rounds)
    _, looks = observed(match, picture, wanted, sources, field, costs, away, rounds, seed)
    recorded.check(field=field, costs=costs, looks=looks)


def test_a_hole_that_patches_fill(recorded: Recorded) -> None:
    picture, wanted, sources, hole = patches(16)
    random = np.random.default_rng(4)
    field = np.full((16, 16, 2), -99, np.int32)
    places = np.argwhere(wanted)
    field[tuple(places.T)] = sources[random.integers(len(sources), size=len(places))]
    wanted[8, 4] = hole[12, 12] = 1  # nothing is over the last one
    costs = 40 * noise(5, 16, 16)
    out = np.full(picture.shape, -1, np.float32)
    vote = kernels.load("patches").vote
    _, looks = observed(vote, picture, hole, wanted, field, costs, 25.0, out)
    recorded.check(out=out, looks=looks)


def triangles(seed: int, count: int) -> tuple[Array, Array]:
    """Return faces of all sizes and shapes: vertices in the model frame, float32; faces int32."""
    random = np.random.default_rng(seed)
    corners = random.uniform(-0.45, 0.45, (count, 1, 3))
    corners = corners + random.normal(size=(count, 3, 3)) * random.choice(
        [0.01, 0.1, 0.3], (count, 1, 1)
    )
    corners[0, 2] = 0.7 * corners[0, 0] + 0.3 * corners[0, 1]  # a line
    corners[1, 2] = 2 * corners[1, 1] - corners[1, 0]  # one from corner to corner
    corners[2, 1] = corners[2, 2] = corners[2, 0]
    corners[3, :, 1] = 0.21  # level with an axis
    corners[4:7, 2] = corners[4:7, 1] + 0.02
    vertices = np.clip(corners.reshape(-1, 3), -0.5, 0.5).astype(np.float32)
    return vertices, np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


@pytest.mark.parametrize("size", [8, 24])
@pytest.mark.parametrize("seed", [1, 2])
def test_voxels_along_a_surface(recorded: Recorded, seed: int, size: int) -> None:
    loops = kernels.load("surface")
    vertices, faces = triangles(seed, 12)
    bits, totals = np.zeros(size**3 // 8, np.uint8), np.zeros(2)
    _, looks_measuring = observed(loops.measure, vertices, faces, totals)
    # Each face alone, as one covers what another misses.
    alone = np.zeros((len(faces), len(bits)), np.uint8)
    looks = [observed(loops.mark, vertices, faces[f : f + 1], size, alone[f])[1] for f in range(12)]
    _, looks_marking = observed(loops.mark, vertices, faces, size, bits)
    assert (bits == np.bitwise_or.reduce(alone)).all()
    depth = np.full((size, size), size, np.int32)
    count, looks_counting = observed(loops.first_depths, bits, size, depth)
    coords = np.full((count, 3), -1, np.int32)
    attributes = np.full((count, 6), -1, np.float32)
    front, back = noise(1, size, size, 3), noise(2, size, size, 3)
    _, looks_painting = observed(loops.paint, bits, depth, 3, front, back, 0.6, coords, attributes)
    recorded.check(
        totals=totals,
        alone=np.packbits(np.unpackbits(alone, axis=1).reshape(12, -1, 8).any(-1), axis=1)
        if size > 8
        else alone,
        bits=bits,
        depth=depth,
        coords=coords[::7],
        attributes=attributes[::7],
        looks=[*looks, looks_measuring, looks_marking, looks_counting, looks_painting],
    )


def sheet(seed: int) -> tuple[Array, Array]:
    """Return a sheet of 25 x 25 faces' squares: points (x, z, height) in voxels, faces."""
    across = np.linspace(1.2, 18.7, 6)
    x, z = np.meshgrid(across, across, indexing="ij")
    moved = noise(seed, 36, 3) - 0.5
    points = np.stack([x.ravel(), z.ravel(), 6 + 2 * np.sin(x + z).ravel()], -1) + moved
    points[7, 2] = points[8, 2] = points[13, 2] = 4  # level
    points[20] = points[21]  # two faces are lines, two have no area
    at = np.arange(36).reshape(6, 6)
    corners = at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]
    a, b, c, d = (each.ravel() for each in corners)
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return points, faces.astype(np.int32)


@pytest.mark.parametrize("size", [20, 16])
def test_columns_of_voxels(recorded: Recorded, size: int) -> None:
    loops = kernels.load("voxels")
    ranges = np.full((4, size, size), np.inf, np.float32)
    ranges[1::2] = -1
    _, looks_front = observed(loops.height_ranges, *sheet(1), ranges[0], ranges[1])
    points, faces = sheet(2)
    points[:, 2] *= 0.4
    _, looks_back = observed(loops.height_ranges, points, faces, ranges[2], ranges[3])
    distance = np.full((size, size), np.float32(99))
    distance[0] = distance[:, 0] = distance[-1] = distance[:, -1] = 0
    distance[size // 2, 5:9] = 0
    observed(kernels.load("distance").chamfer, distance)
    rims = np.full((size, size, 6), 7, np.float32)
    heights = np.where(ranges[1::2] < 0, 0, ranges[1::2]).astype(np.float32)
    _, looks_rims = observed(loops.find_rims, distance, heights[0], heights[1], 3.5, rims)
    # Without an end, the values of the column before last stay: they are not read.
    has_rim = (rims[..., :2] != 0).any(-1)
    front, back = noise(3, size, size, 3), noise(4, size, size, 3)
    opacity = noise(5, size, size)
    arguments = ranges, 0.5, rims, front, back, opacity, 0.3
    empty = np.empty((0, 3), np.int32), np.empty((0, 6), np.float32)
    count, looks_counting = observed(loops.fill_voxels, *arguments, *empty)
    coords = np.full((count, 3), -1, np.int32)
    attributes = np.full((count, 6), -1, np.float32)
    made, looks_filling = observed(loops.fill_voxels, *arguments, coords, attributes)
    recorded.check(
        ranges=np.minimum(ranges, 99),
        rims=np.where(has_rim[..., None], rims, 0),
        coords=coords[:made:5],
        attributes=attributes[:made:5],
        counts=[count, made],
        looks=[looks_front, looks_back, looks_rims, looks_counting, looks_filling],
    )
