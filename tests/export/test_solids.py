"""Solids are what a slicer needs, judged by trimesh and by brute force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from tests.support import shapes
from trellis2_server import export
from trellis2_server.errors import ExportError
from trellis2_server.export import formats, solids
from trellis2_server.mesh import Mesh, PreparedMesh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SHAPES: Final[dict[str, Callable[[], Mesh]]] = {
    **shapes.ALL,
    "plate": lambda: shapes.pierced_plate(4, 4),
    "cage": lambda: shapes.cage(2),
    "ball in a ball": lambda: shapes.joined(shapes.sphere(16), shapes.sphere(12, radius=0.2)),
    "balls that meet at a point": lambda: shapes.joined(
        *(moved(shapes.sphere(12, radius=0.2), x) for x in (-0.2, 0.2))
    ),
}


def solid(mesh: Mesh, target: int, resolution: int = 48, min_wall: float = 0.0) -> PreparedMesh:
    return export.prepare(
        mesh,
        decimation_target=target,
        remesh_resolution=resolution,
        solid=True,
        min_wall=min_wall,
    )


def judged(mesh: Mesh) -> Any:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def crossing_pairs(mesh: Mesh) -> int:
    """Count the edges that go through faces with which they share no corner, by brute force."""
    points = mesh.vertices.astype(np.float64)
    a, b, c = (points[mesh.faces[:, k]] for k in range(3))
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    count = 0
    for start, stop in judged(mesh).edges_unique:
        p, q = points[start], points[stop]
        is_near = (low <= np.maximum(p, q)).all(1) & (high >= np.minimum(p, q)).all(1)
        is_near &= ~np.isin(mesh.faces, [start, stop]).any(1)
        near = np.flatnonzero(is_near)
        d, e, f = a[near] - p, b[near] - p, c[near] - p
        way = np.broadcast_to(q - p, d.shape)
        sides = [_volume(way, d, e), _volume(way, e, f), _volume(way, f, d)]
        at_p, at_q = _volume(d, e, f), _volume(d - way, e - way, f - way)
        passes = (np.min(sides, 0) > 0) | (np.max(sides, 0) < 0)
        count += int((passes & (at_p * at_q < 0)).sum())
    return count


def _volume(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.einsum("ij,ij->i", a, np.cross(b, c))


@pytest.mark.costly
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", [2500, 300])
def test_every_shape_becomes_a_solid(shape: str, target: int) -> None:
    mesh = solid(SHAPES[shape](), target, resolution=20 if shape == "soup" else 48)
    assert not [text for text in mesh.warnings if text.startswith("solid")]
    whole = judged(mesh)
    assert whole.is_watertight
    assert whole.is_winding_consistent
    for body in whole.split():
        assert body.volume > 0
    assert crossing_pairs(mesh) == 0
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)
    assert whole.area_faces.min() > 0
    above = [text for text in mesh.warnings if text.startswith("decimation_target")]
    assert bool(above) == (len(mesh.faces) > target)
    if above:
        assert str(len(mesh.faces)) in above[0]
        assert "touch itself" in above[0]


@pytest.mark.parametrize("shape", ["torus", "noisy_blob", "plate", "cage"])
def test_a_closed_shape_keeps_its_volume(shape: str) -> None:
    whole = SHAPES[shape]()
    assert shapes.volume(solid(whole, 2500)) == pytest.approx(shapes.volume(whole), rel=0.02)


@pytest.mark.parametrize("shape", ["torus", "noisy_blob", "cage"])
def test_a_surface_that_is_a_solid_already_is_kept(shape: str) -> None:
    whole = SHAPES[shape]()
    kept = solid(whole, 100_000)
    assert judged(kept).volume == pytest.approx(judged(whole).volume, rel=1e-5)
    assert (len(kept.vertices), len(kept.faces)) == (len(whole.vertices), len(whole.faces))
    apart, _ = cKDTree(kept.vertices).query(whole.vertices)
    assert apart.max() < 2**-21


def test_balls_that_meet_are_made_one() -> None:
    """Each of them is closed, both together are no solid."""
    balls = [moved(shapes.sphere(24, radius=0.2), x) for x in (-0.1, 0.1)]
    (body,) = judged(solid(shapes.joined(*balls), 2500)).split()
    one = 4 / 3 * np.pi * 0.2**3
    lens = np.pi * (2 * 0.2 - 0.2) ** 2 * (0.2**2 + 4 * 0.2 * 0.2) / (12 * 0.2)
    assert body.volume == pytest.approx(2 * one - lens, rel=0.05)


def test_inner_shells_are_gone() -> None:
    hollow = solid(SHAPES["ball in a ball"](), 2000)
    points = np.random.default_rng(3).uniform(-0.45, 0.45, (300, 3))
    radius = np.linalg.norm(points, axis=1)
    # Winding numbers by solid angles (van Oosterom and Strackee, 1983).
    a, b, c = (
        hollow.vertices[hollow.faces[:, k]].astype(float)[None] - points[:, None] for k in range(3)
    )
    la, lb, lc = (np.linalg.norm(each, axis=2) for each in (a, b, c))
    below = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
    angles = 2 * np.arctan2((a * np.cross(b, c)).sum(2), below)
    winding = angles.sum(axis=1) / (4 * np.pi)
    is_clear = np.abs(radius - 0.4) > 0.02
    np.testing.assert_allclose(winding[is_clear], (radius < 0.4)[is_clear], atol=1e-3)


def test_thin_sheets_stay_apart_when_they_are_decimated() -> None:
    plain = export.prepare(shapes.thin_box(), decimation_target=150, remesh_resolution=100)
    assert len(solids.touching_faces(plain)) > 0
    made = solid(shapes.thin_box(), 150, resolution=100)
    assert len(solids.touching_faces(made)) == 0
    assert crossing_pairs(made) == 0
    assert 150 < len(made.faces) < 2000


def moved(mesh: Mesh, x: float) -> Mesh:
    return Mesh(mesh.vertices + np.array([x, 0, 0], np.float32), mesh.faces)


def joined_at_a_vertex(one: Mesh, two: Mesh) -> Mesh:
    both = shapes.joined(one, two)
    faces = np.where(both.faces == len(one.vertices), 0, both.faces)
    used, where = np.unique(faces, return_inverse=True)
    return Mesh(both.vertices[used], where.reshape(-1, 3).astype(np.int32))


BALL, SMALL = shapes.sphere(8), shapes.sphere(6, radius=0.1)
INVERTED = Mesh(SMALL.vertices, SMALL.faces[:, ::-1].copy())
#: What a fault is called, and a mesh that has it.
PLANTED: Final[dict[str, Mesh]] = {
    "not closed": Mesh(BALL.vertices, BALL.faces[1:]),
    "more than two": Mesh(BALL.vertices, np.concatenate([BALL.faces, BALL.faces[:1]])),
    "not wound": Mesh(BALL.vertices, np.concatenate([BALL.faces[:1, ::-1], BALL.faces[1:]])),
    "single vertices": joined_at_a_vertex(BALL, moved(SMALL, 0.6)),
    "wound inward": shapes.joined(BALL, moved(INVERTED, 0.6)),
    "inner shells": shapes.joined(BALL, SMALL),
    "touches itself": shapes.joined(BALL, moved(SMALL, 0.4)),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_each_planted_fault_is_named(fault: str) -> None:
    faults = solids.find_faults(PLANTED[fault])
    assert any(fault in text for text in faults)
    warnings = solids.find_warnings(PLANTED[fault], 0.0)
    assert warnings == [f"solid: the surface {text}" for text in faults]


def test_solids_of_several_parts_have_no_fault() -> None:
    assert solids.find_faults(BALL) == []
    assert solids.find_faults(shapes.joined(BALL, moved(SMALL, 0.6), moved(SMALL, -0.6))) == []


@pytest.mark.parametrize(("min_wall", "is_thin"), [(0.02, False), (0.2, True)])
def test_walls_below_the_least_thickness_are_told(min_wall: float, *, is_thin: bool) -> None:
    plate = shapes.blocks(np.ones((20, 20, 2), bool))  # a tenth as thick as it is long
    mesh = solid(plate, 2000, min_wall=min_wall)
    assert bool(mesh.warnings) is is_thin
    if is_thin:
        (warning,) = mesh.warnings
        assert warning.startswith("min_wall_mm: walls are thinner on 8")  # the two sides: 83 %
        assert "have 50% of it, 10 mm" in warning


@pytest.mark.costly
def test_a_solid_stays_one_in_the_files_for_slicers() -> None:
    mesh = solid(shapes.ALL["sheet"](), 1500, resolution=100)
    glb = export.untextured_glb(mesh)
    stl = trimesh.load_mesh(trimesh.util.wrap_as_stream(formats.convert(glb, "stl")), "stl")
    stl.merge_vertices()
    assert len(stl.faces) == len(mesh.faces)
    assert len(stl.vertices) == len(mesh.vertices)
    assert stl.is_watertight
    assert stl.is_winding_consistent
    assert stl.volume > 0
    assert stl.extents.max() == pytest.approx(100)
    assert crossing_pairs(Mesh(stl.vertices.astype(np.float32), stl.faces.astype(np.int32))) == 0


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 20), size=st.floats(0.02, 0.6))
def test_random_triangles_become_solids(seed: int, count: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-0.3, 0.3, (count, 1, 3))
    corners = middle + rng.uniform(-size, size, (count, 3, 3))
    faces = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    try:
        mesh = solid(Mesh(corners.reshape(-1, 3).astype(np.float32), faces), 400, resolution=24)
    except ExportError:
        return  # no triangle crosses an edge of the grid
    assert not [text for text in mesh.warnings if text.startswith("solid")]
    assert judged(mesh).is_watertight
    assert judged(mesh).is_winding_consistent
    assert crossing_pairs(mesh) == 0


def test_boxes_that_cross_are_made_one_coarse_solid() -> None:
    box = shapes.blocks(np.ones((2, 2, 2), bool))
    other = Mesh(box.vertices * np.float32(0.6) + np.float32(0.25), box.faces)
    made, sentences = solids.make_solid(shapes.joined(box, other), 200, 12, 0.0)
    assert not sentences
    assert shapes.is_closed(made)
    assert len(made.faces) <= 200
    assert not solids.find_faults(made)
    assert max(shapes.volume(box), shapes.volume(other)) < shapes.volume(made)
    assert shapes.volume(made) < shapes.volume(box) + shapes.volume(other)
    # One that is a solid already stays as it is.
    again, sentences = solids.make_solid(box, 200, 12, 0.0)
    assert not sentences
    assert len(again.faces) == len(box.faces)
