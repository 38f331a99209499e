"""Exporting the model of a job again, over HTTP."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import ON_RAY, encoded, fields, serving, settings, until
from trellis2_server.errors import EngineError
from trellis2_server.inputs.meshes import Glb
from trellis2_server.storage import snapshots

if TYPE_CHECKING:
    from tests.support.server import Server

in_this_process = pytest.mark.skipif(ON_RAY, reason="needs the single process")


def export(server: Server, job: dict[str, Any], **parameters: Any) -> httpx.Response:
    return server.client.post(f"/jobs/{job['uid']}/export", json=parameters)


def test_an_export_without_parameters_returns_the_stored_file(
    server: Server, engine: GatedEngine, job: dict[str, Any]
) -> None:
    calls = list(engine.calls)
    for reply in (export(server, job), server.client.post(f"/jobs/{job['uid']}/export")):
        assert reply.content == job["textured.glb"]
        assert reply.headers["X-Job-Id"] == job["uid"]
    assert export(server, job, texture=False).content == job["shape.glb"]
    assert engine.calls == calls


def test_an_export_applies_the_parameters(server: Server, job: dict[str, Any]) -> None:
    reply = export(server, job, texture_size=512, texture_format="png", alpha_mode="BLEND")
    glb = Glb(reply.raise_for_status().content)
    with Image.open(io.BytesIO(glb.view(glb.item("images", 0)["bufferView"]))) as image:
        assert (image.format, image.size) == ("PNG", (512, 512))
    assert glb.item("materials", 0)["alphaMode"] == "BLEND"
    by_form = server.client.post(
        f"/jobs/{job['uid']}/export", files={"texture_size": (None, "512"), "type": (None, "stl")}
    )
    assert by_form.headers["Content-Type"] == "model/stl"
    assert (
        server.client.get(f"/jobs/{job['uid']}/textured.glb").content == job["textured.glb"]
    )  # unchanged


def test_an_export_bakes_occlusion_if_it_is_asked_to(server: Server, job: dict[str, Any]) -> None:
    reply = export(server, job, occlusion=True).raise_for_status()
    (material,) = Glb(reply.content).json["materials"]
    shared = material["pbrMetallicRoughness"]["metallicRoughnessTexture"]
    assert material["occlusionTexture"] == shared
    assert export(server, job, occlusion=False).content == job["textured.glb"]


def test_an_export_bakes_a_normal_map_if_it_is_asked_to(
    server: Server, job: dict[str, Any]
) -> None:
    glb = Glb(export(server, job, normal_map=True).raise_for_status().content)
    assert "normalTexture" in glb.json["materials"][0]
    assert "TANGENT" in glb.json["meshes"][0]["primitives"][0]["attributes"]


def test_an_export_has_levels_of_detail_if_it_is_asked_to(
    server: Server, job: dict[str, Any]
) -> None:
    for lods in ([4000, 500], "4000,500"):
        glb = Glb(export(server, job, lods=lods).raise_for_status().content)
        assert [node["name"] for node in glb.json["nodes"]] == ["model", "model_lod1"]
        assert len(glb.json["asset"]["extras"]["lods"]) == 2


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        ({"lods": [4000, 500], "type": "usdz"}, "lods: type usdz"),
        (
            {"occlusion": True, "texture": False},
            "occlusion: needs a texture, but texture is false",
        ),
        ({"occlusion": True, "type": "stl"}, "occlusion: type stl"),
        ({"texture_size": "huge"}, "texture_size"),
        ({"type": "exe"}, "type"),
        ({"texture": 3}, "tex"),
    ],
)
def test_an_invalid_export_parameter_is_named(
    server: Server, job: dict[str, Any], parameters: dict[str, Any], cause: str
) -> None:
    reply = export(server, job, **parameters)
    assert reply.status_code == 400
    assert reply.json()["text"].startswith(cause)


def test_an_uploaded_mesh_can_be_exported_again(server: Server, job: dict[str, Any]) -> None:
    mesh = fields(3, texture=True, mesh=encoded(job["shape.glb"]))
    made = server.generate(mesh)
    uid = made.raise_for_status().headers["X-Job-Id"]
    until(lambda: server.is_idle, "everything is stored")
    assert server.client.post(f"/jobs/{uid}/export").content == made.content


def test_a_job_without_snapshots_cannot_be_exported() -> None:
    with serving(GatedEngine(), settings(worker={"max_kept_bytes": 0})) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "all is done")
        assert not server.client.get(f"/jobs/{uid}").json()["can_export"]
        reply = server.client.post(f"/jobs/{uid}/export")
        assert reply.status_code == 404
        assert "no longer stored; send the picture again" in reply.json()["text"]


def test_an_untextured_job_is_exported_untextured(server: Server) -> None:
    made = server.generate(fields(texture=False))
    uid = made.headers["X-Job-Id"]
    until(lambda: server.is_idle, "everything is stored")
    assert server.client.post(f"/jobs/{uid}/export").content == made.content
    refused = server.client.post(f"/jobs/{uid}/export", json={"texture": True})
    assert refused.status_code == 404
    assert "texture" in refused.json()["text"]


class HeldExport:
    """An export that waits at a gate, and can be cancelled."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.running = 0
        self.most = 0

    def __call__(self, *arguments: Any) -> bytes:
        report = arguments[-1]
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            while not self.gate.wait(0.01):
                report("held", 0, 1)
            return b"exported"
        finally:
            self.running -= 1
            self.ended.set()


