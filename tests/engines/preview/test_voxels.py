"""Colours where the surface turns away from the viewer, and sheets of different heights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.preview import Request, cutout, disc, grid, look_up, made, sample, samples
from trellis2_server.engines.preview.sheets import sheets
from trellis2_server.engines.preview.voxels import paint
from trellis2_server.mesh import BASE_COLOR, Mesh

if TYPE_CHECKING:
    from tests.support.preview import Array
    from trellis2_server.engines.preview import PreviewEngine

GREEN, DARK = (60, 180, 70), (10, 10, 10)


def outlined(mask: Array, away: Array, width: float) -> Any:
    """A green object with a dark line of that width along its outline."""
    color = np.empty((*mask.shape, 3), np.uint8)
    color[:] = GREEN
    color[away < width] = DARK
    return cutout(mask, color)


def side_colors(engine: PreviewEngine, picture: Any) -> Array:
    """Colours of the surface near the plane between front and back, 0 to 255."""
    shape, field = made(engine, picture, Request(texture_size=1024, depth=1.0))
    points = samples(shape.mesh, shape.mesh.faces, 100_000)
    points = points[abs(points[:, 1]) < 5 / field.resolution]
    return sample(field, points)[:, BASE_COLOR] * 255


@pytest.mark.costly
def test_the_side_of_a_round_object_has_colours_from_inside(engine: PreviewEngine) -> None:
    x, y = grid(640)
    away = 300 - np.hypot(x - 320, y - 320)
    found = side_colors(engine, outlined(disc(640, 320, 320, 300), away, 4))
    assert len(found) > 500
    is_dark = np.linalg.norm(found - np.array(DARK), axis=1) < 60
    assert is_dark.mean() < 0.1, "the last pixels are stretched over the side"


def test_the_dark_outline_of_a_thin_object_stays(engine: PreviewEngine) -> None:
    x, y = grid(640)
    away = np.minimum(6 - abs(x - 320), 300 - abs(y - 320))
    found = side_colors(engine, outlined(np.clip(away + 0.5, 0, 1), away, 4))
    is_dark = np.linalg.norm(found - np.array(DARK), axis=1) < 60
    assert is_dark.mean() > 0.6


def test_a_round_object_keeps_its_outline_at_the_front(engine: PreviewEngine) -> None:
    x, y = grid(640)
    away = 300 - np.hypot(x - 320, y - 320)
    _, field = made(
        engine, outlined(disc(640, 320, 320, 300), away, 8), Request(texture_size=1024, depth=1.0)
    )
    centres = (field.coords + 0.5) / field.resolution - 0.5
    radius = np.hypot(centres[:, 0], centres[:, 2]) * 640
    line = (centres[:, 1] < -0.06) & (abs(radius - 295) < 1.5)
    found = field.attributes[line][:, BASE_COLOR] * 255
    assert len(found) > 500
    assert (np.linalg.norm(found - np.array(DARK), axis=1) < 60).mean() > 0.95


def test_a_back_of_another_height_has_all_its_voxels(engine: PreviewEngine) -> None:
    picture = cutout(disc(128, 64, 64, 60), GREEN)
    shape = engine.shape(picture, Request(), lambda *_: None)
    front = shape.state.front  # type: ignore[attr-defined]
    vertices = shape.mesh.vertices.copy()
    vertices[:, 1] *= np.where(vertices[:, 1] > 0, 0.3, 1.0).astype(np.float32)
    mesh = Mesh(vertices, shape.mesh.faces)
    size = 256
    field = paint(
        mesh, front, sheets(picture.rgba, size, "mirror"), np.float32(0.7), size, lambda *_: None
    )
    for faces in (mesh.faces[:front], mesh.faces[front:]):
        points = samples(mesh, faces, 4_000)
        near = points + np.random.default_rng(1).uniform(-0.49, 0.49, points.shape) / size
        assert (look_up(field, near) >= 0).all()
    middle = abs(field.coords[:, [0, 2]] - size / 2).max(1) < 5
    behind = field.coords[middle, 1] - size / 2
    assert behind.max() < 0.4 * -behind.min(), "no voxels where the surface is not"
