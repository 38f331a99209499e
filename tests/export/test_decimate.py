from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.export import parallel
from trellis2_server.export.decimate import decimate

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh


@pytest.mark.parametrize("shape", shapes.ALL)
@pytest.mark.parametrize("share", [0.7, 0.2])
def test_the_target_is_met_within_two_percent(shape: str, share: float) -> None:
    whole = export.prepare(shapes.ALL[shape](), decimation_target=1_000_000)
    target = int(share * len(whole.faces))
    mesh = export.prepare(shapes.ALL[shape](), decimation_target=target)
    assert 0.98 * target - 2 <= len(mesh.faces) <= target


@pytest.mark.parametrize("shape", ["torus", "sphere", "noisy_blob", "thin_box", "links"])
@pytest.mark.parametrize("target", [2000, 300, 60])
def test_a_closed_manifold_stays_closed(shape: str, target: int) -> None:
    mesh = export.prepare(shapes.ALL[shape](), decimation_target=target)
    assert len(mesh.faces) <= target
    assert shapes.is_closed(mesh)
    uses, _ = shapes.edge_uses(mesh.faces)
    # Vertices minus edges plus faces: 2 for a sphere, 0 for a torus or two.
    whole = {"torus": 0, "links": 0}.get(shape, 2)
    assert len(mesh.vertices) - len(uses) + len(mesh.faces) == whole


def test_a_sphere_keeps_its_shape() -> None:
    mesh = export.prepare(shapes.sphere(64), decimation_target=2000)
    radius = np.linalg.norm(mesh.vertices[mesh.faces].mean(1), axis=1)
    assert abs(radius - 0.4).max() < 0.003
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    outward = (np.cross(b - a, c - a) * (a + b + c)).sum(1)
    assert (outward > 0).all()


def test_the_rim_of_a_sheet_does_not_move() -> None:
    before, after = shapes.sheet(), export.prepare(shapes.sheet(), decimation_target=700)
    np.testing.assert_allclose(after.vertices.min(0), before.vertices.min(0), atol=2e-3)
    np.testing.assert_allclose(after.vertices.max(0), before.vertices.max(0), atol=2e-3)
    uses, _ = shapes.edge_uses(after.faces)
    assert uses.max() == 2


def test_the_corners_of_a_cube_stay_sharp() -> None:
    side = np.linspace(-0.3, 0.3, 21)
    sides: list[Mesh] = []
    for axis in range(3):
        for sign in (-0.3, 0.3):

            def place(
                u: np.ndarray, v: np.ndarray, axis: int = axis, sign: float = sign
            ) -> np.ndarray:
                p = np.empty((*u.shape, 3))
                p[..., axis] = sign
                p[..., (axis + 1) % 3] = np.interp(u, np.linspace(0, 1, 21), side)
                p[..., (axis + 2) % 3] = np.interp(v, np.linspace(0, 1, 21), side)
                return p

            sides.append(shapes.grid(21, 21, place, wraps=(False, False)))
    mesh = export.prepare(shapes.joined(*sides), decimation_target=60)
    assert shapes.is_closed(mesh)
    assert shapes.volume(mesh) == pytest.approx(0.216, rel=1e-4)


def test_the_same_mesh_is_always_decimated_the_same_way() -> None:
    first = export.prepare(shapes.noisy_blob(), decimation_target=3000)
    second = export.prepare(shapes.noisy_blob(), decimation_target=3000)
    np.testing.assert_array_equal(first.vertices, second.vertices)
    np.testing.assert_array_equal(first.faces, second.faces)


@pytest.mark.parametrize("min_split_faces", [80_000, 1000])
def test_fixed_vertices_stay_and_no_face_is_flipped_for_the_target(min_split_faces: int) -> None:
    whole = shapes.noisy_blob()
    is_fixed = whole.vertices[:, 0] > 0.2
    faces = whole.faces[is_fixed[whole.faces].all(axis=1)]
    given = whole.vertices.copy(), whole.faces.copy()
    mesh = decimate(whole, 4, min_split_faces=min_split_faces, is_fixed=is_fixed)
    assert len(faces) < len(mesh.faces) < len(whole.faces) / 2
    assert shapes.is_closed(mesh)
    kept = {tuple(map(tuple, corners)) for corners in mesh.vertices[mesh.faces]}
    turned = {corners[1:] + corners[:1] for corners in kept}
    kept |= turned | {corners[1:] + corners[:1] for corners in turned}
    assert all(tuple(map(tuple, corners)) in kept for corners in whole.vertices[faces])
    np.testing.assert_array_equal(whole.vertices, given[0])
    np.testing.assert_array_equal(whole.faces, given[1])
    # Without that, four faces are possible.
    assert len(decimate(whole, 4, min_split_faces=min_split_faces).faces) == 4


def test_an_exception_of_the_report_ends_the_work() -> None:
    class StopError(Exception):
        pass

    def report(stage: str, step: int, steps: int) -> None:
        assert 0 <= step <= steps
        if stage == "decimate":
            raise StopError

    with pytest.raises(StopError):
        export.prepare(shapes.torus(), decimation_target=100, report=report)


@pytest.mark.costly
def test_cells_preserve_the_topology_whatever_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = shapes.sphere(120)
    first = export.prepare(whole, decimation_target=9000)
    assert 0.98 * 9000 <= len(first.faces) <= 9000
    assert shapes.is_closed(first)
    radius = np.linalg.norm(first.vertices[first.faces].mean(1), axis=1)
    assert abs(radius - 0.4).max() < 0.001
    monkeypatch.setattr(parallel, "_THREADS", 5 if parallel._THREADS == 1 else 1)
    second = export.prepare(whole, decimation_target=9000)
    np.testing.assert_array_equal(first.vertices, second.vertices)
    np.testing.assert_array_equal(first.faces, second.faces)
