"""Hunyuan3D's protocol over HTTP."""

from __future__ import annotations

import io
import json
import re
import uuid
import zipfile
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.support.engines import GatedEngine
from tests.support.hunyuan import finished, send, status_text
from tests.support.meshes import load_scene
from tests.support.server import ON_RAY, encoded, fields, serving, settings, until
from trellis2_server import pipeline
from trellis2_server.errors import EngineError, ExportError

if TYPE_CHECKING:
    from tests.support.server import Server

# ---- /send and /status/{uuid} ------------------------------------------------------------


def test_a_sent_job_goes_through_exactly_the_expected_states(
    server: Server, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()
    engine.gates["texture"].clear()
    uid = send(server, fields(texture=True))
    assert status_text(server, uid) == '{"status":"processing"}'
    engine.gates["shape"].set()
    until(lambda: "texturing" in status_text(server, uid), "texturing")
    assert status_text(server, uid) == '{"status":"texturing"}'
    engine.gates["texture"].set()
    model = finished(server, uid)
    assert model == server.generate(fields(texture=True)).content
    reply = server.client.get(f"/status/{uid}")
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.content)


def test_a_sent_job_without_texture_is_completed_with_the_shape_and_makes_no_texture(
    server: Server, engine: GatedEngine
) -> None:
    uid = send(server, fields())
    model = finished(server, uid)
    assert model == server.generate(fields(texture=False)).content
    assert {stage for stage, _ in engine.calls} - {"load"} == {"shape"}


def test_each_uid_of_the_same_job_returns_the_model_that_was_requested_with_it(
    server: Server, engine: GatedEngine
) -> None:
    plain, textured = send(server, fields()), send(server, fields(texture=True))
    shape, model = finished(server, plain), finished(server, textured)
    assert shape != model
    assert finished(server, plain) == shape
    assert send(server, fields()) == plain
    assert [stage for stage, _ in engine.calls].count("shape") == 1