@in_this_process
def test_exports_are_limited_by_the_pool_and_count_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = HeldExport()
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", held)
    limits = {"limit_model_concurrency": 2, "max_queue_length": 3}
    with serving(GatedEngine(), settings(worker=limits)) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        replies: list[httpx.Response] = []

        def request_export() -> None:
            replies.append(server.client.post(f"/jobs/{uid}/export"))

        threads = [threading.Thread(target=request_export) for _ in range(5)]
        for at, thread in enumerate(threads, 1):
            thread.start()
            until(lambda at=at: server.queue_length == at, "queued")
        full = server.client.post(f"/jobs/{uid}/export")
        assert full.status_code == 503
        assert "the queue is full" in full.json()["text"]
        assert server.generate(fields(1, seed=2)).status_code == 503
        held.gate.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert [reply.content for reply in replies] == [b"exported"] * 5
        assert held.most == 2
        assert server.generate(fields(1, seed=2)).is_success


@in_this_process
def test_an_export_stops_when_its_client_disconnects(
    server: Server, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldExport()
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", held)
    with httpx.Client(base_url=server.url, timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"/jobs/{job['uid']}/export")
        assert held.begun.is_set()
    assert held.ended.wait(PATIENCE_S)
    until(lambda: server.is_idle, "idle")


@in_this_process
def test_a_failed_export_reports_the_cause_and_leaves_the_job_unchanged(
    server: Server, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise EngineError("no such luck")

    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", fail)
    reply = export(server, job)
    assert (reply.status_code, reply.json()["text"]) == (500, "no such luck")
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", snapshots.export_again)
    assert export(server, job).content == job["textured.glb"]


@in_this_process
def test_a_shutdown_answers_clients_that_wait_for_an_export(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = HeldExport()
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", held)
    quick = settings(server={"shutdown_grace_seconds": 0.1})
    with serving(GatedEngine(), quick) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        replies: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: replies.append(server.client.post(f"/jobs/{uid}/export"))
        )
        thread.start()
        assert held.begun.wait(PATIENCE_S)
        server.close_soon()
        thread.join(PATIENCE_S)
        assert replies[0].status_code == 503
        assert held.ended.wait(PATIENCE_S)


def test_requests_and_exports_above_the_servers_maximum_are_lowered_to_it() -> None:
    capped = {"glb_texture_size": 256, "max_texture_size": 512}
    with serving(GatedEngine(), settings(export=capped)) as server:
        server.wait_until_loaded()
        body = fields(texture=True, texture_size=4096)
        uid = server.client.post("/send", json=body).json()["uid"]
        server.client.post("/generate_texture", json={"uid": uid}).raise_for_status()
        made = server.client.get(f"/jobs/{uid}").json()
        assert made["parameters"]["texture_size"] == 512
        assert server.generate(body).headers["X-Job-Id"] == made["uid"]
        larger = export(server, made, texture_size=8192, texture_format="png")
        glb = Glb(larger.raise_for_status().content)
        with Image.open(io.BytesIO(glb.view(glb.item("images", 0)["bufferView"]))) as image:
            assert image.size == (512, 512)
