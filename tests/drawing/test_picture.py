from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from trellis2_server.drawing import (
    FRAMES,
    NUMPY_LOOPS,
    DrawingError,
    axes_of,
    draw,
    draw_model,
    draw_thumbnail,
    draw_turntable,
    load_glb,
)
from trellis2_server.drawing.camera import frame_of
from trellis2_server.drawing.color import encode_srgb
from trellis2_server.drawing.model import DrawnModel
from trellis2_server.drawing.rasterizer import rasterize

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
        normal_faces=FACES,
        uvs=np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32),
        uv_faces=FACES,
        texture=np.dstack([TEXELS, np.full((2, 2, 4), (255, 0, 255, 255), np.uint8)]),
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


def test_occlusion_dims_the_light_of_the_surroundings_only() -> None:
    model = square(double_sided=False)
    texture = model.texture.copy()
    texture[..., 6] = 0
    occluded = replace(model, texture=texture)
    for shading, lowest, highest in (("lit", 0.6, 0.97), ("unlit", 1.0, 1.0)):
        bright, dim = (
            draw_model(each, size_px=16, shading=shading)[..., :3].astype(float).mean()
            for each in (model, occluded)
        )
        assert lowest <= dim / bright <= highest


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
    owner, _ = rasterize(points, np.array([[0, 1, 2]], np.int32), n, cull=False)
    np.testing.assert_array_equal(owner.reshape(n, n) == 0, wanted)


# ---- transparency, samples, thumbnails ------------------------------------------------------


def plain(**changes: object) -> DrawnModel:
    """The square in one colour, alpha 100."""
    model = square(double_sided=False)
    color = np.array([[[250, 100, 0, 100, 0, 255, 255]]], np.uint8)
    return replace(model, texture=color, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("mode", "cutoff", "shading", "alpha"),
    [
        ("OPAQUE", 0.5, "unlit", 255),
        ("MASK", 0.5, "unlit", 0),
        ("MASK", 100 / 255, "unlit", 255),
        ("MASK", 101 / 255, "unlit", 0),
        ("MASK", 0.5, "clay", 255),
        ("BLEND", 0.5, "unlit", 100),
        ("BLEND", 0.5, "clay", 255),
    ],
)
def test_a_material_is_as_transparent_as_it_says(
    mode: str, cutoff: float, shading: str, alpha: int
) -> None:
    model = plain(alpha_mode=mode, alpha_cutoff=cutoff)
    how: Any = shading
    shown = draw_model(model, size_px=16, view="front", shading=how)
    assert shown[8, 8, 3] == alpha
    if shading == "unlit":
        assert shown[8, 8, :3].tolist() == ([250, 100, 0] if alpha else [0, 0, 0])


