from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.client.drawing.model import DrawnModel
from trellis2_server.client.drawing.picture import draw_model
from trellis2_server.client.drawing.rasterizer import rasterize

#: A square of two faces, seen from +Z.
CORNERS = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
#: Red, green, blue and grey texels, row by row.
TEXELS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [90, 90, 90]]], np.uint8)


def square(*, double_sided: bool) -> DrawnModel:
    return DrawnModel(
        positions=CORNERS,
        faces=FACES,
        normals=np.tile(np.float32([0, 0, 1]), (4, 1)),
        uvs=np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32),
        base_color=np.dstack([TEXELS, np.full((2, 2), 255, np.uint8)]),
        is_textured=True,
        alpha_mode="OPAQUE",
        alpha_cutoff=0.5,
        double_sided=double_sided,
    )


def test_a_double_sided_face_is_as_bright_from_behind() -> None:
    model = square(double_sided=True)
    front, back = (
        draw_model(model, size_px=64, view=view, shading="clay") for view in ("front", "back")
    )
    assert front[32, 32, 3] == 255
    assert back[32, 32].tolist() == front[32, 32].tolist()


def test_a_single_sided_face_is_not_seen_from_behind() -> None:
    model = square(double_sided=False)
    assert draw_model(model, size_px=64, view="front")[32, 32, 3] == 255
    assert not draw_model(model, size_px=64, view="back")[..., 3].any()


@pytest.mark.parametrize(("view", "is_turned"), [("front", False), ("back", True)])
def test_the_texture_is_the_right_way_up(view: str, *, is_turned: bool) -> None:
    picture = draw_model(square(double_sided=True), size_px=64, view=view, shading="unlit")
    quarters = picture[16:64:32, 16:64:32, :3].astype(int)
    wanted = TEXELS[:, ::-1] if is_turned else TEXELS
    # The texture is smoothed and repeated: each quarter's own colour is the strongest.
    assert np.abs(quarters - wanted.astype(int)).max() < 110


def test_a_face_covers_its_pixels_and_no_others() -> None:
    alpha = draw_model(square(double_sided=False), size_px=104, view="front")[..., 3]
    wanted = np.zeros((104, 104), np.uint8)
    wanted[2:102, 2:102] = 255  # the square, without the margin
    np.testing.assert_array_equal(alpha, wanted)


@pytest.mark.parametrize("seed", range(6))
def test_samples_inside_a_triangle_are_those_on_the_inner_side_of_its_edges(seed: int) -> None:
    n = 40
    points = np.random.default_rng(seed).uniform(-5, 45, (3, 3))
    y, x = np.mgrid[:n, :n] + 0.5
    following = np.roll(points, -1, axis=0)
    side = np.array(
        [
            (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
            for a, b in zip(points, following, strict=True)
        ]
    )
    wanted = (side > 0).all(0) | (side < 0).all(0)
    owner = rasterize(points, np.array([[0, 1, 2]], np.int32), n, cull=False)
    np.testing.assert_array_equal(owner.reshape(n, n) == 0, wanted)
