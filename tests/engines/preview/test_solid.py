from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.preview import (
    WHITE,
    Array,
    Request,
    cutout,
    disc,
    flat_areas,
    front_faces,
    grid,
    ignore,
)

if TYPE_CHECKING:
    from trellis2_server.engines.preview import PreviewEngine


def test_the_picture_stands_upright_and_is_seen_from_minus_y(engine: PreviewEngine) -> None:
    mask = np.zeros((200, 200))
    mask[10:190, 20:60] = 1  # an L: its stem at the left ...
    mask[150:190, 20:180] = 1  # ... and its foot at the bottom
    shape = engine.shape(cutout(mask), Request(), ignore)
    vertices = shape.mesh.vertices
    right = vertices[vertices[:, 0] > 0]
    assert right[:, 2].max() < -0.2
    assert vertices[:, 2].max() > 0.4
    corners = vertices[front_faces(shape)]
    assert corners[..., 1].max() <= 0
    assert flat_areas(shape.mesh, front_faces(shape)).min() > 0


def test_the_back_of_a_plain_object_mirrors_its_front(engine: PreviewEngine) -> None:
    mesh = engine.shape(cutout(disc(128, 64, 64, 60)), Request(), ignore).mesh
    mirrored = mesh.vertices * np.array([1, -1, 1], np.float32)
    assert {tuple(v) for v in mirrored + 0.0} == {tuple(v) for v in mesh.vertices + 0.0}


def test_the_square_of_the_picture_fills_the_cube_except_for_two_voxels(
    engine: PreviewEngine,
) -> None:
    shape = engine.shape(cutout(np.ones((100, 100))), Request(), ignore)
    edge = 0.5 - 2 / shape.resolution
    assert abs(shape.mesh.vertices[:, [0, 2]]).max() == pytest.approx(edge, abs=0.006)


def depth_over_width(engine: PreviewEngine, mask: Array, **fields: Any) -> float:
    vertices = engine.shape(cutout(mask), Request(**fields), ignore).mesh.vertices
    return float(np.ptp(vertices[:, 1]) / np.ptp(vertices[:, 0]))


def test_plain_round_objects_are_as_deep_as_wide(engine: PreviewEngine) -> None:
    x, y = grid(256)
    ball = disc(256, 128, 128, 120)
    rod = (abs(x - 128) < 30) & (abs(y - 128) < 120)
    wire = (abs(x - 128) < 2) & (abs(y - 128) < 120)
    lying = rod.T
    assert depth_over_width(engine, ball) == pytest.approx(1, abs=0.05)
    assert depth_over_width(engine, rod) == pytest.approx(1, abs=0.1)
    assert depth_over_width(engine, wire) == pytest.approx(1, abs=0.3)
    assert depth_over_width(engine, lying) == pytest.approx(0.25, abs=0.04)


def test_a_vase_becomes_a_solid_of_revolution(engine: PreviewEngine) -> None:
    x, y = grid(256)
    half = 40 + 30 * np.sin(y / 30)
    vase = (abs(x - 128) < half) & (abs(y - 128) < 118)
    shape = engine.shape(cutout(vase), Request(), ignore)
    assert shape.details["depth"] == "revolution"
    vertices = shape.mesh.vertices
    size = 256 / (1 - 4 / shape.resolution)
    middle = abs(vertices[:, 2]) < 0.38
    radius = np.hypot(vertices[:, 0], vertices[:, 1])[middle] * size
    expected = 40 + 30 * np.sin((128 - vertices[middle, 2] * size) / 30)
    assert np.quantile(abs(radius - expected), 0.95) < 3


def test_a_painted_disc_is_flat_unless_a_depth_is_asked_for(engine: PreviewEngine) -> None:
    x, y = grid(256)
    check = ((x // 24 + y // 24) % 2)[..., None] * np.array(WHITE, np.uint8)
    picture = cutout(disc(256, 128, 128, 120), check.astype(np.uint8))
    flat = engine.shape(picture, Request(), ignore)
    assert flat.details["depth"] == "flat"
    front = flat.mesh.vertices[np.unique(front_faces(flat))]
    inner = np.hypot(front[:, 0], front[:, 2]) < 0.4
    assert 0 < np.ptp(front[inner, 1]) < 0.03
    assert np.ptp(flat.mesh.vertices[:, 1]) < 0.08
    asked = engine.shape(picture, Request(depth=1.0), ignore)
    assert asked.details["depth"] == "1"
    assert np.ptp(asked.mesh.vertices[:, 1]) > 0.85


def test_an_inner_contour_shows_in_the_front_and_less_in_the_back(engine: PreviewEngine) -> None:
    x, y = grid(256)
    square = (abs(x - 128) < 110) & (abs(y - 128) < 110)
    grey = np.full((256, 256, 3), 120, np.uint8)
    grey[disc(256, 128, 128, 60) > 0.5] = 170
    shape = engine.shape(cutout(square, grey), Request(depth=1.0), ignore)
    count = len(front_faces(shape))
    depth = abs(shape.mesh.vertices[:, 1])
    ring = np.hypot(shape.mesh.vertices[:, 0], shape.mesh.vertices[:, 2])
    near, bulge = abs(ring - 60 / 256) < 0.01, ring < 0.15
    is_front = np.zeros(len(depth), bool)
    is_front[np.unique(shape.mesh.faces[:count])] = True
    step = {
        side: depth[side_of & bulge].mean() - depth[side_of & near].mean()
        for side, side_of in (("front", is_front), ("back", ~is_front))
    }
    plain = engine.shape(cutout(square), Request(depth=1.0), ignore).mesh.vertices
    ring = np.hypot(plain[:, 0], plain[:, 2])
    without = abs(plain[ring < 0.15, 1]).mean() - abs(plain[abs(ring - 60 / 256) < 0.01, 1]).mean()
    assert step["front"] > step["back"] + 0.003 > without + 0.004


def test_a_small_hole_leaves_the_object_round(engine: PreviewEngine) -> None:
    ball = disc(256, 128, 128, 120)
    pierced = ball - disc(256, 128, 128, 5)
    assert depth_over_width(engine, pierced, depth=1.0) > 0.85
    assert depth_over_width(engine, ball - disc(256, 128, 128, 60), depth=1.0) < 0.4
