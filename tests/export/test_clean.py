from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.errors import ExportError
from trellis2_server.export.adjacency import twins
from trellis2_server.mesh import Mesh, VoxelField

MANY = 1_000_000


def prepared(mesh: Mesh) -> Mesh:
    return export.prepare(mesh, decimation_target=MANY)


@pytest.mark.parametrize("shape", ["torus", "sphere", "noisy_blob", "thin_box", "links"])
def test_a_clean_mesh_is_left_as_it_is(shape: str) -> None:
    mesh = shapes.ALL[shape]()
    cleaned = prepared(mesh)
    np.testing.assert_array_equal(cleaned.vertices, mesh.vertices)
    np.testing.assert_array_equal(cleaned.faces, mesh.faces)


def test_faces_wound_at_random_come_out_wound_outward() -> None:
    mesh = shapes.links()
    faces = mesh.faces.copy()
    turned = np.random.default_rng(1).random(len(faces)) < 0.4
    faces[turned] = faces[turned][:, ::-1]
    cleaned = prepared(Mesh(mesh.vertices, faces))
    assert shapes.is_closed(cleaned)
    assert shapes.volume(cleaned) == pytest.approx(shapes.volume(mesh), rel=1e-5)


def test_an_open_sheet_keeps_the_side_most_of_it_shows() -> None:
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


def test_an_open_bowl_keeps_its_side_even_where_that_is_the_inner_one() -> None:
    ball = shapes.sphere()
    middle = ball.vertices[ball.faces].mean(axis=1)
    faces = ball.faces[middle[:, 2] < 0][:, ::-1].copy()
    faces[::20] = faces[::20, ::-1]
    cleaned = prepared(Mesh(ball.vertices, faces))
    a, b, c = (cleaned.vertices[cleaned.faces[:, k]].astype(np.float64) for k in range(3))
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(axis=1) < 0).all()


def test_a_floater_on_an_edge_does_not_decide_which_side_is_out() -> None:
    ball = shapes.sphere()
    a, b = ball.faces[0, :2]
    tip = (ball.vertices[a] + ball.vertices[b])[None] * np.float32(0.502)
    fin = np.array([[a, b, len(ball.vertices)]], np.int32)
    mesh = Mesh(np.concatenate([ball.vertices, tip]), np.concatenate([ball.faces[:, ::-1], fin]))
    cleaned = prepared(mesh)
    assert len(cleaned.faces) == len(ball.faces)
    assert shapes.volume(cleaned) > 0


def test_where_a_band_with_one_side_has_a_fold_its_odd_faces_meet_there() -> None:
    mesh = shapes.moebius()
    around = np.arctan2(mesh.vertices[:, 1], mesh.vertices[:, 0])
    bent = mesh.vertices + np.outer(np.abs(np.sin(around / 2)), [0, 0, 0.6]).astype(np.float32)
    rng = np.random.default_rng(3)
    faces = rng.permutation(mesh.faces)
    cleaned = prepared(Mesh(bent, faces))
    half = np.flatnonzero((twin := twins(cleaned.faces, len(cleaned.vertices))) >= 0)
    corner = cleaned.faces.reshape(-1)
    odd = half[corner[half] == corner[twin[half]]]
    # From one rim to the other, each edge of two halves, all across the fold.
    assert len(odd) == 2 * 8
    assert np.abs(cleaned.vertices[corner[odd], 1]).max() < 1e-6
    assert cleaned.vertices[corner[odd], 0].min() > 0


def test_duplicate_and_degenerate_faces_go() -> None:
    cleaned = prepared(shapes.soup())
    corners = np.sort(cleaned.faces, axis=1)
    assert (corners[:, 0] < corners[:, 1]).all()
    assert (corners[:, 1] < corners[:, 2]).all()
    assert len(np.unique(corners, axis=0)) == len(corners)
    assert len(np.unique(cleaned.faces)) == len(cleaned.vertices)


def test_faces_that_do_not_share_their_vertices_are_joined() -> None:
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
    # Two neighbouring faces, and one far from them.
    twins = np.flatnonzero(np.isin(mesh.faces, mesh.faces[5, :2]).sum(1) == 2)
    gone = np.unique(np.append(twins, len(mesh.faces) - 1))
    cleaned = prepared(Mesh(mesh.vertices, np.delete(mesh.faces, gone, axis=0)))
    assert shapes.is_closed(cleaned)
    assert shapes.volume(cleaned) == pytest.approx(shapes.volume(mesh), rel=1e-3)


def test_a_floater_goes_and_a_part_of_some_size_stays() -> None:
    large, part = shapes.sphere(24), shapes.sphere(8, radius=0.03)
    speck = shapes.sphere(2, radius=0.002)
    part = Mesh(part.vertices + np.float32(0.45), part.faces)
    speck = Mesh(speck.vertices - np.float32(0.45), speck.faces)
    cleaned = prepared(shapes.joined(large, part, speck))
    assert len(cleaned.faces) == len(large.faces) + len(part.faces)


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (np.zeros((3, 3)), np.zeros((0, 3)), "no faces"),
        (np.zeros((3, 2)), np.array([[0, 1, 2]]), "needs vertices"),
        (np.zeros((3, 3)), np.array([[0, 1, 3]]), "not there"),
        (np.zeros((3, 3)), np.array([[0, 1, -1]]), "not there"),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]]), "not finite"),
        (np.zeros((3, 3)), np.array([[0, 1, 1]]), "no face"),
    ],
)
def test_arrays_that_are_no_mesh_are_refused(
    vertices: np.ndarray, faces: np.ndarray, words: str
) -> None:
    with pytest.raises(ExportError, match=words):
        prepared(Mesh(vertices.astype(np.float32), faces.astype(np.int32)))


@pytest.mark.parametrize(
    ("coords", "attributes", "words"),
    [
        (np.zeros((0, 3)), np.zeros((0, 6)), "no voxels"),
        (np.zeros((1, 3)), np.zeros((1, 5)), "needs coords"),
        (np.full((1, 3), 4), np.zeros((1, 6)), "outside"),
        (np.zeros((1, 3)), np.full((1, 6), np.inf), "not finite"),
    ],
)
def test_arrays_that_are_no_field_are_refused(
    coords: np.ndarray, attributes: np.ndarray, words: str
) -> None:
    field = VoxelField(coords.astype(np.int32), attributes.astype(np.float32), 4)
    with pytest.raises(ExportError, match=words):
        export.textured_glb(shapes.sphere(4), field, texture_size=64)


def test_arrays_of_another_layout_give_the_same_mesh() -> None:
    mesh = shapes.torus()
    vertices = np.asfortranarray(mesh.vertices.astype(np.float64))
    faces = np.asfortranarray(mesh.faces.astype(np.int64))
    vertices.flags.writeable = False
    faces.flags.writeable = False
    cleaned = export.prepare(Mesh(vertices, faces), decimation_target=500)  # pyright: ignore[reportArgumentType]
    expected = export.prepare(mesh, decimation_target=500)
    np.testing.assert_array_equal(cleaned.vertices, expected.vertices)
    np.testing.assert_array_equal(cleaned.faces, expected.faces)
