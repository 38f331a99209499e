from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import shapes
from trellis2_server import export
from trellis2_server.errors import ExportError
from trellis2_server.export import parallel
from trellis2_server.export.adjacency import twins
from trellis2_server.export.deviation import deviation
from trellis2_server.export.parts import Parts
from trellis2_server.export.remesh import remesh
from trellis2_server.export.validation import checked_mesh
from trellis2_server.mesh import Mesh


def wrapped(mesh: Mesh, resolution: int = 64) -> Mesh:
    return remesh(checked_mesh(mesh), resolution)


def parts(mesh: Mesh) -> int:
    twin = twins(mesh.faces, len(mesh.vertices))
    return Parts(mesh.vertices, mesh.faces, twin).count


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)]
    vertices = np.array(low) + corners * (np.array(high) - np.array(low))
    return Mesh(vertices.astype(np.float32), np.array(faces, np.int32))


@pytest.mark.costly
@pytest.mark.parametrize("shape", shapes.ALL)
@pytest.mark.parametrize("resolution", [24, 60])
def test_every_mesh_gets_a_watertight_shell(shape: str, resolution: int) -> None:
    shell = wrapped(shapes.ALL[shape](), resolution)
    assert shapes.is_closed(shell)
    assert len(np.unique(shell.faces)) == len(shell.vertices)
    assert shapes.volume(shell) > 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), size=st.floats(0.02, 0.6))
def test_random_triangles_get_a_watertight_shell(seed: int, count: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-0.3, 0.3, (count, 1, 3))
    corners = middle + rng.uniform(-size, size, (count, 3, 3))
    faces = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    try:
        shell = wrapped(Mesh(corners.reshape(-1, 3).astype(np.float32), faces), 24)
    except ExportError:
        return  # no triangle crosses an edge of the grid
    assert shapes.is_closed(shell)


@pytest.mark.parametrize(
    ("shape", "count"),
    [("torus", 1), ("noisy_blob", 1), ("links", 2), ("sheet", 1), ("moebius", 1)],
)
def test_each_connected_solid_gets_one_shell(shape: str, count: int) -> None:
    assert parts(wrapped(shapes.ALL[shape](), 100)) == count


@pytest.mark.parametrize("shape", ["torus", "sphere", "noisy_blob", "links"])
def test_a_closed_surface_does_not_move(shape: str) -> None:
    mesh = shapes.ALL[shape]()
    shell = wrapped(mesh, 100)
    assert shapes.volume(shell) == pytest.approx(shapes.volume(mesh), rel=2e-3)
    for error in (deviation(mesh, shell, 100), deviation(shell, mesh, 100)):
        assert error.p99 < 0.15
        assert error.largest < 0.6


def test_edges_and_corners_of_a_box_stay_sharp() -> None:
    mesh = box((-0.31, -0.22, -0.37), (0.29, 0.33, 0.24))
    shell = wrapped(mesh, 50)
    # Although no corner of the grid lies on its corners and edges.
    error = deviation(mesh, shell, 50)
    assert error.largest < 0.1
    assert shapes.volume(shell) == pytest.approx(shapes.volume(mesh), rel=2e-3)


def test_a_sheet_becomes_a_shell_of_one_cell() -> None:
    mesh = shapes.sheet()
    shell = wrapped(mesh, 100)
    out, back = deviation(shell, mesh, 100), deviation(mesh, shell, 100)
    assert out.p99 < 0.7
    assert out.largest < 1.2
    assert back.largest < 1.0
    area = clean_area(mesh)
    assert shapes.volume(shell) == pytest.approx(area / 100, rel=0.1)


