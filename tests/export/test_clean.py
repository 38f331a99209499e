from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.mesh import Mesh

MANY = 1_000_000


def prepared(mesh: Mesh) -> Mesh:
    return export.prepare(mesh, decimation_target=MANY)


@pytest.mark.parametrize("shape", ["torus", "sphere", "noisy_blob", "thin_box", "links"])
def test_a_clean_mesh_is_not_changed(shape: str) -> None:
    mesh = shapes.ALL[shape]()
    cleaned = prepared(mesh)
    np.testing.assert_array_equal(cleaned.vertices, mesh.vertices)
    np.testing.assert_array_equal(cleaned.faces, mesh.faces)


def test_duplicate_and_degenerate_faces_are_dropped() -> None:
    cleaned = prepared(shapes.soup())
    corners = np.sort(cleaned.faces, axis=1)
    assert (corners[:, 0] < corners[:, 1]).all()
    assert (corners[:, 1] < corners[:, 2]).all()
    assert len(np.unique(corners, axis=0)) == len(corners)
    assert len(np.unique(cleaned.faces)) == len(cleaned.vertices)


def test_vertices_at_the_same_position_are_merged() -> None:
    mesh = shapes.sphere(12)
    loose = Mesh(
        mesh.vertices[mesh.faces.reshape(-1)],
        np.arange(mesh.faces.size, dtype=np.int32).reshape(-1, 3),
    )
    cleaned = prepared(loose)
    assert shapes.is_closed(cleaned)
    assert len(cleaned.vertices) == len(mesh.vertices)


def test_a_small_hole_is_closed_and_a_large_one_is_not() -> None:
    mesh = shapes.sphere(48, radius=0.1)
    top = mesh.vertices[:, 2] > 0.07
    small = np.flatnonzero(mesh.vertices[:, 2] < -0.09999)
    open_top = mesh.faces[~top[mesh.faces].any(1)]
    cleaned = prepared(Mesh(mesh.vertices, open_top[~np.isin(open_top, small).any(1)]))
    uses, _ = shapes.edge_uses(cleaned.faces)
    rim = int((uses == 1).sum())
    uses, _ = shapes.edge_uses(open_top)
    assert rim == int((uses == 1).sum())


def test_a_small_hole_leaves_a_closed_surface() -> None:
    mesh = shapes.sphere(48, radius=0.1)
    # Two adjacent faces, and one far from them.
    twins = np.flatnonzero(np.isin(mesh.faces, mesh.faces[5, :2]).sum(1) == 2)
    gone = np.unique(np.append(twins, len(mesh.faces) - 1))
    cleaned = prepared(Mesh(mesh.vertices, np.delete(mesh.faces, gone, axis=0)))
    assert shapes.is_closed(cleaned)
    assert shapes.volume(cleaned) == pytest.approx(shapes.volume(mesh), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_holes_between_faces_of_any_winding_leave_a_closed_surface(seed: int) -> None:
    random = np.random.default_rng(seed)
    mesh = shapes.sphere(24, radius=0.02)
    middles = mesh.vertices[mesh.faces].mean(axis=1)
    is_gone = np.zeros(len(mesh.faces), bool)
    for at in ((0, 0, 1), (1, 0, 0), (0, -1, 0)):  # two faces each
        first = int((middles @ at).argmax())
        shared = np.isin(mesh.faces, mesh.faces[first]).sum(axis=1) == 2
        is_gone[[first, int(np.flatnonzero(shared)[seed])]] = True
    faces = np.array([np.roll(face, random.integers(3)) for face in mesh.faces[~is_gone]])
    turned = random.random(len(faces)) < 0.4
    faces[turned] = faces[turned][:, ::-1]
    cleaned = prepared(Mesh(mesh.vertices, faces.astype(np.int32)))
    assert shapes.is_closed(cleaned)
    assert shapes.volume(cleaned) == pytest.approx(shapes.volume(mesh), rel=0.02)


def test_a_floater_is_dropped_and_a_larger_part_is_not() -> None:
    large, part = shapes.sphere(24), shapes.sphere(8, radius=0.03)
    speck = shapes.sphere(2, radius=0.002)
    part = Mesh(part.vertices + np.float32(0.45), part.faces)
    speck = Mesh(speck.vertices - np.float32(0.45), speck.faces)
    cleaned = prepared(shapes.joined(large, part, speck))
    assert len(cleaned.faces) == len(large.faces) + len(part.faces)
