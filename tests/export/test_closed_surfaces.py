"""Closed and manifold surfaces stay so, whatever the number of faces asked for.

Judged by trimesh, not by the exporter's own adjacency.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import shapes
from trellis2_server import export
from trellis2_server.export.decimate import decimate
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

#: Closed surfaces, and their Euler characteristic: 2 minus twice the genus, for each part.
CLOSED: Final[dict[str, tuple[Callable[[], Mesh], int]]] = {
    "sphere": (lambda: shapes.sphere(12), 2),
    "torus": (lambda: shapes.torus(24, 12), 0),
    "links": (shapes.links, 0),
    "thin box": (shapes.thin_box, 2),
    "plate of 1 hole": (lambda: shapes.pierced_plate(1, 1), 0),
    "plate of 15 holes": (lambda: shapes.pierced_plate(3, 5), -28),
    "plate of 196 holes": (lambda: shapes.pierced_plate(14, 14), -390),
    "cage": (lambda: shapes.cage(2), -54),
    "sphere beside a plate": (
        lambda: shapes.joined(shapes.sphere(12), shapes.pierced_plate(2, 2)),
        -4,
    ),
}


@cache
def closed(name: str) -> Mesh:
    return CLOSED[name][0]()


def faults(mesh: Mesh) -> list[str]:
    """Return what keeps a surface from being closed, manifold and wound consistently."""
    judged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    faces_of_edge = np.bincount(judged.edges_unique_inverse)
    # Around a vertex of a manifold, all faces follow each other in one fan.
    fans = trimesh.graph.connected_components(
        _corners_across_edges(mesh), nodes=np.arange(mesh.faces.size), min_len=1
    )
    return [
        text
        for text, is_wrong in (
            ("open edges", bool((faces_of_edge == 1).any())),
            ("edges of more than two faces", bool((faces_of_edge > 2).any())),
            ("not watertight", not judged.is_watertight),
            ("winding", not judged.is_winding_consistent),
            ("vertices of several fans", len(fans) != len(np.unique(mesh.faces))),
            ("unused vertices", len(np.unique(mesh.faces)) != len(mesh.vertices)),
        )
        if is_wrong
    ]


def _corners_across_edges(mesh: Mesh) -> np.ndarray:
    """Return the pairs of corners at the same vertex, of two faces that share an edge there."""
    half = np.concatenate([mesh.faces[:, [k, (k + 1) % 3]] for k in range(3)])
    first = np.arange(len(mesh.faces))
    corner = np.concatenate(
        [np.stack([3 * first + k, 3 * first + (k + 1) % 3], 1) for k in range(3)]
    )
    flip = half[:, 0] > half[:, 1]
    half[flip], corner[flip] = half[flip][:, ::-1], corner[flip][:, ::-1]
    order = np.lexsort(half.T)
    half, corner = half[order], corner[order]
    same = (half[1:] == half[:-1]).all(axis=1)
    return np.concatenate(
        [np.stack([corner[:-1][same][:, end], corner[1:][same][:, end]], 1) for end in range(2)]
    )


def euler(mesh: Mesh) -> int:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).euler_number


@pytest.mark.costly
@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(CLOSED)), share=st.floats(0, 1), is_split=st.booleans())
def test_what_is_closed_stays_closed_at_any_number_of_faces(
    *, name: str, share: float, is_split: bool
) -> None:
    whole = closed(name)
    assert faults(whole) == []
    target = max(4, round(len(whole.faces) * share**3))
    mesh = decimate(whole, target, min_split_faces=400 if is_split else 80_000)
    assert faults(mesh) == []
    assert euler(mesh) == euler(whole) == CLOSED[name][1]


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(["links", "plate of 15 holes", "cage", "sphere beside a plate"]),
    target=st.integers(4, 4000),
    is_remeshed=st.booleans(),
)
def test_what_is_closed_stays_closed_through_all_of_the_preparation(
    *, name: str, target: int, is_remeshed: bool
) -> None:
    whole = closed(name)
    mesh = export.prepare(
        whole, decimation_target=target, remesh_resolution=48 if is_remeshed else None
    )
    assert faults(mesh) == []
    assert is_remeshed or euler(mesh) == CLOSED[name][1]
    assert bool(mesh.warnings) is (len(mesh.faces) > target)


def test_a_warning_tells_how_many_faces_hold_the_topology() -> None:
    mesh = export.prepare(closed("plate of 196 holes"), decimation_target=1000)
    assert 1000 < len(mesh.faces) < 2500
    (warning,) = mesh.warnings
    assert warning.startswith("decimation_target: ")
    assert "1000" in warning
    assert str(len(mesh.faces)) in warning
    # Its faces are not turned inside out for nothing.
    assert shapes.volume(mesh) > 0.8 * shapes.volume(closed("plate of 196 holes"))
    assert export.prepare(closed("plate of 196 holes"), decimation_target=4000).warnings == ()


@pytest.mark.parametrize("target", [140, 300])
def test_the_open_parts_of_a_mesh_make_room_for_its_closed_ones(target: int) -> None:
    mesh = decimate(shapes.joined(shapes.sheet(), closed("plate of 15 holes")), target)
    assert len(mesh.faces) <= max(target, 200)
    parts = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).split(only_watertight=True)
    assert [part.euler_number for part in parts] == [CLOSED["plate of 15 holes"][1]]


@pytest.mark.parametrize("fault", ["open", "doubled", "flipped", "pinched"])
def test_planted_faults_are_found(fault: str) -> None:
    mesh = closed("plate of 15 holes")
    faces = mesh.faces.copy()
    if fault == "open":
        faces = faces[1:]
    elif fault == "doubled":
        faces = np.concatenate([faces, faces[:1]])
    elif fault == "flipped":
        faces[0] = faces[0, ::-1]
    else:  # two vertices that are far apart become one
        far = np.linalg.norm(mesh.vertices - mesh.vertices[0], axis=1).argmax()
        faces[faces == far] = 0
    assert faults(Mesh(mesh.vertices, faces)) != []


def test_an_open_surface_shows_what_decimation_without_that_care_does() -> None:
    whole = closed("plate of 196 holes")
    # With a rim, the topology may change: 196 holes in 400 faces.
    rim = np.flatnonzero((whole.vertices[whole.faces, 2] > 0).all(axis=1))[:40]
    mesh = decimate(Mesh(whole.vertices, np.delete(whole.faces, rim, axis=0)), 400)
    assert len(mesh.faces) <= 400
    assert "edges of more than two faces" in faults(mesh)
