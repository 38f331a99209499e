"""Exports of jobs that are not finished, failed, or have just ended."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import ON_RAY, encoded, fields, serving, until
from trellis2_server.errors import EngineError
from trellis2_server.inputs.meshes import Glb
from trellis2_server.jobs import step_calls
from trellis2_server.request_fields import EXTENSIONS

if TYPE_CHECKING:
    import httpx

    from tests.support.server import Server

in_this_process = pytest.mark.skipif(ON_RAY, reason="needs the single process")


def export(server: Server, uid: str, **parameters: Any) -> httpx.Response:
    return server.client.post(f"/jobs/{uid}/export", json=parameters)


def has_failed(server: Server, uid: str) -> bool:
    return "error" in server.client.get(f"/jobs/{uid}").json()


def is_textured(reply: httpx.Response) -> bool:
    return bool(Glb(reply.raise_for_status().content).json.get("textures"))


@in_this_process
@pytest.mark.parametrize("parameters", [{}, {"texture": True}, {"decimation_target": 1500}])
def test_an_export_right_after_the_textured_model_waits_for_the_texture(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), threading.Event()
    snapshot_field = step_calls.StepCalls.snapshot_field

    def held(self: Any, field: Any) -> Any:
        make = snapshot_field(self, field)

        def make_when_open() -> bytes:
            begun.set()
            assert gate.wait(PATIENCE_S)
            return make()

        return make_when_open

    monkeypatch.setattr(step_calls.StepCalls, "snapshot_field", held)
    with serving(GatedEngine()) as server:
        server.wait_until_loaded()
        made = server.generate(fields(texture=True))
        uid = made.raise_for_status().headers["X-Job-Id"]
        replies: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: replies.append(export(server, uid, **parameters)))
        thread.start()
        assert begun.wait(PATIENCE_S)
        assert export(server, uid, texture=False).is_success
        gate.set()
        thread.join(PATIENCE_S)
        assert is_textured(replies[0])


@in_this_process
def test_a_job_whose_texture_is_not_stored_is_not_exported_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> bytes:
        raise MemoryError

    def without_field(*_: object) -> Any:
        return fail

    monkeypatch.setattr(step_calls.StepCalls, "snapshot_field", without_field)
    with serving(GatedEngine()) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).raise_for_status().headers["X-Job-Id"]
        for parameters in ({}, {"texture": True}):
            reply = export(server, uid, **parameters)
            assert reply.status_code == 404
            assert "texture of this job is no longer stored" in reply.json()["text"]
        assert not is_textured(export(server, uid, texture=False))


def test_a_job_without_its_model_is_not_exported_yet() -> None:
    engine = GatedEngine("shape", "texture")
    with serving(engine) as server:
        server.wait_until_loaded()
        uid = server.client.post("/send", json=fields(texture=True)).json()["uid"]
        engine.wait_for("shape")
        for parameters in ({}, {"texture": False}, {"texture": True}):
            reply = export(server, uid, **parameters)
            assert (reply.status_code, reply.json()["error_code"]) == (409, 2)
            assert "untextured model of this job is not there yet" in reply.json()["text"]
        engine.gates["shape"].set()
        until(lambda: server.client.get(f"/jobs/{uid}").json()["shape_ready"], "the shape")
        for parameters in ({}, {"texture": True}):
            reply = export(server, uid, **parameters)
            assert reply.status_code == 409
            assert "the texture of this job is not there yet" in reply.json()["text"]
        assert not is_textured(export(server, uid, texture=False))
        engine.gates["texture"].set()
        until(lambda: server.client.get(f"/jobs/{uid}").json()["texture_ready"], "the texture")
        assert is_textured(export(server, uid))


def test_a_job_that_failed_says_why_when_it_is_exported() -> None:
    engine = GatedEngine("shape")
    engine.failures["shape"] = EngineError("odd")
    with serving(engine) as server:
        server.wait_until_loaded()
        uid = server.client.post("/send", json=fields()).json()["uid"]
        engine.open_all()
        until(lambda: has_failed(server, uid), "failed")
        reply = export(server, uid)
        assert (reply.status_code, reply.json()["text"]) == (500, "odd")
        engine.gates["shape"].clear()
        cancelled = server.client.post("/send", json=fields(1)).json()["uid"]
        server.client.delete(f"/jobs/{cancelled}")
        until(lambda: export(server, cancelled).json()["error_code"] == 5, "cancelled")
        engine.open_all()


def test_a_job_whose_input_was_wrong_says_so_when_it_is_exported(server: Server) -> None:
    sent = fields(mesh=encoded(b"not a mesh"))
    uid = server.client.post("/send", json=sent).json()["uid"]
    until(lambda: has_failed(server, uid), "failed")
    reply = export(server, uid, type="stl")
    assert reply.status_code == 400
    assert reply.json()["text"].startswith("mesh: ")


@pytest.mark.parametrize("file_type", EXTENSIONS)
def test_an_export_has_a_file_name_to_save_it_under(
    server: Server, job: dict[str, Any], file_type: Any
) -> None:
    disposition = export(server, job["uid"], type=file_type).headers["Content-Disposition"]
    name = f"{job['uid']}-export.{EXTENSIONS[file_type]}"
    assert disposition == f'attachment; filename="{name}"'
    assert "Content-Disposition" not in server.generate().headers
