from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.preview import Request, cutout, disc, flat_areas, front_faces, grid, ignore

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


def test_the_front_and_the_back_are_mirror_images(engine: PreviewEngine) -> None:
    mesh = engine.shape(cutout(disc(128, 64, 64, 60)), Request(), ignore).mesh
    mirrored = mesh.vertices * np.array([1, -1, 1], np.float32)
    assert {tuple(v) for v in mirrored + 0.0} == {tuple(v) for v in mesh.vertices + 0.0}


def test_the_square_of_the_picture_fills_the_cube_except_for_two_voxels(
    engine: PreviewEngine,
) -> None:
    shape = engine.shape(cutout(np.ones((100, 100))), Request(), ignore)
    edge = 0.5 - 2 / shape.resolution
    assert abs(shape.mesh.vertices[:, [0, 2]]).max() == pytest.approx(edge, abs=0.006)


def test_a_disc_is_lens_shaped_and_a_thin_rod_nearly_round(engine: PreviewEngine) -> None:
    lens = engine.shape(cutout(disc(256, 128, 128, 120)), Request(), ignore).mesh.vertices
    assert 0.3 < np.ptp(lens[:, 1]) / np.ptp(lens[:, 0]) < 0.6
    x, y = grid(256)
    rod = engine.shape(cutout((abs(x - 128) < 5) & (abs(y - 128) < 120)), Request(), ignore)
    assert 0.7 < np.ptp(rod.mesh.vertices[:, 1]) / np.ptp(rod.mesh.vertices[:, 0]) < 1.1
