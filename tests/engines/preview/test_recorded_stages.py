"""What the engine's stages make of small pictures is what they made when it was recorded.

As in `test_recorded.py`, but stage by stage: a model of a few faces does not show all of it. If a
change is meant, `pytest tests/engines/preview/test_recorded_stages.py --force-regen` records again.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.preview import Array, cutout, disc, grid
from trellis2_server.engines.preview import depth, face, filling, relief, sheets, views, voxels
from trellis2_server.engines.preview.heightmap import cell_sizes, make_heightmap
from trellis2_server.engines.preview.outline import Core, Outline, find_core, measure_outline
from trellis2_server.engines.preview.pixels import read_pixels
from trellis2_server.engines.preview.projection import project
from trellis2_server.engines.preview.shading import (
    Shading,
    find_changes,
    measure_shading,
    measure_turning,
)
from trellis2_server.engines.preview.silhouette import mask_field, triangulate
from trellis2_server.engines.preview.solid import heights
from trellis2_server.inputs.images import View
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.recorded import Recorded

SIZE = 56


def lit(inside: Array, height: Array, light: tuple[float, float, float], paint: Array) -> Array:
    """Return a picture of a surface under a lamp, RGBA uint8.

    Args:
        inside: 0 to 1.
        height: in pixels.
        light: where the lamp is: to the right, up, to the front.
        paint: colours, 0 to 1.
    """
    down, right = np.gradient(height)
    normal = np.stack([-right, down, np.ones_like(down)])
    normal /= np.linalg.norm(normal, axis=0)
    lamp = np.clip(np.tensordot(np.array(light) / np.linalg.norm(light), normal, 1), 0, 1)
    color = paint * (0.25 + 0.7 * lamp[..., None])
    return np.dstack([255 * color ** (1 / 2.2), 255 * inside]).round().astype(np.uint8)


def stripes(size: int, slant: float, *colors: tuple[float, float, float]) -> Array:
    x, y = grid(size)
    return np.array(colors)[((x + slant * y) // 9).astype(int) % len(colors)]


def ball() -> Array:
    x, y = grid(SIZE)
    height = np.sqrt(np.maximum(23**2 - (x - 28) ** 2 - (y - 27) ** 2, 0))
    return lit(disc(SIZE, 28, 27, 23), height, (-0.5, 0.6, 0.7), stripes(SIZE, 0, (0.6, 0.4, 0.3)))


def vase() -> Array:
    x, y = grid(SIZE)
    half = np.interp(y, [4, 12, 20, 36, 50, 52], [6, 5, 11, 19, 9, 9])
    inside = np.clip(half - abs(x - 27) + 0.5, 0, 1) * ((y > 4) & (y < 52))
    height = np.sqrt(np.maximum(half**2 - (x - 27) ** 2, 0))
    bands = stripes(SIZE, 9, (0.2, 0.3, 0.6), (0.8, 0.8, 0.7))
    return lit(inside, height, (-0.6, 0.4, 0.6), bands)


def leaning() -> Array:
    """Return a rod that leans, without light from a side, with a band."""
    x, y = grid(SIZE)
    across, along = (x - 28) * 0.8 - (y - 28) * 0.6, (x - 28) * 0.6 + (y - 28) * 0.8
    inside = np.clip(7.5 - abs(across), 0, 1) * np.clip(24.5 - abs(along), 0, 1)
    height = np.sqrt(np.maximum(7.5**2 - across**2, 0))
    paint = np.where((abs(along - 6) < 4)[..., None], (0.9, 0.1, 0.1), (0.3, 0.5, 0.2))
    return lit(inside, height, (0, 0.1, 1), paint)


def sign() -> Array:
    """Return a flat square with a painted cross and ring."""
    x, y = grid(SIZE)
    inside = (abs(x - 28) < 22) & (abs(y - 28) < 22)
    cross = (abs(x - 28) < 4) | (abs(y - 30) < 4)
    ring = abs(np.hypot(x - 28, y - 28) - 16) < 2
    paint = np.where(cross[..., None], (0.9, 0.9, 0.2), (0.1, 0.2, 0.5))
    paint = np.where(ring[..., None], (0.1, 0.1, 0.1), paint)
    return lit(inside.astype(float), np.zeros((SIZE, SIZE)), (0, 0, 1), paint)


def creature() -> Array:
    """Return a body with arms, a hole, a line across it, soft edges and loose specks."""
    x, y = grid(SIZE)
    body = np.maximum(disc(SIZE, 26, 20, 13), disc(SIZE, 29, 38, 15))
    arms = np.clip(2.2 - abs(y - 24 - 0.3 * abs(x - 28)), 0, 1) * (abs(x - 28) < 25)
    mask = np.maximum(body, arms) - disc(SIZE, 31, 41, 3.3)
    mask = np.clip(np.maximum(mask, disc(SIZE, 50, 50, 2.4)), 0, 1)
    mask[3, 3] = 1
    height = 3 * np.sqrt(np.maximum(mask, 0)) + np.sin(x / 4) + np.cos(y / 5)
    paint = np.where(
        (abs(y - 29) < 1)[..., None], (0.1, 0.1, 0.1), stripes(SIZE, 2, (0.7, 0.5, 0.4))
    )
    noise = np.random.default_rng(3).normal(0, 0.02, (SIZE, SIZE, 1))
    return lit(mask, height, (0.7, 0.2, 0.5), np.clip(paint + noise, 0, 1))


def glass() -> Array:
    """Return a pane in a frame."""
    picture = sign()
    x, y = grid(SIZE)
    pane = (abs(x - 28) < 15) & (abs(y - 28) < 15)
    picture[..., 3] = np.where(pane, 110 + 2 * x, picture[..., 3])
    return picture


PICTURES: dict[str, Callable[[], Array]] = {
    each.__name__: each for each in (ball, vase, leaning, sign, creature, glass)
}


@pytest.mark.parametrize("name", PICTURES)
def test_measures_and_relief(recorded: Recorded, name: str) -> None:
    # Twice as large: of smaller ones, too little is far from edges.
    large = Image.fromarray(PICTURES[name]()).resize((2 * SIZE, 2 * SIZE), Image.Resampling.BICUBIC)
    picture = np.array(large)
    field = mask_field(picture)
    mask = np.ascontiguousarray(field[2 : 2 * SIZE + 2, 2 : 2 * SIZE + 2])
    pixels = read_pixels(picture, mask)
    inside, balls = pixels.inside, depth.find_balls(pixels.alpha)
    outline, core = measure_outline(inside), find_core(inside)
    changes = find_changes(pixels, balls.distance)
    height = np.sqrt(np.maximum(balls.squared, 0))
    revolved = depth.revolve(inside, core)
    contours = relief.find_contours(pixels)
    base = depth.find_base(pixels, balls, None)
    bulges = [relief.find_bulges(contours, inside, length) for length in (2.5, 7)]
    recorded.check(
        field=field[::6, ::6],
        lightness=pixels.lightness[::6, ::6],
        hue=pixels.hue[:, ::6, ::6],
        balls=np.stack([balls.distance, balls.squared, balls.radius])[:, ::8, ::6],
        outline=astuple(outline),
        core=[core.axis, core.share, *core.width],
        changes=[changes.contrast, changes.sigma, changes.weight.mean(), changes.inside.sum()],
        slow=changes.slow[:, ::6, ::6],
        shading=astuple(measure_shading(changes, height)),
        shading_turned=astuple(measure_shading(changes, revolved)),
        turning=measure_turning(changes, core.axis, core.width),
        revolved=revolved[::6, ::8],
        contours=contours[::4, ::6],
        paint=relief.find_paint(pixels)[::6, ::6],
        unpainted=relief.unpainted(pixels)[::6, ::6],
        bulges=np.stack(bulges)[:, ::6, ::6],
        relief=relief.find_relief(pixels, balls.distance)[::6, ::6],
        form=["round", "revolution", "flat"].index(base.form),
        depth=base.depth,
        height=base.height[::6, ::6],
    )


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(("asked", "faces"), [(None, 300), (0.4, 4000)], ids=["auto", "thin"])
def test_heights(recorded: Recorded, name: str, asked: float | None, faces: int) -> None:
    picture = PICTURES[name]()
    field = mask_field(picture)
    mask = np.ascontiguousarray(field[2 : SIZE + 2, 2 : SIZE + 2])
    made = make_heightmap(picture, mask, asked, faces)
    cells = cell_sizes(made, len(field) - 1)
    points, triangles, outline = triangulate(field, faces, cells)
    places = points * (1, -1) - 1.5
    front, behind = heights(np.full(len(points), 5.0), outline, made, places)
    recorded.check(
        maps=np.stack([made.front, made.back, made.trust, made.curvature])[:, ::4, ::4],
        cells=cells[::3, ::3],
        points=points[::3],
        faces=triangles[::5],
        outline=outline[::3],
        heights=np.stack([front, behind])[:, ::3],
    )


@pytest.mark.parametrize("name", ["vase", "creature", "glass"])
@pytest.mark.parametrize("size", [32, 58], ids=["coarse", "fine"])
def test_colours(recorded: Recorded, name: str, size: int) -> None:
    made = sheets.sheets(PICTURES[name](), size, "mirror", has_alpha=True)
    assert (made.opacity is not None) == (name == "glass")
    recorded.check(
        front=made.front[::2, ::2],
        distance=made.distance[::2, ::2],
        opacity=0 if made.opacity is None else made.opacity[::2, ::2],
    )


def test_a_hole_is_continued_and_grown(recorded: Recorded) -> None:
    picture = stripes(48, 0.4, (0.9, 0.3, 0.1), (0.2, 0.8, 0.4), (0.1, 0.1, 0.7)).astype(np.float32)
    x, y = grid(48)
    distance = np.clip(22 - np.hypot(x - 24, y - 23), 0, None).astype(np.float32)
    hole = ((abs(x - 22) < 7) & (abs(y - 25) < 4)).astype(np.uint8)
    patches = np.full((12, 12, 2), -1, np.int32)
    patches[3:7, 4:8] = np.random.default_rng(1).integers(0, 12, (4, 4, 2))
    doubled = filling._doubled(patches)
    voted = filling._voted(picture[::2, ::2].copy(), hole[::2, ::2].copy(), doubled)
    recorded.check(
        continued=filling._continued(picture, hole, distance)[::2, ::2],
        all_are_lines=filling._continued(picture, hole, np.minimum(distance, 3))[::2, ::2],
        sources=filling._sources(hole, distance),
        narrow=filling._sources(hole, np.minimum(distance, 3)),
        grown=[filling._grown(hole, by).sum() for by in (1, 2, 5)],
        doubled=doubled,
        voted=voted[::2, ::2],
    )


def test_decisions(recorded: Recorded) -> None:
    random = np.random.default_rng(7)
    found = []
    for _ in range(400):
        share, near = random.random(5), random.uniform(0.8, 1.0, 4)
        outline = Outline(near[0], near[1], near[2], 2 * share[0], 50)
        core = Core(20, np.ones(3, np.float32), near[3] - 0.15 * (share[1] < 0.5))
        shading, turned = (
            Shading(0.05 * share[2], 0.04 * random.random(), random.random()) for _ in range(2)
        )
        found.append([
            depth.flatness(outline, shading),
            depth.may_turn(outline, core),
            depth.fits_turned(outline, core, shading, turned, 0.7 + 0.3 * share[3]),
            shading.evidence,
        ])  # fmt: skip
    recorded.check(found=np.array(found, np.float64))


def faces_of(x: float, y: float, apart: float, radius: float, aside: float = 0) -> Array:
    """Return a drawn face: eyes, a nose and a mouth, of 384 pixels."""
    image = Image.new("RGBA", (384, 384))
    draw = ImageDraw.Draw(image)
    draw.ellipse((24, 14, 360, 372), fill=(225, 180, 150, 255))
    for side in (-0.5, 0.5):
        u, v = x + side * apart, y + side * aside
        draw.ellipse((u - radius, v - radius, u + radius, v + radius), fill=(40, 30, 30, 255))
    draw.ellipse((x - 5, y + 0.5 * apart, x + 5, y + 0.6 * apart), fill=(180, 120, 110, 255))
    draw.arc((x - 0.4 * apart, y, x + 0.4 * apart, y + apart), 30, 150, (120, 40, 40, 255), 7)
    return np.array(image)


FACES = {
    "small": (190, 150, 70, 4, 0),
    "middle": (196, 160, 110, 9, 4),
    "large": (188, 150, 150, 17, -9),
    "larger": (192, 170, 140, 24, 0),
    "aside": (130, 170, 90, 10, 0),
    "low": (192, 225, 100, 10, 0),
}


@pytest.mark.parametrize("name", FACES)
def test_spots_and_faces(recorded: Recorded, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pairs: list[tuple[float, ...]] = []
    spots: list[tuple[float, ...]] = []
    find_pairs, find_spots = face._pairs, face._spots

    def spied_pairs(*arguments: Any) -> Iterator[tuple[float, float, float, float]]:
        for pair in find_pairs(*arguments):
            pairs.append(pair)
            yield pair

    def spied_spots(light: Array, mask: Array, radius: float) -> list[tuple[float, int, int]]:
        found = find_spots(light, mask, radius)
        # By their place: which of two that are alike is stronger depends on the processor.
        spots.extend([(radius, y, x, strength) for strength, y, x in found])
        return found

    monkeypatch.setattr(face, "_pairs", spied_pairs)
    monkeypatch.setattr(face, "_spots", spied_spots)
    found = face.find_face(faces_of(*FACES[name]))
    recorded.check(
        pairs=np.array(pairs, np.float64).reshape(-1, 4),
        spots=np.array(sorted(spots), np.float64),
        face=(0, 0, 0) if found is None else found,
    )


def balls_of_voxels() -> VoxelField:
    """Return the surface of an egg and a smaller ball, 32 voxels along an edge, grey."""
    at = np.argwhere(np.ones((32, 32, 32))) + 0.5
    egg = np.linalg.norm((at - (15, 16, 17)) / (9, 12, 11), axis=1)
    other = np.linalg.norm((at - (25, 20, 10)) / 4, axis=1)
    chosen = (abs(egg - 1) < 0.09) | (abs(other - 1) < 0.25)
    coords = np.floor(at[chosen]).astype(np.int32)
    return VoxelField(coords, np.full((len(coords), 6), 0.5, np.float32), resolution=32)


def test_pictures_of_all_sides(recorded: Recorded) -> None:
    x, y = grid(40)
    color = np.stack([6 * x, 6 * y, 255 - 3 * x - 3 * y], -1).astype(np.uint8)
    masks = {
        "front": disc(40, 20, 20, 16),
        "left": np.maximum(disc(40, 19, 17, 14), disc(40, 24, 27, 6)),
        "back": np.maximum(disc(40, 22, 17, 13), disc(40, 9, 27, 5)),
        "right": disc(40, 20, 18, 15),
    }
    every = [View(cutout(mask, color).rgba, side) for side, mask in masks.items()]  # type: ignore[arg-type]
    front = cutout(masks["front"], color)
    given = type(front)(rgba=front.rgba, background="alpha", views=tuple(every))
    field = views.paint_views(balls_of_voxels(), given)
    assert field.warnings == ()
    random = np.random.default_rng(2)
    points = random.uniform(-0.4, 0.4, (200, 3)).astype(np.float32)
    bounded = views.bound_depth(Mesh(points, np.zeros((0, 3), np.int32)), given, 0.9)
    bins = np.linspace(0.0, 10.0, 11)
    at = np.array([-1.0, 0.2, 0.9, 4.0, 4.1, 7.5, 9.99, 12.0], np.float32)
    values = np.array([9.0, 3.0, 4.0, 5.0, 1.0, 2.0, 6.0, 8.0], np.float32)
    recorded.check(
        attributes=field.attributes[::3],
        facing=views._facing(np.round(10 * np.cos(x / 9) * np.sin(y / 7)).astype(np.int32)),
        bounded=bounded.vertices,
        envelope=views._envelope(at, values, bins),
        depths=[views._depths(view.rgba) for view in every],
    )


@pytest.mark.parametrize("back", ["mirror", "fill"])
def test_a_mesh_that_is_coloured(recorded: Recorded, back: Any) -> None:
    random = np.random.default_rng(6)
    vertices = random.uniform(-0.45, 0.4, (30, 3)).astype(np.float32)
    faces = random.integers(0, 30, (25, 3)).astype(np.int32)
    steps: list[tuple[str, int, int]] = []
    field = project(
        Mesh(vertices, faces), cutout(disc(SIZE, 28, 27, 23), ball()[..., :3]), 24, back, 0.7,
        lambda *step: steps.append(step),
    )  # fmt: skip
    assert steps == [("colours", 0, 3), *(("voxels", step, 3) for step in (1, 2, 3))]
    attributes = field.attributes
    recorded.check(
        coords=field.coords[::5],
        attributes=attributes[::5] if back == "mirror" else attributes.mean(axis=0),
    )


def test_widened(recorded: Recorded) -> None:
    values = np.random.default_rng(9).random((5, 6))
    chosen = [(axis, choose) for axis in (0, 1) for choose in (np.minimum, np.maximum)]
    recorded.check(found=np.stack([sheets.widened(values, *each) for each in chosen]))
    assert voxels.widened is sheets.widened
