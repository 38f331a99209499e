from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.export.adjacency import twins
from trellis2_server.export.parts import Parts
from trellis2_server.mesh import Mesh


def prepared(mesh: Mesh) -> Mesh:
    return export.prepare(mesh, decimation_target=1_000_000)


@pytest.mark.parametrize(("shape", "count"), [("torus", 1), ("links", 2), ("moebius", 1)])
def test_connected_parts_are_counted(shape: str, count: int) -> None:
    mesh = shapes.ALL[shape]()
    assert Parts(mesh.vertices, mesh.faces, twins(mesh.faces, len(mesh.vertices))).count == count


def test_randomly_wound_faces_are_wound_outward() -> None:
    mesh = shapes.links()
    faces = mesh.faces.copy()
    turned = np.random.default_rng(1).random(len(faces)) < 0.4
    faces[turned] = faces[turned][:, ::-1]
    cleaned = prepared(Mesh(mesh.vertices, faces))
    assert shapes.is_closed(cleaned)
    assert shapes.volume(cleaned) == pytest.approx(shapes.volume(mesh), rel=1e-5)


def test_an_open_sheet_keeps_the_winding_of_most_of_its_area() -> None:
    mesh = shapes.sheet()
    faces = mesh.faces.copy()
    faces[::3] = faces[::3, ::-1]
    cleaned = prepared(Mesh(mesh.vertices, faces))
    _, balance = shapes.edge_uses(cleaned.faces)
    uses, _ = shapes.edge_uses(mesh.faces)
    assert (np.abs(balance) == (uses == 1)).all()
    normal = np.cross(
        *(mesh.vertices[mesh.faces[:, k]] - mesh.vertices[mesh.faces[:, 0]] for k in (1, 2))
    )
    got = np.cross(
        *(mesh.vertices[cleaned.faces[:, k]] - mesh.vertices[cleaned.faces[:, 0]] for k in (1, 2))
    )
    assert (normal * got).sum() > 0


def test_an_open_bowl_that_is_wound_inward_keeps_its_winding() -> None:
    ball = shapes.sphere()
    middle = ball.vertices[ball.faces].mean(axis=1)
    faces = ball.faces[middle[:, 2] < 0][:, ::-1].copy()
    faces[::20] = faces[::20, ::-1]
    cleaned = prepared(Mesh(ball.vertices, faces))
    a, b, c = (cleaned.vertices[cleaned.faces[:, k]].astype(np.float64) for k in range(3))
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(axis=1) < 0).all()


def test_a_floater_at_an_edge_does_not_decide_which_side_is_outside() -> None:
    ball = shapes.sphere()
    a, b = ball.faces[0, :2]
    tip = (ball.vertices[a] + ball.vertices[b])[None] * np.float32(0.502)
    fin = np.array([[a, b, len(ball.vertices)]], np.int32)
    mesh = Mesh(np.concatenate([ball.vertices, tip]), np.concatenate([ball.faces[:, ::-1], fin]))
    cleaned = prepared(mesh)
    assert len(cleaned.faces) == len(ball.faces)
    assert shapes.volume(cleaned) > 0


def test_the_inconsistent_edges_of_a_moebius_strip_are_at_its_fold() -> None:
    mesh = shapes.moebius()
    around = np.arctan2(mesh.vertices[:, 1], mesh.vertices[:, 0])
    bent = mesh.vertices + np.outer(np.abs(np.sin(around / 2)), [0, 0, 0.6]).astype(np.float32)
    rng = np.random.default_rng(3)
    faces = rng.permutation(mesh.faces)
    cleaned = prepared(Mesh(bent, faces))
    half = np.flatnonzero((twin := twins(cleaned.faces, len(cleaned.vertices))) >= 0)
    corner = cleaned.faces.reshape(-1)
    odd = half[corner[half] == corner[twin[half]]]
    # From one rim to the other: both half-edges of each edge of the fold.
    assert len(odd) == 2 * 8
    assert np.abs(cleaned.vertices[corner[odd], 1]).max() < 1e-6
    assert cleaned.vertices[corner[odd], 0].min() > 0
