from __future__ import annotations

import numpy as np
import pytest

from bench.export_pictures import levels_of, silhouette_ious, triangles_of
from bench.export_solids import judge
from tests.support import shapes
from trellis2_server import export


def test_the_overlap_of_silhouettes_is_that_of_their_areas() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    both, one = (np.array(faces, np.int32) for faces in ([[0, 1, 2], [0, 2, 3]], [[0, 1, 2]]))
    ious = silhouette_ious((corners, both), [(corners, both), (corners, one)])
    np.testing.assert_allclose(ious[0], 1)
    np.testing.assert_allclose(ious[1, :2], 0.5, atol=0.01)  # from the front, and at 45 degrees
    assert ious[1, 2] == 1  # from the side there is nothing to see


def test_levels_are_read_from_a_file_in_the_frame_of_the_surface() -> None:
    mesh = export.prepare(shapes.links(), decimation_target=2000)
    content = export.textured_glb(mesh, shapes.field(16), texture_size=128, lods=(500,))
    levels = levels_of(content)
    assert [len(faces) for _, faces in levels] == [len(mesh.faces), pytest.approx(500, abs=20)]
    ious = silhouette_ious(triangles_of(mesh), levels)
    np.testing.assert_allclose(ious[0], 1)
    assert 0.9 < ious[1].mean() < 1


def test_a_surface_that_is_no_solid_is_told_from_one_that_is() -> None:
    assert judge(shapes.torus())["faults"] == []
    crossing = judge(shapes.joined(shapes.torus(), shapes.torus(turned=True)))
    assert crossing["touching"] > 0
    assert crossing["faults"]
