"""What the exporter could not do is told in the header `X-Warnings`, in the job and in the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import shapes
from tests.support.engines import GatedEngine
from tests.support.server import ON_RAY, fields, serving, until
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Shape

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx

    from tests.support.server import Server

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")

#: As few faces as a request may ask for; the plate's 196 holes need more.
FEW = 1000


@pytest.fixture(name="plate")
def serve_plate() -> Generator[Server]:
    engine = GatedEngine()
    engine.returns["shape"] = Shape(shapes.pierced_plate(14, 14), 8, state=None)
    with serving(engine) as server:
        server.wait_until_loaded()
        yield server


def warnings(reply: httpx.Response) -> list[str]:
    return json.loads(reply.raise_for_status().headers.get("X-Warnings", "[]"))


def test_a_model_that_stays_above_the_number_of_faces_says_so(plate: Server) -> None:
    reply = plate.generate(fields(1, texture=True, decimation_target=FEW))
    (warning,) = warnings(reply)
    extras = Glb(reply.content).json["asset"]["extras"]
    assert extras["faces"] > FEW
    assert warning.startswith(f"decimation_target: the model stays above {FEW} faces")
    assert str(extras["faces"]) in warning
    assert extras["warnings"] == [warning]
    uid = reply.headers["X-Job-Id"]
    assert plate.client.get(f"/jobs/{uid}").json()["warnings"] == [warning]
    # It is also told to those who get the job's file later, in another type.
    assert warnings(plate.generate(fields(1, decimation_target=FEW, type="stl"))) == [warning]


def test_a_further_export_tells_its_own_warnings(plate: Server) -> None:
    made: dict[str, Any] = {"texture": True, "decimation_target": 20_000}
    reply = plate.generate(fields(1, **made))
    assert warnings(reply) == []
    uid = reply.headers["X-Job-Id"]
    until(lambda: plate.is_idle, "everything is stored")
    for file_type in ("glb", "stl"):
        few = {"decimation_target": FEW, "type": file_type, "texture": False}
        (warning,) = warnings(plate.client.post(f"/jobs/{uid}/export", json=few))
        assert warning.startswith("decimation_target: ")
    enough = {"decimation_target": 5000}
    assert warnings(plate.client.post(f"/jobs/{uid}/export", json=enough)) == []
    assert not plate.client.get(f"/jobs/{uid}").json().get("warnings")
