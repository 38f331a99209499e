"""Normal maps in pictures: a surface that a map tilts looks like one that is tilted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import shapes
from trellis2_server import export
from trellis2_server.drawing import DrawnModel, draw, draw_model, load_glb, make_texture

CORNERS = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
#: Texture coordinates of the corners: upright; turned by a quarter; mirrored to the side; as a
#: chart of another size.
UPRIGHT = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
LAYOUTS = {
    "upright": UPRIGHT,
    "turned": np.roll(UPRIGHT, 1, axis=0),
    "mirrored": UPRIGHT * (-1, 1) + (1, 0),
    "small": UPRIGHT * 0.25 + 0.5,
}
#: Where the image's right and up point in the model.
RIGHT_AND_UP = {
    "upright": ((1, 0, 0), (0, 1, 0)),
    "turned": ((0, 1, 0), (-1, 0, 0)),
    "mirrored": ((-1, 0, 0), (0, 1, 0)),
    "small": ((1, 0, 0), (0, 1, 0)),
}


def square(normal: Any, uvs: Any, pixel: tuple[int, int, int] | None, scale: float) -> DrawnModel:
    """A red square that faces +Z, with one normal and a map of one colour."""
    normals = None if pixel is None else Image.new("RGB", (8, 8), pixel)
    base = Image.new("RGBA", (8, 8), (200, 40, 40, 255))
    return DrawnModel(
        positions=CORNERS,
        faces=FACES,
        normals=np.tile(np.asarray(normal, np.float32), (4, 1)),
        normal_faces=FACES,
        uvs=np.asarray(uvs, np.float32),
        uv_faces=FACES,
        texture=make_texture(base, None, (1, 1, 1, 1), 0, 0.6, None, 1.0, normals, scale),
        is_textured=True,
        alpha_mode="OPAQUE",
        alpha_cutoff=0.5,
        double_sided=False,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("pixel", "scale", "tilt"),
    [
        ((128, 128, 255), 1.0, (0.0, 0.0, 1.0)),
        ((218, 128, 218), 1.0, (1.0, 0.0, 1.0)),
        ((128, 218, 218), 1.0, (0.0, 1.0, 1.0)),
        ((64, 64, 218), 1.0, (-0.7, -0.7, 1.0)),
        ((173, 128, 218), 2.0, (1.0, 0.0, 1.0)),
    ],
)
def test_a_map_tilts_the_surface_in_the_frame_of_its_chart(
    layout: str, pixel: tuple[int, int, int], scale: float, tilt: tuple[float, float, float]
) -> None:
    right, up = (np.array(each, float) for each in RIGHT_AND_UP[layout])
    tilted = tilt[0] * right + tilt[1] * up + tilt[2] * np.array([0, 0, 1.0])
    wanted = square(tilted / np.linalg.norm(tilted), LAYOUTS[layout], None, 1.0)
    mapped = square((0, 0, 1), LAYOUTS[layout], pixel, scale)
    one, other = (draw_model(model, size_px=16).astype(int) for model in (wanted, mapped))
    assert np.abs(one - other).max() <= 2
    flat = draw_model(square((0, 0, 1), LAYOUTS[layout], None, 1.0), size_px=16).astype(int)
    assert (np.abs(one - flat).max() > 3) == (pixel != (128, 128, 255))


def test_a_face_without_an_area_in_the_texture_keeps_its_normal() -> None:
    nowhere = np.full((4, 2), 0.5, np.float32)
    mapped, plain = (square((0, 0, 1), nowhere, pixel, 1.0) for pixel in ((218, 128, 218), None))
    assert (draw_model(mapped, size_px=16) == draw_model(plain, size_px=16)).all()


def test_a_map_turns_with_the_back_of_a_double_sided_face() -> None:
    """Seen from behind, the bump that a map shows is a dent, as on a thin sheet."""
    mapped = replace(square((0, 0, 1), UPRIGHT, (128, 218, 218), 1.0), double_sided=True)
    tilted = replace(square((0, 0.7071, -0.7071), UPRIGHT, None, 1.0), double_sided=True)
    one, other = (
        draw_model(model, size_px=16, view="back").astype(int) for model in (mapped, tilted)
    )
    assert np.abs(one - other).max() <= 2


@pytest.mark.costly
def test_a_thumbnail_of_few_faces_with_a_map_looks_like_the_full_surface() -> None:
    ball = shapes.sphere(96)
    x, y, z = ball.vertices.T.astype(np.float64)
    bumps = 1 + 0.02 * np.sin(40 * x) * np.sin(40 * y + 1) * np.cos(40 * z)
    full = type(ball)((ball.vertices * bumps[:, None]).astype(np.float32), ball.faces)
    few = export.prepare(full, decimation_target=1_500)
    field = shapes.field()
    files = [
        export.textured_glb(mesh, field, original=full, texture_size=512, normal_map=has_map)
        for mesh, has_map in ((full, False), (few, False), (few, True))
    ]
    assert load_glb(files[2]).texture.shape[2] == 10
    reference, plain, mapped = (draw(glb, size_px=96).astype(float) for glb in files)
    is_inside = (reference[..., 3] == 255) & (plain[..., 3] == 255)
    far, near = (np.abs(each - reference)[is_inside].mean() for each in (plain, mapped))
    assert near < 0.5 * far