def test_a_failed_job_reports_only_the_cause(server: Server, engine: GatedEngine) -> None:
    engine.failures["shape"] = EngineError('the "shape" stage failed')
    uid = send(server, fields())
    until(lambda: "error" in status_text(server, uid), "error")
    text = status_text(server, uid)
    assert text == json.dumps(
        {"status": "error", "message": 'the "shape" stage failed'}, separators=(",", ":")
    )


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
def test_a_sent_job_without_its_untextured_model_reports_the_cause_and_others_the_textured_one(
    server: Server, engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ExportError("no faces are left")

    engine.gates["shape"].clear()
    textured, plain = send(server, fields(texture=True)), send(server, fields())
    monkeypatch.setattr(pipeline, "export_shape", fail)
    engine.gates["texture"].clear()
    engine.gates["shape"].set()
    error = '{"status":"error","message":"no faces are left"}'
    until(lambda: status_text(server, plain) == error, "the cause")
    assert status_text(server, textured) == '{"status":"processing"}'
    engine.gates["texture"].set()
    finished(server, textured)
    assert status_text(server, plain) == error


def test_a_sent_invalid_picture_makes_its_job_fail(server: Server) -> None:
    uid = send(server, {"image": encoded(b"not a picture")})
    until(lambda: "error" in status_text(server, uid), "error")
    assert json.loads(status_text(server, uid))["message"].startswith("image")


def test_an_unknown_uid_is_not_found(server: Server) -> None:
    reply = server.client.get(f"/status/{uuid.uuid4()}")
    assert reply.status_code == 404
    assert reply.json().keys() == {"text", "error_code"}


def test_a_hash_gets_the_native_form_and_a_uid_hunyuans(server: Server) -> None:
    reply = server.generate(fields(texture=True))
    native = server.status(reply.headers["x-image-hash"])
    assert native["status"] == "completed"
    assert native["uid"] == reply.headers["x-job-id"]
    assert finished(server, reply.headers["x-job-id"]) == reply.content
    assert finished(server, reply.headers["x-job-id"].upper()) == reply.content


def test_the_uid_of_a_sent_job_works_on_native_routes_too(server: Server) -> None:
    uid = send(server, fields())
    textured = server.texture(uid=uid)
    assert textured.is_success
    assert textured.headers["x-job-id"] != uid


def test_the_uid_of_a_sent_job_is_removed_with_the_job() -> None:
    short = {"job_max_age_seconds": 0.2, "job_cleanup_interval_seconds": 0.05}
    with serving(GatedEngine(), settings(worker=short)) as server:
        server.wait_until_loaded()
        uid = send(server, fields())
        table = server.manager.registry
        until(lambda: not len(table), "removed")  # requests for its status would prolong it
        assert server.client.get(f"/status/{uid}").status_code == 404
        assert not table._aliases
        assert not table._alias_of
        assert not table._by_shape


def test_a_client_that_times_out_and_retries_gets_the_same_job(
    server: Server, engine: GatedEngine
) -> None:
    engine.gates["texture"].clear()
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/generate", json=fields(texture=True), timeout=0.3)
    engine.gates["texture"].set()
    assert server.generate(fields(texture=True)).is_success
    assert server.generate(fields(texture=True)).is_success
    assert [stage for stage, _ in engine.calls].count("shape") == 1
    assert [stage for stage, _ in engine.calls].count("texture") == 1


# ---- health, prefix, keys ----------------------------------------------------------------


def test_health_and_ping_have_the_expected_form(server: Server) -> None:
    text = server.client.get("/health").text
    assert re.fullmatch(r'{"status":"healthy","worker_id":"[0-9a-z]{6}"}', text)
    assert server.client.get("/health").text == text
    assert server.client.get("/status/test").is_success


def test_health_is_503_while_the_engine_loads() -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        until(lambda: hasattr(server.app.state, "manager"), "started")
        reply = server.client.get("/health")
        assert reply.status_code == 503
        assert reply.json()["status"] == "loading"
        assert reply.json().keys() == {"status", "worker_id"}


def test_every_route_exists_under_api_too(server: Server) -> None:
    client = server.client
    for path in ("/health", "/healthcheck", "/worker_status", "/status/test"):
        assert client.get(f"/api{path}").text == client.get(path).text
    uid = send(server, fields(), "/api")
    assert finished(server, uid) == client.post("/api/generate", json=fields()).content
    assert client.get(f"/api/status/{uid}").text == status_text(server, uid)
    assert client.post("/api/generate_texture", json={"uid": uid}).is_success


def test_pings_need_no_key_but_jobs_do() -> None:
    with serving(GatedEngine(), settings(server={"api_keys": ["secret"]})) as server:
        server.wait_until_loaded()
        for prefix in ("", "/api"):
            assert server.client.get(f"{prefix}/health").is_success
            assert server.client.get(f"{prefix}/status/test").is_success
            assert server.client.post(f"{prefix}/send", json=fields()).status_code == 401
            assert server.client.get(f"{prefix}/status/{uuid.uuid4()}").status_code == 401


# ---- fields ------------------------------------------------------------------------------


def test_hunyuans_fields_set_the_first_two_stages_unless_native_fields_do(server: Server) -> None:
    sent = fields(guidance_scale="3.5", num_inference_steps=999, shape_sampling_steps=7)
    options = server.manager.registry.get(server.generate(sent).headers["x-job-id"]).options
    assert (options.ss.guidance_scale, options.shape.guidance_scale) == (3.5, 3.5)
    assert (options.ss.sampling_steps, options.shape.sampling_steps) == (100, 7)
    assert (options.tex.guidance_scale, options.tex.sampling_steps) == (1.0, 12)


@pytest.mark.costly
@pytest.mark.parametrize("number", [-1e30, 0, 1, 5.5, 10**30, "50"])
def test_no_number_of_a_hunyuan_client_is_rejected_for_its_range(
    server: Server, number: object
) -> None:
    names = (
        "octree_resolution", "num_inference_steps", "guidance_scale", "num_chunks",
        "face_count", "mc_algo", "geo_rotation", "diffusion_steps", "texture_size",
    )  # fmt: skip
    for name in names:
        assert server.generate(fields() | {name: number}).is_success, name


@pytest.mark.parametrize("body", [{"text": "a cat"}, {"text": "a cat", "image": None}])
@pytest.mark.parametrize("path", ["/generate", "/send", "/api/generate"])
def test_text_alone_is_rejected_with_the_cause(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    reply = server.client.post(path, json={**body, "texture": False})
    assert reply.status_code == 400
    assert "no text-to-image model" in reply.json()["text"]


def test_text_with_an_image_is_ignored(server: Server) -> None:
    plain, both = server.generate(), server.generate(fields(text="a cat"))
    assert plain.headers["x-job-id"] == both.headers["x-job-id"]


@pytest.mark.parametrize("texture", [False, True])
@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_other_file_types_contain_the_same_model(
    default_preview: Server,
    kind: str,
    texture: bool,  # noqa: FBT001
) -> None:
    model = default_preview.generate(fields(texture=texture))
    reply = default_preview.generate(fields(texture=texture, type=kind))
    assert reply.headers["content-type"].startswith(f"model/{kind}")
    assert reply.headers["x-job-id"] == model.headers["x-job-id"]
    mesh = trimesh.load(io.BytesIO(reply.content), file_type=kind, process=False)
    known = load_scene(model.content).to_geometry()
    assert len(mesh.faces) == len(known.faces)
    if kind == "stl":  # Z up, 100 mm
        known.apply_scale(100 / known.extents.max())
        assert mesh.extents == pytest.approx(known.extents[[0, 2, 1]], rel=1e-4)
    else:
        assert mesh.bounds == pytest.approx(known.bounds, abs=1e-5)
    if texture and kind != "stl":
        colors = np.asarray(mesh.visual.vertex_colors)[:, :3]
        assert np.abs(colors.astype(int) - [0, 0, 200]).max() < 12
    elif kind == "obj":
        assert all(len(line.split()) == 4 for line in reply.text.splitlines() if line[0] == "v")


def test_a_zip_contains_the_obj_its_material_and_its_textures(default_preview: Server) -> None:
    reply = default_preview.generate(fields(texture=True, type="obj_zip"))
    assert reply.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(reply.content))
    assert {"model.obj", "model.mtl", "base_color.png"} <= set(archive.namelist())
    assert b"map_Kd base_color.png" in archive.read("model.mtl")
    image = Image.open(io.BytesIO(archive.read("base_color.png")))
    assert image.size == (256, 256)
    mesh = trimesh.load(
        io.BytesIO(archive.read("model.obj")),
        file_type="obj",
        resolver=trimesh.resolvers.ZipResolver(
            {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
        ),
    )
    colors = np.asarray(mesh.visual.to_color().vertex_colors)[:, :3]
    assert np.abs(colors.astype(int) - [0, 0, 200]).max() < 12
    assert default_preview.generate(fields(texture=True, type="obj_zip")).content == reply.content


def test_a_sent_job_returns_the_requested_file_type(default_preview: Server) -> None:
    obj = finished(default_preview, send(default_preview, fields(type="obj")))
    assert obj == default_preview.generate(fields(type="obj")).content


def test_send_names_the_uid_that_the_list_of_jobs_has(server: Server) -> None:
    reply = server.client.post("/send", json=fields())
    (listed,) = server.client.get("/jobs").json()["jobs"]
    assert reply.headers["X-Job-Id"] == listed["uid"] != reply.json()["uid"]
