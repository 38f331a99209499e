"""Solids over HTTP: what a slicer gets, judged by trimesh."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
import trimesh

from tests.support import shapes
from tests.support.engines import GatedEngine
from tests.support.server import ON_RAY, encoded, fields, serving, until
from trellis2_server.export import untextured_glb
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Shape

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.server import Server

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@pytest.fixture(name="open_sheet", scope="module")
def serve_sheet() -> Generator[Server]:
    engine = GatedEngine()
    engine.returns["shape"] = Shape(shapes.sheet(), 64, state=None)
    with serving(engine) as server:
        server.wait_until_loaded()
        yield server


def test_a_job_and_its_export_are_solids_and_tell_of_thin_walls(open_sheet: Server) -> None:
    asked: dict[str, Any] = {"type": "stl", "solid": True, "min_wall_mm": 2, "size_mm": 80}
    reply = open_sheet.generate(fields(1, texture=False, decimation_target=2000, **asked))
    uid = reply.raise_for_status().headers["X-Job-Id"]
    (warning,) = json.loads(reply.headers["X-Warnings"])
    # The sheet has become a shell of a cell: 1.5 mm of 80 mm.
    assert warning.startswith("min_wall_mm: walls are thinner on ")
    assert open_sheet.client.get(f"/jobs/{uid}").json()["warnings"] == [warning]
    until(lambda: open_sheet.is_idle, "everything is stored")
    thick = {**asked, "size_mm": 400, "min_wall_mm": 1}
    exported = open_sheet.client.post(f"/jobs/{uid}/export", json=thick).raise_for_status()
    assert "X-Warnings" not in exported.headers
    for content, size_mm in ((reply.content, 80), (exported.content, 400)):
        mesh = trimesh.load_mesh(io.BytesIO(content), "stl")
        mesh.merge_vertices()
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume > 0
        assert mesh.extents.max() == pytest.approx(size_mm)
    glb = open_sheet.client.get(f"/jobs/{uid}/shape.glb").raise_for_status().content
    assert Glb(glb).json["asset"]["extras"]["solid"] is True
    again = open_sheet.client.post(f"/jobs/{uid}/export", json={"texture": False})
    assert again.content == glb


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"solid": True, "remesh": False}, ("solid", "remesh")),
        ({"solid": True, "compress": "draco"}, ("solid", "compress")),
        ({"min_wall_mm": 1}, ("min_wall_mm", "solid")),
        ({"solid": True, "mesh": encoded(untextured_glb(shapes.sphere(4)))}, ("solid", "mesh")),
    ],
)
def test_wrong_combinations_are_a_400_that_names_both(
    open_sheet: Server, raw: dict[str, Any], named: tuple[str, str]
) -> None:
    for path in ("/generate", "/generate_texture", "/send"):
        reply = open_sheet.client.post(path, json=fields(2, **raw))
        assert reply.status_code == 400, path
        assert all(name in reply.json()["text"] for name in named), path
