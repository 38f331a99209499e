from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image

from trellis2_server.client.drawing import axes_of, draw, draw_thumbnail, load_glb
from trellis2_server.client.drawing.camera import frame_of
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


# ---- transparency, thumbnails --------------------------------------------------------------


def plain(**changes: object) -> DrawnModel:
    """The square in one colour, alpha 100."""
    model = square(double_sided=False)
    color = np.array([[[250, 100, 0, 100]]], np.uint8)
    return replace(model, base_color=color, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("mode", "cutoff", "shading", "is_seen"),
    [
        ("OPAQUE", 0.5, "unlit", True),
        ("MASK", 0.5, "unlit", False),
        ("MASK", 100 / 255, "unlit", True),
        ("MASK", 101 / 255, "unlit", False),
        ("MASK", 0.5, "clay", True),
        ("BLEND", 0.5, "unlit", True),
    ],
)
def test_only_what_a_mask_cuts_off_is_transparent(
    mode: str,
    cutoff: float,
    shading: str,
    is_seen: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    model = plain(alpha_mode=mode, alpha_cutoff=cutoff)
    shown = draw_model(model, size_px=16, view="front", shading=shading)  # pyright: ignore[reportArgumentType]
    assert shown[8, 8, 3] == (255 if is_seen else 0)
    if is_seen and shading == "unlit":
        assert shown[8, 8].tolist() == [250, 100, 0, 255]


def test_a_pixel_that_is_half_covered_has_the_full_colour_and_half_the_alpha() -> None:
    shown = draw_model(plain(), size_px=8, view="front", shading="unlit", frame=(0, 0, 16 / 6))
    assert shown[1:7, 1:7].tolist() == np.full((6, 6, 4), [250, 100, 0, 255]).tolist()
    half = draw_model(plain(), size_px=8, view="front", shading="unlit", frame=(0.125, 0, 2))
    assert half[4, 7].tolist() == [250, 100, 0, 128]
    assert half[4, 6].tolist() == [250, 100, 0, 255]


def test_the_default_frame_is_that_of_the_model() -> None:
    model = plain()
    frame = frame_of(model.positions, axes_of("front"))
    framed = draw_model(model, size_px=32, view="front", frame=frame)
    assert draw_model(model, size_px=32).tolist() == framed.tolist()


def ball() -> bytes:
    mesh = trimesh.creation.icosphere(subdivisions=1)
    mesh.apply_translation([1.0, 3.0, -0.5])
    content = mesh.export(file_type="glb")
    assert isinstance(content, bytes)
    return content


def test_a_glb_is_drawn_as_its_model() -> None:
    content = ball()
    model = load_glb(content)
    shown = draw(content, size_px=24, view="top", shading="clay")
    assert shown.tolist() == draw_model(model, size_px=24, view="top", shading="clay").tolist()


def test_a_thumbnail_has_the_model_on_a_ground_that_is_darker_at_its_corners() -> None:
    content = ball()
    with Image.open(io.BytesIO(draw_thumbnail(content, size_px=60))) as opened:
        assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (60, 60))
        shown = np.asarray(opened).astype(int)
    axes = axes_of((32.0, 18.0))
    model = load_glb(content)
    x, y, edge = frame_of(model.positions, axes)
    ball_alone = draw_model(
        model, size_px=60, view=(32.0, 18.0), shading="clay", frame=(x, y, edge * 1.12)
    )
    row, column = np.mgrid[:60, :60]
    distance = np.sqrt((row - 30.0) ** 2 + (column - 30.0) ** 2) / 60
    ground = 246 - 44 * np.minimum(distance / 0.7, 1) ** 2
    alpha = ball_alone[..., 3] / 255
    wanted = ball_alone[..., :3] * alpha[..., None] + (ground * (1 - alpha))[..., None]
    assert np.abs(shown - wanted).max() < 0.51 + 1e-3
    assert shown[0, 0, 0] == 202


def test_a_thumbnail_of_a_textured_model_has_its_colours() -> None:
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (2, 2), (250, 0, 0)), doubleSided=True
    )
    mesh = trimesh.creation.icosphere(subdivisions=1)
    uvs = np.full((len(mesh.vertices), 2), 0.5)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
    content = mesh.export(file_type="glb")
    assert isinstance(content, bytes)
    with Image.open(io.BytesIO(draw_thumbnail(content, size_px=16))) as opened:
        red, green, blue = opened.getpixel((8, 8))  # pyright: ignore[reportGeneralTypeIssues]
    assert red > 150
    assert green == blue == 0