def layers(mode: str, *alphas: int) -> DrawnModel:
    """Squares of these alphas behind each other, the first in front; red, green, blue."""
    squares = [CORNERS + np.float32([0, 0, -k]) for k in range(len(alphas))]
    faces = np.concatenate([FACES + 4 * k for k in range(len(alphas))]).astype(np.int32)
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 10
    texture = np.array(
        [[[*color, alpha, 0, 255, 255] for color, alpha in zip(colors, alphas, strict=False)]],
        np.uint8,
    )
    u = (np.arange(len(alphas)) + 0.5) / len(alphas)
    return replace(
        square(double_sided=False),
        positions=np.concatenate(squares),
        faces=faces[::-1].copy(),  # nearer faces are not drawn first
        normal_faces=np.zeros_like(faces),
        uvs=np.column_stack([u, np.full(len(u), 0.5)]).astype(np.float32),
        uv_faces=(faces[::-1] // 4).copy(),
        texture=texture,
        alpha_mode=mode,
    )


def test_through_the_holes_of_a_mask_the_surface_behind_is_seen() -> None:
    shown = draw_model(layers("MASK", 0, 0, 255), size_px=8, shading="unlit")
    assert shown[4, 4].tolist() == [0, 0, 255, 255]
    shown = draw_model(layers("MASK", 0, 255, 255), size_px=8, shading="unlit")
    assert shown[4, 4].tolist() == [0, 255, 0, 255]
    assert not draw_model(layers("MASK", 0, 0), size_px=8, shading="unlit").any()


def test_light_from_behind_comes_through_a_transparent_surface() -> None:
    shown = draw_model(layers("BLEND", 128, 64), size_px=8, shading="unlit")[4, 4]
    first, second = 128 / 255, (1 - 128 / 255) * 64 / 255
    assert shown[3] == pytest.approx(255 * (first + second), abs=0.51)
    wanted = encode_srgb(np.array([first, second, 0]) / (first + second))
    assert shown[:3] == pytest.approx(255 * wanted, abs=0.51)


def test_more_surfaces_than_are_worth_drawing_end() -> None:
    shown = draw_model(layers("BLEND", *[20] * 30), size_px=4, shading="unlit")[2, 2]
    assert shown[3] == pytest.approx(255 * (1 - (1 - 20 / 255) ** 16), abs=1)


def test_a_pixel_that_is_half_covered_has_the_full_colour_and_half_the_alpha() -> None:
    opaque = plain()
    shown = draw_model(opaque, size_px=8, view="front", shading="unlit", frame=(0, 0, 16 / 6))
    assert shown[1:7, 1:7].tolist() == np.full((6, 6, 4), [250, 100, 0, 255]).tolist()
    half = draw_model(opaque, size_px=8, view="front", shading="unlit", frame=(0.125, 0, 2))
    assert half[4, 7].tolist() == [250, 100, 0, 128]
    assert half[4, 6].tolist() == [250, 100, 0, 255]


@pytest.mark.costly
@pytest.mark.parametrize(("size", "samples"), [(320, 4), (321, 3), (640, 3), (641, 2)])
def test_a_smaller_picture_has_more_samples_in_a_pixel(size: int, samples: int) -> None:
    counted: list[int] = []

    def counting(*arguments: Any, **named: Any) -> Any:
        counted.append(arguments[2])
        return NUMPY_LOOPS.rasterize(*arguments, **named)

    loops = NUMPY_LOOPS._replace(rasterize=counting)
    draw_model(plain(), size_px=size, shading="unlit", loops=loops)
    assert counted == [size * samples]


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


def test_a_thumbnail_is_a_three_quarter_view_on_a_transparent_ground() -> None:
    model = load_glb(ball())
    with Image.open(io.BytesIO(draw_thumbnail(model, size_px=60))) as opened:
        assert (opened.format, opened.mode, opened.size) == ("PNG", "RGBA", (60, 60))
        shown = np.asarray(opened)
    wanted = draw_model(model, size_px=60, view=(32.0, 18.0), shading="clay")
    assert shown.tolist() == wanted.tolist()
    assert shown[0, 0].tolist() == [0, 0, 0, 0]
    back = draw_thumbnail(model, size_px=60, view="back")
    with Image.open(io.BytesIO(back)) as opened:
        wanted = draw_model(model, size_px=60, view="back", shading="clay")
        assert np.asarray(opened).tolist() == wanted.tolist()


def red_ball() -> DrawnModel:
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (2, 2), (250, 0, 0)),
        metallicFactor=0.0,
        doubleSided=True,
    )
    mesh = trimesh.creation.icosphere(subdivisions=1)
    uvs = np.full((len(mesh.vertices), 2), 0.5)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
    content = mesh.export(file_type="glb")
    assert isinstance(content, bytes)
    return load_glb(content)


def test_a_thumbnail_of_a_textured_model_has_its_colours() -> None:
    with Image.open(io.BytesIO(draw_thumbnail(red_ball(), size_px=16))) as opened:
        red, green, blue, alpha = opened.getpixel((8, 8))  # pyright: ignore[reportGeneralTypeIssues]
    assert red > 150
    assert green == blue < 80
    assert alpha == 255


# ---- turntables ------------------------------------------------------------------------------


def sheet() -> DrawnModel:
    """A square far from the origin."""
    moved = CORNERS + np.float32([7, -3, 5])
    return replace(square(double_sided=True), positions=moved)


def test_a_turntable_shows_the_model_from_all_sides_and_stays_in_the_frame() -> None:
    done: list[int] = []
    content = draw_turntable(sheet(), size_px=40, on_frame=done.append)
    assert done == list(range(1, FRAMES + 1))
    with Image.open(io.BytesIO(content)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (40, 40))
        frames: list[Any] = []
        for frame in range(getattr(opened, "n_frames", 1)):
            opened.seek(frame)
            frames.append(np.asarray(opened.convert("RGBA")))
            assert opened.info["loop"] == 0
    assert len(frames) == FRAMES == 24
    covered = np.array([(frame[..., 3] > 128).mean() for frame in frames])
    wanted = np.abs(np.cos(np.radians(32 + 15 * np.arange(FRAMES))))
    assert covered == pytest.approx(covered.max() * wanted, abs=0.1)
    assert covered.max() > 0.5
    assert not any(frame[[0, -1]][..., 3].any() for frame in frames)


def test_the_first_picture_of_a_turntable_is_seen_as_a_thumbnail_is() -> None:
    content = draw_turntable(red_ball(), size_px=48)
    with Image.open(io.BytesIO(content)) as opened:
        first = np.asarray(opened.convert("RGBA")).astype(int)
    wanted = draw_model(red_ball(), size_px=48, view="three_quarter").astype(int)
    assert np.abs(first - wanted)[16:32, 16:32].max() < 30


def test_what_is_called_after_a_frame_can_end_a_turntable() -> None:
    def stop(frame: int) -> None:
        if frame == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw_turntable(plain(), size_px=8, on_frame=stop)


def test_without_webp_a_turntable_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.SAVE_ALL, "WEBP")
    with pytest.raises(DrawingError, match="WebP"):
        draw_turntable(plain(), size_px=8)