def clean_area(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def test_inner_walls_are_dropped_and_touching_parts_are_united() -> None:
    outer, inner = shapes.sphere(32, radius=0.4), shapes.sphere(32, radius=0.3)
    hollow = shapes.joined(outer, Mesh(inner.vertices, inner.faces[:, ::-1].copy()))
    shell = wrapped(hollow, 80)
    assert parts(shell) == 1
    assert shapes.volume(shell) == pytest.approx(shapes.volume(outer), rel=5e-3)
    across = shapes.joined(
        box((-0.4, -0.1, -0.1), (0.1, 0.1, 0.1)), box((0, -0.2, -0.2), (0.4, 0.2, 0.2))
    )
    shell = wrapped(across, 80)
    assert parts(shell) == 1
    assert shapes.volume(shell) == pytest.approx(0.4 * 0.2 * 0.2 + 0.4**3, rel=5e-3)


def test_a_surface_with_small_holes_and_random_winding_becomes_a_solid() -> None:
    mesh = shapes.sphere(48, radius=0.4)
    rng = np.random.default_rng(3)
    faces = mesh.faces[rng.random(len(mesh.faces)) > 0.01].copy()
    turned = rng.random(len(faces)) < 0.5
    faces[turned] = faces[turned][:, ::-1]
    shell = wrapped(Mesh(mesh.vertices, faces), 64)
    assert parts(shell) == 1
    assert shapes.is_closed(shell)
    assert shapes.volume(shell) == pytest.approx(shapes.volume(mesh), rel=0.01)


def test_the_same_points_are_inside_as_before() -> None:
    mesh = shapes.noisy_blob()
    shell = wrapped(mesh, 48)
    points = np.random.default_rng(5).uniform(-0.45, 0.45, (400, 3))
    found, wanted = (
        np.array([crossings(p, *surface.vertices[surface.faces.T].astype(float)) for p in points])
        for surface in (shell, mesh)
    )
    assert (found % 2 != wanted % 2).mean() < 0.01
    assert 0.2 < (found % 2).mean() < 0.8


def crossings(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> int:
    """How often a ray from the point along x meets the faces."""

    def side(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (v[:, 1] - u[:, 1]) * (p[2] - u[:, 2]) - (v[:, 2] - u[:, 2]) * (p[1] - u[:, 1])

    ab, bc, ca = side(a, b), side(b, c), side(c, a)
    hit = ((ab > 0) & (bc > 0) & (ca > 0)) | ((ab < 0) & (bc < 0) & (ca < 0))
    x = (bc * a[:, 0] + ca * b[:, 0] + ab * c[:, 0])[hit] / (ab + bc + ca)[hit]
    return int((x > p[0]).sum())


def test_the_bytes_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(parallel, "_THREADS", threads)
        shell = wrapped(shapes.links(), 100)
        results.append((shell.vertices.tobytes(), shell.faces.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("shape", ["noisy_blob", "sheet", "moebius", "links", "soup"])
def test_a_decimated_shell_is_watertight_and_meets_the_target(shape: str) -> None:
    mesh = export.prepare(shapes.ALL[shape](), decimation_target=20_000, remesh_resolution=100)
    assert shapes.is_closed(mesh)
    assert 19_600 <= len(mesh.faces) <= 20_000


def test_a_remeshed_model_is_single_sided_and_keeps_its_colours() -> None:
    original, field = shapes.sheet(), shapes.field(64)
    mesh = export.prepare(original, decimation_target=6000, remesh_resolution=64)
    content = export.textured_glb(mesh, field, original=original, texture_size=256)
    assert b"doubleSided" not in content
    assert b'"error_voxels":' in content


def test_other_threads_run_during_remeshing() -> None:
    mesh = checked_mesh(shapes.torus(400, 200))
    remesh(mesh, 24)
    end, gaps = threading.Event(), []

    def beat() -> None:
        last = time.perf_counter()
        while not end.wait(0.001):
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=beat)
    thread.start()
    remesh(mesh, 200)
    end.set()
    thread.join()
    assert len(gaps) > 50
    assert np.median(gaps) < 0.05


def test_a_mesh_that_is_too_large_or_too_small_is_an_error() -> None:
    with pytest.raises(ExportError, match="too large"):
        wrapped(shapes.torus(), 20_000)
    speck = Mesh(shapes.sphere(2).vertices * np.float32(1e-3), shapes.sphere(2).faces)
    with pytest.raises(ExportError, match="Nothing remains"):
        wrapped(speck, 64)
