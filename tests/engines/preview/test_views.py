"""Pictures of the object's other sides: what they do to the preview's depth and colours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support import shapes
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.engines.preview.sheets import MARGIN_VOXELS
from trellis2_server.engines.preview.views import bound_depth, paint_views
from trellis2_server.inputs.images import Cutout, View
from trellis2_server.parameters import Options, read_options
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh, VoxelField

trimesh = pytest.importorskip("trimesh")

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 40), (40, 60, 220), (128, 128, 128)
SIZE = 200
OPTIONS: Options = read_options({"texture_size": 512, "decimation_target": 6000}, Settings())


def ellipse(width: int, colour: Any, half: Any = None) -> NDArray[np.uint8]:
    """An ellipse as high as the frame; its right half in another colour."""
    image = Image.new("RGBA", (SIZE, SIZE))
    box = ((SIZE - width) // 2, 0, (SIZE + width) // 2 - 1, SIZE - 1)
    ImageDraw.Draw(image).ellipse(box, fill=(*colour, 255))
    rgba = np.array(image)
    if half is not None:
        rgba[:, SIZE // 2 :, :3] = np.where(rgba[:, SIZE // 2 :, 3:] > 0, half, 0)
    return rgba


def cutout(**sides: NDArray[np.uint8]) -> Cutout:
    views = tuple(View(rgba, side) for side, rgba in sides.items())  # type: ignore[arg-type]
    return Cutout(sides["front"], "alpha", views=views if len(views) > 1 else ())


def silent(stage: str, step: int, steps: int) -> None:
    """Ignore a report."""


def make(given: Cutout) -> tuple[Mesh, VoxelField, tuple[str, ...]]:
    engine = PreviewEngine()
    shape = engine.shape(given, OPTIONS, silent)
    field = engine.texture(shape, given, OPTIONS, silent)
    return shape.mesh, field, (*shape.warnings, *field.warnings)


def colours_at(
    field: VoxelField, axis: int, sign: int, other: tuple[int, float] | None = None
) -> Any:
    """Mean colour, 0 … 255, of the outermost voxels near the middle in a direction."""
    centre = (field.coords + 0.5) / field.resolution - 0.5
    beside = [a for a in range(3) if a != axis]
    target = np.zeros(3)
    if other is not None:
        target[other[0]] = other[1]
    near = (np.abs(centre[:, beside] - target[beside]) < 0.03).all(axis=1)
    along = sign * centre[:, axis]
    rows = near & (along > along[near].max() - 2 / field.resolution)
    return field.attributes[rows, :3].mean(axis=0) * 255


def is_colour(found: Any, expected: Any) -> bool:
    return bool(np.abs(np.asarray(found) - expected).max() < 12)


def test_a_side_bounds_the_depth_at_every_height_and_the_mesh_stays_closed() -> None:
    front = ellipse(150, RED)
    round_, _, _ = make(cutout(front=front))
    for width in (40, 180):
        side = ellipse(width, GREEN)
        mesh, field, warnings = make(cutout(front=front, left=side))
        assert warnings == ()
        edge = 1 - 2 * MARGIN_VOXELS / field.resolution
        scale = edge / SIZE
        depth = mesh.vertices[:, 1].max() - mesh.vertices[:, 1].min()
        assert depth == pytest.approx(width * scale, rel=0.03)
        rows = np.clip(np.round(SIZE / 2 - mesh.vertices[:, 2] / scale - 0.5), 0, SIZE - 1)
        widths = (side[..., 3] > 127).sum(axis=1)[rows.astype(int)]
        assert (np.abs(mesh.vertices[:, 1]) <= (widths / 2 + 3) * scale).all()
        high = np.abs(mesh.vertices[:, 2]) > 0.4
        assert np.ptp(mesh.vertices[high, 1]) < 0.75 * depth
        assert np.allclose(mesh.vertices[:, [0, 2]], round_.vertices[:, [0, 2]])
        solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        assert solid.is_watertight
        assert solid.volume > 0


def test_of_two_sides_the_narrower_outline_counts() -> None:
    front = ellipse(150, RED)
    both = cutout(front=front, left=ellipse(120, GREEN), right=ellipse(60, GREEN))
    narrow = make(cutout(front=front, right=ellipse(60, GREEN)))[0]
    assert np.allclose(make(both)[0].vertices, narrow.vertices, atol=1e-3)


def test_without_a_picture_of_a_side_the_depth_is_the_engines() -> None:
    front = ellipse(150, RED)
    given = cutout(front=front, back=ellipse(150, BLUE))
    mesh = shapes.sphere(16)
    assert bound_depth(mesh, given, 1.0) is mesh
    assert np.array_equal(make(given)[0].vertices, make(cutout(front=front))[0].vertices)


def test_each_picture_is_on_its_side_and_not_mirrored() -> None:
    halves = {
        "front": ellipse(150, RED),
        "left": ellipse(120, GREEN, GREY),
        "back": ellipse(150, BLUE, GREEN),
        "right": ellipse(120, GREY, BLUE),
    }
    _, field, warnings = make(cutout(**halves))
    assert warnings == ()
    assert is_colour(colours_at(field, 1, -1), RED)
    # Seen from behind, the object's own left, +X, is on the left.
    assert is_colour(colours_at(field, 1, 1, (0, 0.08)), BLUE)
    assert is_colour(colours_at(field, 1, 1, (0, -0.08)), GREEN)
    # Seen from its left, the front, -Y, is on the left; from its right, on the right.
    assert is_colour(colours_at(field, 0, 1, (1, -0.08)), GREEN)
    assert is_colour(colours_at(field, 0, 1, (1, 0.08)), GREY)
    assert is_colour(colours_at(field, 0, -1, (1, -0.08)), BLUE)
    assert is_colour(colours_at(field, 0, -1, (1, 0.08)), GREY)


def test_only_colours_change_and_only_where_the_surface_faces_the_picture() -> None:
    front = ellipse(150, RED)
    _, alone, _ = make(cutout(front=front))
    _, field, _ = make(cutout(front=front, back=ellipse(150, BLUE)))
    assert np.array_equal(field.coords, alone.coords)
    assert np.array_equal(field.attributes[:, 3:], alone.attributes[:, 3:])
    is_front = field.coords[:, 1] < field.resolution // 2 - 4
    assert np.array_equal(field.attributes[is_front], alone.attributes[is_front])
    assert ((field.attributes >= 0) & (field.attributes <= 1)).all()


def test_a_picture_of_something_else_is_left_out_with_a_warning() -> None:
    front = ellipse(150, RED)
    _, alone, _ = make(cutout(front=front))
    bar = np.zeros((SIZE, SIZE, 4), np.uint8)
    bar[np.arange(SIZE), np.arange(SIZE)] = (*BLUE, 255)  # a diagonal line
    _, field, warnings = make(cutout(front=front, back=bar))
    text = "image_back: not used, its outline differs from that of the object"
    assert warnings == (text,)
    assert np.array_equal(field.attributes, alone.attributes)


def test_pictures_without_sides_change_nothing_but_a_warning() -> None:
    front = ellipse(150, RED)
    alone = make(cutout(front=front))
    views = (View(front), View(ellipse(40, BLUE)))
    mesh, field, warnings = make(Cutout(front, "alpha", views=views))
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "images: the preview engine uses the first of the 2 pictures only"
    )
    assert np.array_equal(mesh.vertices, alone[0].vertices)
    assert np.array_equal(field.attributes, alone[1].attributes)


def test_a_mesh_of_the_request_is_painted_from_all_sides() -> None:
    sphere = shapes.sphere(24)
    sphere = type(sphere)(sphere.vertices / np.abs(sphere.vertices).max() * 0.49, sphere.faces)
    given = cutout(front=ellipse(200, RED), left=ellipse(200, GREEN), back=ellipse(200, BLUE))
    field = PreviewEngine().texture_mesh(sphere, given, OPTIONS, silent)
    assert field.warnings == ()
    assert is_colour(colours_at(field, 1, -1), RED)
    assert is_colour(colours_at(field, 1, 1), BLUE)
    assert is_colour(colours_at(field, 0, 1), GREEN)


def test_an_empty_field_and_an_empty_picture_are_left_as_they_are() -> None:
    front = ellipse(150, RED)
    _, field, _ = make(cutout(front=front))
    empty = replace(field, coords=field.coords[:0], attributes=field.attributes[:0])
    given = cutout(front=front, left=np.zeros_like(front), back=np.zeros_like(front))
    assert len(paint_views(empty, given).coords) == 0
    assert np.array_equal(paint_views(field, given).attributes, field.attributes)
    mesh = shapes.sphere(16)
    assert bound_depth(mesh, given, 1.0) is mesh
