from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.preview import BLUE, RED, Request, cutout, disc, ignore, look_up, samples
from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.projection import resolution
from trellis2_server.export.cancellation import call
from trellis2_server.mesh import BASE_COLOR, Mesh

if TYPE_CHECKING:
    from trellis2_server.engines.preview import PreviewEngine


def box(depth: float) -> Mesh:
    """A closed box as wide and high as the cube, seen from -Y."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)]
    size = np.array([0.5, depth, 0.5])
    return Mesh((corners * size).astype(np.float32), np.array(faces, np.int32))


def test_a_large_area_lowers_the_resolution() -> None:
    assert resolution(box(0.5), 512) == 512
    assert resolution(box(0.5), 2048) == 768
    many = box(0.5)
    crowded = Mesh(many.vertices, np.tile(many.faces, (9, 1)))
    assert resolution(crowded, 768) < 768


def test_many_long_faces_lower_the_resolution_and_take_no_memory() -> None:
    edge = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0, 0]], np.float32)
    needles = Mesh(edge, np.tile(np.arange(3, dtype=np.int32), (300_000, 1)))
    resolution(needles, 64)
    tracemalloc.start()
    try:
        assert resolution(needles, 768) == 32
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def triangles(height: float, extent: float) -> Mesh:
    """Triangles of that height over an edge of that length at most, in all directions."""
    random = np.random.default_rng(0)
    corners = random.uniform(-0.5, 0.5, (100, 3, 3))
    corners[:, 1:] = corners[:, :1] + extent * (corners[:, 1:] - corners[:, :1])
    corners[:, 2] = corners[:, random.integers(0, 2)] + height * random.normal(size=(100, 3))
    corners = np.clip(corners, -0.49, 0.49)
    return Mesh(
        corners.reshape(-1, 3).astype(np.float32), np.arange(300, dtype=np.int32).reshape(-1, 3)
    )


@pytest.mark.costly
@pytest.mark.parametrize("height", [0.0, 1e-9, 0.001, 0.02, 0.3])
@pytest.mark.parametrize("extent", [0.0, 0.02, 1.0])
def test_the_voxels_of_a_face_are_those_that_sampling_it_reads(
    height: float, extent: float
) -> None:
    size = 100
    mesh = triangles(height, extent)
    bits = np.zeros(size**3 // 8, np.uint8)
    call(kernels.load("surface").mark, mesh.vertices, mesh.faces, size, bits)
    marked = np.unpackbits(bits, bitorder="little").astype(bool)
    random = np.random.default_rng(1)
    weights = random.dirichlet([0.7] * 3, (len(mesh.faces), 8_000))
    weights[:, :3] = np.eye(3)
    points = (weights @ mesh.vertices[mesh.faces].astype(np.float64)).reshape(-1, 3)
    low = np.floor((points + 0.5) * size - 0.5).astype(int)
    read = np.zeros(size**3, bool)
    for corner in np.ndindex(2, 2, 2):
        read[(low + corner) @ np.array([size * size, size, 1])] = True
    assert marked[read].all()
    # Not all of its box: the samples miss a few of those that are read.
    assert marked.sum() < 1.6 * read.sum()


def test_the_front_of_a_mesh_has_the_colours_of_the_picture(engine: PreviewEngine) -> None:
    color = np.zeros((128, 128, 3), np.uint8)
    color[:, :64], color[:, 64:] = RED, BLUE
    mesh = box(0.25)
    field = engine.texture_mesh(mesh, cutout(np.ones((128, 128)), color), Request(), ignore)
    centres = (field.coords + 0.5) / field.resolution - 0.5
    front = centres[:, 1] < -0.25 + 0.5 / field.resolution
    for side, expected in ((centres[:, 0] < -0.02, RED), (centres[:, 0] > 0.02, BLUE)):
        got = field.attributes[front & side][:, BASE_COLOR] * 255
        assert len(got)
        assert abs(got - np.array(expected)).max() < 10


def test_the_field_of_a_mesh_says_what_its_back_has(engine: PreviewEngine) -> None:
    picture = cutout(disc(64, 32, 32, 30))
    for asked in ("mirror", "fill"):
        field = engine.texture_mesh(box(0.2), picture, Request(back=asked), ignore)
        assert field.details == {"back": asked}


def test_every_point_of_a_mesh_has_all_its_voxels(engine: PreviewEngine) -> None:
    mesh = box(0.2)
    field = engine.texture_mesh(mesh, cutout(disc(64, 32, 32, 30)), Request(), ignore)
    points = samples(mesh, mesh.faces, 2_000)
    points = points[(abs(points) < 0.5 - 1 / field.resolution).all(axis=1)]
    assert (look_up(field, points) >= 0).all()


@pytest.mark.parametrize("move", [(0, 0), (0.2, -0.15)])
def test_the_picture_lies_where_the_mesh_is(
    engine: PreviewEngine, move: tuple[float, float]
) -> None:
    """The middle of the picture is at the middle of the mesh, to the voxel."""
    whole = box(0.25)
    aside = np.array([move[0], 0, move[1]], np.float32)
    mesh = Mesh(whole.vertices * np.array([0.5, 1, 0.6], np.float32) + aside, whole.faces)
    color = np.zeros((128, 128, 3), np.uint8)
    color[:64, :64], color[:64, 64:] = (200, 0, 0), (200, 0, 200)
    color[64:, 64:] = (0, 0, 200)
    field = engine.texture_mesh(mesh, cutout(np.ones((128, 128)), color), Request(), ignore)
    size = field.resolution
    front = (field.coords[:, 1] + 0.5) / size - 0.5 < -0.25 + 0.5 / size
    places, values = field.coords[front], field.attributes[front][:, BASE_COLOR]
    for axis, channel, is_high in ((0, 2, True), (2, 0, True)):
        at = places[:, axis]
        is_coloured = values[:, channel] > 100 / 255
        high, low = at[is_coloured == is_high], at[is_coloured != is_high]
        # The first line of one half and the last line of the other one meet in the middle.
        seam = (np.quantile(high, 0.001) + np.quantile(low, 0.999) + 1) / 2
        middle = (float(aside[axis]) + 0.5) * size
        assert abs(seam - middle) < 1.01
