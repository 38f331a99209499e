"""The renderer for results, on hand-made GLBs."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from bench.render import front_view_match, turntable
from trellis2_server.drawing import DrawingError, draw, load_glb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ROOT = Path(__file__).parents[2]
# Corners of a face toward +Z, counter-clockwise, with an upright texture.
CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2
CORNER_UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
QUAD = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)


def pack(
    positions: Array,
    uvs: Array,
    faces: Array,
    picture: Array,
    *,
    node: dict[str, Any] | None = None,
    **material: Any,
) -> bytes:
    """Return a GLB with one textured mesh."""
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    arrays = [
        np.ascontiguousarray(positions, "<f4"),
        np.ascontiguousarray(uvs, "<f4"),
        np.ascontiguousarray(faces, "<u4"),
    ]
    blob, views = b"", []
    for chunk in (*(array.tobytes() for array in arrays), png.getvalue()):
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(chunk)})
        blob += chunk + b"\0" * (-len(chunk) % 4)
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, **(node or {})}],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}
                ]
            }
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(arrays[0]), "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": len(arrays[1]), "type": "VEC2"},
            {"bufferView": 2, "componentType": 5125, "count": arrays[2].size, "type": "SCALAR"},
        ],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, **material}],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 3, "mimeType": "image/png"}],
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    body += struct.pack("<II", len(blob), 0x004E4942) + blob
    return struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body


def quad(picture: Array, *, depth: float = 0.0, width: float = 1.0, **changes: Any) -> bytes:
    positions = np.column_stack([CORNERS * [width, 1], np.full(4, depth)])
    return pack(positions, CORNER_UVS, QUAD, picture, **changes)


def noise(size: int = 256) -> Array:
    coarse = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def opaque(picture: Array) -> Array:
    return np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])


def plain(rgb: tuple[int, int, int]) -> Array:
    return np.full((4, 4, 3), rgb, np.uint8)


def test_a_face_toward_the_camera_shows_its_texture_upright_and_not_mirrored() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16, :16], picture[:16, 16:] = (255, 0, 0), (0, 255, 0)
    picture[16:, :16], picture[16:, 16:] = (0, 0, 255), (255, 255, 255)
    shown = draw(quad(picture), size_px=64, shading="unlit")
    assert (shown[8, 8, :3] == [255, 0, 0]).all()
    assert (shown[8, 55, :3] == [0, 255, 0]).all()
    assert (shown[55, 8, :3] == [0, 0, 255]).all()
    assert (shown[55, 55] == 255).all()


@pytest.mark.costly("rendered")
def test_the_front_view_of_a_picture_on_a_square_matches_the_picture() -> None:
    picture = noise()
    psnr_db, iou = front_view_match(quad(picture), opaque(picture))
    assert psnr_db > 35
    assert iou == 1.0


@pytest.mark.costly("rendered")
def test_a_mirrored_picture_does_not_match() -> None:
    picture = noise()
    psnr_db, _ = front_view_match(quad(picture[:, ::-1]), opaque(picture))
    assert psnr_db < 20


@pytest.mark.costly
def test_the_iou_of_an_object_of_half_the_width_is_a_half() -> None:
    picture = noise()
    _, iou = front_view_match(quad(picture, width=0.5), opaque(picture))
    assert iou == pytest.approx(0.5, abs=0.01)


@pytest.mark.costly
def test_the_object_is_found_in_a_frame_with_a_border_that_is_not_square() -> None:
    picture = noise()
    framed = np.zeros((300, 400, 4), np.uint8)
    framed[20 : 20 + 256, 100 : 100 + 256] = opaque(picture)
    psnr_db, iou = front_view_match(quad(picture), framed)
    assert psnr_db > 35
    assert iou > 0.99


def test_a_cut_out_without_an_object_is_an_error() -> None:
    with pytest.raises(ValueError, match="no object"):
        front_view_match(quad(noise()), np.zeros((32, 32, 4), np.uint8))


def test_the_nearer_face_hides_the_farther_one() -> None:
    both = np.concatenate([plain((255, 0, 0)), plain((0, 0, 255))], 1)
    positions = np.concatenate([np.column_stack([CORNERS, np.full(4, z)]) for z in (-0.2, 0.3)])
    uvs = np.concatenate([np.full((4, 2), (0.25, 0.5)), np.full((4, 2), (0.75, 0.5))])
    glb = pack(positions, uvs, np.concatenate([QUAD, QUAD + 4]), both)
    assert (draw(glb, size_px=32, shading="unlit")[16, 16, :3] == [0, 0, 255]).all()


def test_a_back_face_is_drawn_only_if_the_material_is_double_sided() -> None:
    picture = plain((9, 99, 199))
    assert draw(quad(picture), size_px=32, view="back")[..., 3].max() == 0
    shown = draw(quad(picture, doubleSided=True), size_px=32, view="back", shading="unlit")
    assert (shown[16, 16] == [9, 99, 199, 255]).all()


@pytest.mark.parametrize(
    ("view", "axis", "sign"),
    [
        ("front", 2, 1),
        ("back", 2, -1),
        ("right", 0, 1),
        ("left", 0, -1),
        ("top", 1, 1),
        ("bottom", 1, -1),
    ],
)
def test_a_view_shows_the_side_of_its_name(view: str, axis: int, sign: int) -> None:
    corners = np.array(
        [[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], np.float32
    )
    side = corners[corners[:, axis] == sign / 2]
    side = side[[0, 1, 3, 2]]
    normal = np.cross(side[1] - side[0], side[2] - side[0])
    if normal[axis] * sign < 0:
        side = side[::-1]
    glb = pack(side, CORNER_UVS, QUAD, plain((10, 200, 30)))
    assert (draw(glb, size_px=16, view=view, shading="unlit")[8, 8] == [10, 200, 30, 255]).all()
    opposite = {"front": "back", "right": "left", "top": "bottom"}
    other = opposite.get(view) or next(k for k, v in opposite.items() if v == view)
    assert draw(glb, size_px=16, view=other)[..., 3].max() == 0


def test_node_transforms_are_applied() -> None:
    turn = {"rotation": [0, 1, 0, 0], "scale": [2, 2, 2], "translation": [3, 0, 0]}
    glb = quad(plain((50, 60, 70)), node=turn)
    model = load_glb(glb)
    assert model.positions.min(0) == pytest.approx([2, -1, 0], abs=1e-6)
    assert model.positions.max(0) == pytest.approx([4, 1, 0], abs=1e-6)
    assert (draw(glb, size_px=16, view="back", shading="unlit")[8, 8, :3] == [50, 60, 70]).all()
    assert draw(glb, size_px=16)[..., 3].max() == 0


def test_the_base_colour_factor_multiplies_in_linear_light() -> None:
    pbr = {"baseColorTexture": {"index": 0}, "baseColorFactor": [0.5, 1, 1, 1]}
    model = load_glb(quad(plain((255, 255, 255)), pbrMetallicRoughness=pbr))
    assert (model.texture[0, 0, :4] == [188, 255, 255, 255]).all()


def test_a_masked_material_has_holes() -> None:
    picture = opaque(plain((255, 255, 255)))
    picture[:, 2:, 3] = 0
    shown = draw(quad(picture, alphaMode="MASK"), size_px=32, shading="unlit")
    assert shown[16, 6, 3] == 255
    assert shown[16, 26, 3] == 0


def test_the_lit_and_clay_pictures_are_darker_where_a_face_turns_away() -> None:
    glb = quad(plain((200, 200, 200)))
    facing = draw(glb, size_px=32, shading="clay")[16, 16, :3]
    turned = draw(glb, size_px=32, shading="clay", view=(80.0, 0.0))[16, 16, :3]
    assert (turned < facing).all()
    assert draw(glb, size_px=32, shading="lit")[16, 16, 3] == 255


def test_the_turntable_is_an_image_of_all_views() -> None:
    with Image.open(io.BytesIO(turntable(quad(noise()), 3, size_px=40))) as sheet:
        assert sheet.size == (120, 80)


@pytest.mark.parametrize("glb", [b"\0" * 40, b"glTF" + b"\1" * 40])
def test_a_file_that_is_not_a_glb_is_an_error(glb: bytes) -> None:
    with pytest.raises(DrawingError, match="GLB"):
        load_glb(glb)


@pytest.mark.costly("rendered")
def test_the_command_line_writes_an_image_and_prints_the_match(tmp_path: Path) -> None:
    picture = noise()
    (tmp_path / "model.glb").write_bytes(quad(picture))
    Image.fromarray(opaque(picture)).save(tmp_path / "cutout.png")
    command = [
        sys.executable,
        str(ROOT / "bench" / "render.py"),
        *("model.glb", "out.png", "--size", "64", "--match", "cutout.png"),
    ]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "IoU 1.000" in done.stdout
    with Image.open(tmp_path / "out.png") as shown:
        assert shown.size == (64, 64)
