from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.preview import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    Request,
    cutout,
    disc,
    front_faces,
    grid,
    made,
    sample,
    samples,
)
from trellis2_server.inputs.images import Cutout
from trellis2_server.mesh import ALPHA, BASE_COLOR

if TYPE_CHECKING:
    from tests.support.preview import Array
    from trellis2_server.engines.preview import PreviewEngine


def test_the_front_has_the_colours_of_the_picture_in_place(engine: PreviewEngine) -> None:
    color = np.zeros((256, 256, 3), np.uint8)
    color[:128, :128], color[:128, 128:] = RED, GREEN
    color[128:, :128], color[128:, 128:] = BLUE, WHITE
    shape, field = made(engine, cutout(disc(256, 128, 128, 120), color))
    points = samples(shape.mesh, front_faces(shape))
    points = points[(abs(points[:, [0, 2]]) > 0.02).all(1)]
    got = sample(field, points)[:, BASE_COLOR] * 255
    pixel = np.floor(np.column_stack([0.5 - points[:, 2], points[:, 0] + 0.5]) * 256).astype(int)
    error = abs(got - color[pixel[:, 0], pixel[:, 1]]).max(1)
    assert error.max() < 10
    assert error[np.hypot(points[:, 0], points[:, 2]) < 0.45].max() < 2


def test_the_background_does_not_bleed_into_the_outline(engine: PreviewEngine) -> None:
    mask = disc(256, 128, 128, 120)
    color = np.rint(mask[..., None] * RED + (1 - mask[..., None]) * np.array(GREEN))
    shape, field = made(engine, cutout(mask, color.astype(np.uint8)))
    got = sample(field, samples(shape.mesh, shape.mesh.faces))[:, BASE_COLOR] * 255
    assert abs(got - np.array(RED)).max() < 0.04 * 180 + 1


def test_glass_keeps_its_own_colour_and_its_transparency(engine: PreviewEngine) -> None:
    mask = disc(256, 128, 128, 120)
    mask = np.where(mask == 1, 0.6, mask * 0.6)
    shape, field = made(engine, cutout(mask, BLUE))
    got = sample(field, samples(shape.mesh, shape.mesh.faces))
    assert abs(got[:, BASE_COLOR] * 255 - np.array(BLUE)).max() < 3
    # A pixel of the fringe counts if it is about as opaque as those beside it.
    assert got[:, ALPHA] == pytest.approx(0.6, abs=0.03)


def half_glass(alpha: float, share: float) -> Array:
    """A disc of which a share, from the left, is of another alpha."""
    mask = disc(256, 128, 128, 120)
    return np.where(grid(256)[0] < 8 + 240 * share, mask * alpha, mask)


def test_what_is_opaque_beside_glass_stays_opaque(engine: PreviewEngine) -> None:
    shape, field = made(engine, cutout(half_glass(0.6, 0.5), BLUE))
    points = samples(shape.mesh, shape.mesh.faces)
    alpha = sample(field, points)[:, ALPHA]
    assert alpha[points[:, 0] < -0.02] == pytest.approx(0.6, abs=0.02)
    assert (alpha[points[:, 0] > 0.02] == 1).all()


@pytest.mark.parametrize(
    ("alpha", "share", "is_glass"),
    [(0.94, 0.5, True), (0.98, 0.5, False), (0.6, 0.1, True), (0.6, 0.03, False)],
)
def test_noise_in_the_alpha_of_a_cutout_is_no_glass(
    engine: PreviewEngine, alpha: float, share: float, *, is_glass: bool
) -> None:
    _, field = made(engine, cutout(half_glass(alpha, share), BLUE))
    assert bool(field.attributes[:, ALPHA].min() < 1) is is_glass


def test_the_alpha_of_a_background_model_is_no_glass(engine: PreviewEngine) -> None:
    picture = Cutout(cutout(half_glass(0.6, 0.5), BLUE).rgba, "rembg")
    _, field = made(engine, picture)
    assert (field.attributes[:, ALPHA] == 1).all()


def test_a_mirrored_back_has_the_front_s_colours(engine: PreviewEngine) -> None:
    x, y = grid(256)
    check = ((x // 16 + y // 16) % 2)[..., None] * np.array(WHITE, np.uint8)
    requested = Request(texture_size=1024, back="mirror")
    shape, field = made(engine, cutout(disc(256, 128, 128, 120), check.astype(np.uint8)), requested)
    assert shape.details["back"] == "mirror"
    front = samples(shape.mesh, front_faces(shape))
    back = front * np.array([1, -1, 1])
    assert abs(sample(field, front) - sample(field, back)).max() < 1e-5


def test_a_filled_back_continues_the_front_at_the_outline_without_what_is_in_the_middle(
    engine: PreviewEngine,
) -> None:
    x, y = grid(256)
    check = ((x // 6 + y // 6) % 2)[..., None] * np.array(WHITE, np.uint8)
    check[np.hypot(x - 128, y - 128) < 80] = RED
    mask = disc(256, 128, 128, 125)
    requested = Request(texture_size=512, back="fill")
    shape, field = made(engine, cutout(mask, check.astype(np.uint8)), requested)
    assert shape.details["back"] == "fill"
    front = samples(shape.mesh, front_faces(shape))
    back = front * np.array([1, -1, 1])
    difference = abs(sample(field, front) - sample(field, back))[:, BASE_COLOR].max(1)
    radius = np.hypot(front[:, 0], front[:, 2])
    assert difference[radius > 0.44].max() < 0.02
    colors = sample(field, back)[radius < 0.2, BASE_COLOR]
    assert (abs(colors[:, 0] - colors[:, 1]) < 0.1).mean() > 0.98, "no red is left"
    assert colors[:, 0].std() > 0.2
