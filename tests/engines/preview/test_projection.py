from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.support.preview import BLUE, RED, Request, cutout, disc, ignore, look_up, samples
from trellis2_server.engines.preview.projection import resolution
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


def test_every_point_of_a_mesh_has_all_its_voxels(engine: PreviewEngine) -> None:
    mesh = box(0.2)
    field = engine.texture_mesh(mesh, cutout(disc(64, 32, 32, 30)), Request(), ignore)
    points = samples(mesh, mesh.faces, 2_000)
    points = points[(abs(points) < 0.5 - 1 / field.resolution).all(axis=1)]
    assert (look_up(field, points) >= 0).all()
