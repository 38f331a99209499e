from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export.adjacency import twins
from trellis2_server.export.charts import (
    Charts,
    build_charts,
    face_normals,
    find_rings,
    flatten,
    halve,
    project_charts,
)
from trellis2_server.export.grouping import group_faces

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh


def charts_of(mesh: Mesh, density: float = 200.0) -> tuple[Charts, np.ndarray]:
    twin, normals = twins(mesh.faces, len(mesh.vertices)), face_normals(mesh)
    group = group_faces(mesh.vertices, mesh.faces, twin, normals, density)
    return build_charts(mesh, twin, normals, group, density, 256), twin


def one_chart(mesh: Mesh) -> Charts:
    return project_charts(
        mesh, np.zeros(len(mesh.faces), np.int32), np.array([[0, 0, 1]], np.float32)
    )


def ring() -> Mesh:
    def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        radius = 0.35 + 0.1 * v
        return np.stack([radius * np.cos(2 * np.pi * u), radius * np.sin(2 * np.pi * u), 0 * u], -1)

    return shapes.grid(200, 5, place, wraps=(True, False))


@pytest.mark.parametrize("shape", ["torus", "noisy_blob", "links", "sheet", "soup"])
def test_every_row_belongs_to_one_chart_and_one_vertex(shape: str) -> None:
    mesh = shapes.ALL[shape]()
    charts, _ = charts_of(mesh)
    np.testing.assert_array_equal(charts.source[charts.uv_faces], mesh.faces)
    owner = np.repeat(np.arange(charts.count), np.diff(charts.start))
    np.testing.assert_array_equal(
        owner[charts.uv_faces], np.repeat(charts.chart[:, None], 3, axis=1)
    )


def test_a_flat_chart_keeps_its_area_and_its_box() -> None:
    mesh = ring()
    charts = one_chart(mesh)
    area = face_normals(mesh)[:, 3].sum()
    assert charts.areas().sum() == pytest.approx(area, rel=1e-5)
    _, extent = charts.boxes()
    np.testing.assert_allclose(extent, [[0.9, 0.9]], rtol=1e-3)


def test_a_ring_is_found_and_halved_and_a_disc_is_not() -> None:
    mesh = ring()
    charts, twin = one_chart(mesh), twins(mesh.faces, len(mesh.vertices))
    is_ring = find_rings(charts, twin)
    assert is_ring.tolist() == [True]
    halves = halve(mesh, charts, twin, is_ring)
    assert halves.count == 2
    np.testing.assert_allclose(halves.areas(), charts.areas()[0] / 2, rtol=0.05)
    sheet = shapes.grid(20, 20, lambda u, v: np.stack([u, v, 0 * u], -1), wraps=(False, False))
    assert not find_rings(one_chart(sheet), twins(sheet.faces, len(sheet.vertices))).any()


def test_flattening_restores_the_area_of_a_bent_sheet() -> None:
    def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        angle = 1.2 * (u - 0.5)
        return np.stack([np.sin(angle), v, np.cos(angle)], -1) * 0.4

    mesh = shapes.grid(40, 40, place, wraps=(False, False))
    charts = one_chart(mesh)
    area = face_normals(mesh)[:, 3].sum()
    before = charts.areas().sum() / area
    flatten(mesh, charts, 200.0, 256)
    assert before < 0.96
    assert charts.areas().sum() / area == pytest.approx(1, abs=0.005)
