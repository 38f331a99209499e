from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.support.preview import (
    Array,
    Request,
    cutout,
    disc,
    flat_areas,
    front_faces,
    grid,
    ignore,
    masks,
    measure,
    parts_and_holes,
)
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import EngineError


@pytest.mark.costly
@given(mask=masks(), target=st.sampled_from([100, 2_000, 50_000]), blur_px=st.sampled_from([1, 2]))
@settings(max_examples=100, deadline=None)
def test_any_mask_becomes_a_closed_solid_inside_the_cube(
    mask: Array, target: int, blur_px: int
) -> None:
    alpha = ndimage.uniform_filter(mask.astype(float), blur_px)
    picture = cutout(alpha)
    if not (picture.rgba[..., 3] > 127).any():
        return
    shape = PreviewEngine().shape(picture, Request(decimation_target=target), ignore)
    volume, _ = measure(shape.mesh)
    assert volume > 0
    assert abs(shape.mesh.vertices).max() <= 0.5
    assert flat_areas(shape.mesh, front_faces(shape)).min() > 0


@pytest.mark.costly
@given(mask=masks())
@settings(max_examples=100, deadline=None)
def test_parts_and_holes_of_the_mask_are_those_of_the_solid(mask: Array) -> None:
    parts, holes = parts_and_holes(mask)
    if not parts:
        return
    shape = PreviewEngine().shape(cutout(mask), Request(), ignore)
    assert measure(shape.mesh)[1] == 2 * (parts - holes)


@pytest.mark.parametrize("target", [1_000, 5_000, 50_000])
def test_topology_does_not_depend_on_the_number_of_faces(
    engine: PreviewEngine, target: int
) -> None:
    mask = disc(300, 100, 100, 90)
    mask = np.maximum(mask - disc(300, 100, 100, 40), disc(300, 240, 240, 50))
    mask = np.clip(mask - disc(300, 230, 240, 9) - disc(300, 255, 240, 9), 0, 1)
    shape = engine.shape(cutout(mask), Request(decimation_target=target), ignore)
    assert measure(shape.mesh)[1] == 2 * (2 - 3)


@pytest.mark.costly
@pytest.mark.parametrize("edge_px", [1, 1e-9])
@pytest.mark.parametrize("angle", [0.0, 0.3, 0.785, 1.2, 1.571])
def test_a_wire_of_two_pixels_survives_in_one_piece(
    engine: PreviewEngine, edge_px: float, angle: float
) -> None:
    x, y = grid(1024)
    along = (x - 512.3) * np.cos(angle) + (y - 511.6) * np.sin(angle)
    across = abs((y - 511.6) * np.cos(angle) - (x - 512.3) * np.sin(angle))
    wire = np.clip((1 - across) / edge_px + 0.5, 0, 1)
    mask = np.where(abs(along) < 450, wire, 0)
    for sign in (-1, 1):
        x0, y0 = 512 + sign * 400 * np.cos(angle), 512 + sign * 400 * np.sin(angle)
        mask = np.maximum(mask, disc(1024, x0, y0, 50))
    shape = engine.shape(cutout(mask), Request(decimation_target=5_000), ignore)
    assert measure(shape.mesh)[1] == 2


def test_specks_are_dropped_and_small_parts_are_kept(engine: PreviewEngine) -> None:
    mask = disc(512, 200, 200, 190)
    mask[480:482, 480:482] = 1  # 4 px beside 113 000
    mask[450:460, 300:310] = 1
    shape = engine.shape(cutout(mask), Request(), ignore)
    assert measure(shape.mesh)[1] == 2 * 2


def test_a_window_pane_is_part_of_the_object_and_a_clear_hole_is_not(engine: PreviewEngine) -> None:
    mask = disc(200, 100, 100, 95)
    mask[60:90, 60:140] = 0.3
    mask[120:150, 60:140] = 0
    shape = engine.shape(cutout(mask), Request(), ignore)
    assert measure(shape.mesh)[1] == 0


def test_a_few_lone_pixels_are_an_object_too(engine: PreviewEngine) -> None:
    mask = np.zeros((64, 64))
    mask[8:56:4, 8:56:4] = 1
    volume, euler = measure(engine.shape(cutout(mask), Request(), ignore).mesh)
    assert volume > 0
    assert euler == 2 * 144


def test_the_outline_of_a_hard_edged_disc_has_no_stair_steps(engine: PreviewEngine) -> None:
    mesh = engine.shape(cutout(disc(512, 256.2, 255.7, 240, soft=False)), Request(), ignore).mesh
    rim = mesh.vertices[mesh.vertices[:, 1] == 0][:, [0, 2]].astype(np.float64)
    rim = rim[np.argsort(np.arctan2(rim[:, 1], rim[:, 0]))]
    step = np.roll(rim, -1, 0) - rim
    turn = np.angle(np.exp(1j * np.diff(np.arctan2(step[:, 1], step[:, 0]), append=0)))[:-1]
    assert np.sqrt((turn**2).mean()) < np.radians(8)
    assert np.degrees(abs(turn)).max() < 25
    radius = np.hypot(*(rim - rim.mean(0)).T) * 512 / (1 - 4 / 320)
    assert radius.std() < 0.4


@pytest.mark.parametrize("target", [5_000, 20_000, 100_000])
def test_the_number_of_faces_is_what_was_requested(engine: PreviewEngine, target: int) -> None:
    shape = engine.shape(
        cutout(disc(600, 300, 300, 280)), Request(decimation_target=target), ignore
    )
    assert 0.75 * target <= len(shape.mesh.faces) <= target


def test_a_small_picture_gives_no_more_faces_than_it_has_detail(engine: PreviewEngine) -> None:
    shape = engine.shape(cutout(np.ones((16, 16))), Request(decimation_target=500_000), ignore)
    assert len(shape.mesh.faces) < 2_000


def test_an_empty_picture_is_an_error(engine: PreviewEngine) -> None:
    with pytest.raises(EngineError, match="nothing in the picture"):
        engine.shape(cutout(np.zeros((32, 32))), Request(), ignore)
