"""Faces are found in drawn ones, and not in objects with other spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trellis2_server.engines.preview.back import choose_back
from trellis2_server.engines.preview.face import find_face

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE = 384
SKIN, DARK = (225, 180, 150, 255), (30, 25, 25, 255)


def drawn(
    spots: Iterable[tuple[float, float]], radius: float = 14, color: Any = DARK
) -> np.ndarray[Any, Any]:
    """A disc with spots."""
    image = Image.new("RGBA", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 364, 364), fill=SKIN)
    for x, y in spots:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return np.array(image)


def test_two_eyes_are_a_face() -> None:
    face = find_face(drawn([(132, 150), (252, 150)]))
    assert face is not None
    assert (face.x, face.y) == pytest.approx((0.5, 150 / SIZE), abs=0.02)
    assert face.eyes == pytest.approx(120 / SIZE, abs=0.02)


def test_a_face_may_be_lit_from_one_side() -> None:
    picture = drawn([(132, 150), (252, 150)]).astype(np.float64)
    picture[..., :3] *= np.linspace(0.35, 1, SIZE)[None, :, None]
    assert find_face(picture.astype(np.uint8)) is not None


OTHERS = {
    "nothing": [],
    "one spot": [(192, 150)],
    "one above the other": [(192, 110), (192, 230)],
    "in the lower part": [(132, 320), (252, 320)],
    "at one side": [(70, 150), (120, 150)],
    "too near": [(180, 150), (206, 150)],
    "many": [(x, y) for x in range(90, 300, 42) for y in range(90, 300, 42)],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_spots_are_no_face(name: str) -> None:
    assert find_face(drawn(OTHERS[name])) is None


def test_bright_spots_are_no_eyes() -> None:
    assert find_face(drawn([(132, 150), (252, 150)], color=(255, 250, 240, 255))) is None


def test_spots_of_other_shades_are_no_pair() -> None:
    picture = drawn([(132, 150)])
    other = drawn([(252, 150)], color=(205, 165, 135, 255))
    picture[:, SIZE // 2 :] = other[:, SIZE // 2 :]
    assert find_face(picture) is None


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_picture_of_any_size_is_looked_at(size: int) -> None:
    assert find_face(np.full((size, size, 4), 255, np.uint8)) is None
    assert find_face(np.zeros((size, size, 4), np.uint8)) is None


def test_a_back_is_filled_where_there_is_a_face_unless_it_is_asked_otherwise() -> None:
    face, plain = drawn([(132, 150), (252, 150)]), drawn([])
    assert choose_back(face, "auto") == "fill"
    assert choose_back(plain, "auto") == "mirror"
    assert choose_back(face, "mirror") == "mirror"
    assert choose_back(plain, "fill") == "fill"


def test_a_plate_has_its_face_on_both_sides() -> None:
    face = drawn([(132, 150), (252, 150)])
    assert choose_back(face, "auto", 0.5) == "fill"
    assert choose_back(face, "auto", 0.49) == "mirror"
    assert choose_back(face, "fill", 0.0) == "fill"
