"""The native API over HTTP, with the preview engine and with the gated engine."""

from __future__ import annotations

import io
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support import khronos
from tests.support.engines import GatedEngine
from tests.support.server import SMALL, encoded, fields, picture, serving, settings, until
from trellis2_server.errors import EngineError, OutOfMemoryError

if TYPE_CHECKING:
    import httpx

    from tests.support.server import Server

trimesh = pytest.importorskip("trimesh")

MODEL_HEADERS = ("x-image-hash", "x-job-id", "x-seed", "x-engine", "x-background")


def gltf_json(glb: bytes) -> dict[str, Any]:
    """Return the JSON of a GLB."""
    magic, version, length = struct.unpack_from("<4sII", glb)
    assert (magic, version, length) == (b"glTF", 2, len(glb))
    size = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + size])


def error_text(reply: httpx.Response, status: int, code: int) -> str:
    """Check the form of an error response; return its text."""
    assert (reply.status_code, set(reply.json())) == (status, {"text", "error_code"}), reply.text
    assert reply.json()["error_code"] == code
    assert "Traceback" not in reply.text
    return reply.json()["text"]


# ---- the preview engine, end to end --------------------------------------------------------


def test_a_picture_becomes_an_untextured_and_a_textured_model(preview: Server) -> None:
    shape = preview.generate(fields(100, seed=7))
    assert (shape.status_code, shape.headers["content-type"]) == (200, "model/gltf-binary")
    assert [shape.headers[name] for name in MODEL_HEADERS[2:]] == ["7", "preview", "alpha"]
    image_hash, uid = shape.headers["x-image-hash"], shape.headers["x-job-id"]
    textured = preview.texture(image_hash=image_hash)
    assert (textured.status_code, textured.headers["content-type"]) == (200, "model/gltf-binary")
    assert {n: textured.headers[n] for n in MODEL_HEADERS} == {
        n: shape.headers[n] for n in MODEL_HEADERS
    }
    status = preview.wait_for_status(image_hash, "completed")
    assert status["uid"] == uid
    assert status["shape_ready"] is status["texture_ready"] is True
    assert status["engine"] == "preview"

    plain, full = gltf_json(shape.content), gltf_json(textured.content)
    assert "preview" in plain["asset"]["generator"]
    assert "images" not in plain
    assert full["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    meshes = [
        trimesh.load(io.BytesIO(reply.content), file_type="glb").to_geometry()
        for reply in (shape, textured)
    ]
    np.testing.assert_allclose(meshes[0].bounds, meshes[1].bounds, atol=0.01)
    assert all(0 < len(mesh.faces) <= SMALL["decimation_target"] for mesh in meshes)
    assert khronos.messages(shape.content) == []
    assert khronos.messages(textured.content) == []


def test_the_texture_has_the_requested_size(preview: Server) -> None:
    textured = preview.generate(fields(100, seed=7, texture=True, texture_format="png"))
    gltf = gltf_json(textured.content)
    view = gltf["bufferViews"][gltf["images"][0]["bufferView"]]
    start = len(textured.content) - gltf["buffers"][0]["byteLength"] + view.get("byteOffset", 0)
    image = Image.open(io.BytesIO(textured.content[start : start + view["byteLength"]]))
    assert (image.format, image.size) == ("PNG", (256, 256))


def test_json_multipart_and_a_raw_body_match_the_same_job(preview: Server) -> None:
    post, png = preview.client.post, picture(101)
    parameters = {"seed": "7", "texture_size": "256", "decimation_target": "2000"}
    replies = [
        preview.generate(fields(101, seed=7)),
        preview.generate({"image": "data:image/png;base64,\n" + encoded(png), **parameters}),
        post("/generate", files={"image": ("a.png", png, "image/png")}, data=parameters),
        post("/generate", data={"image": encoded(png), **parameters}, files={"x": (None, "1")}),
        post("/generate", content=png, params=parameters, headers={"content-type": "image/png"}),
        post("/generate", content=json.dumps(fields(101, seed=7)).encode()),
    ]
    assert [reply.status_code for reply in replies] == [200] * 6
    assert len({reply.headers["x-job-id"] for reply in replies}) == 1
    assert len({reply.content for reply in replies}) == 1


def test_png_and_lossless_webp_have_the_same_hash(preview: Server) -> None:
    webp = encoded(picture(102, file_format="WEBP"))
    first = preview.generate(fields(102))
    second = preview.generate({**fields(102), "image": webp})
    assert first.headers["x-image-hash"] == second.headers["x-image-hash"]
    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    for image in (webp, encoded(picture(102))):
        texture = preview.texture(image=image)
        assert texture.headers["x-job-id"] == first.headers["x-job-id"]


def test_the_same_request_gives_the_same_bytes_and_another_seed_another_job(
    preview: Server,
) -> None:
    first, again = preview.generate(fields(103)), preview.generate(fields(103))
    assert first.content == again.content
    assert first.headers["x-job-id"] == again.headers["x-job-id"]
    other = preview.generate(fields(103, seed=2))
    assert other.headers["x-job-id"] != first.headers["x-job-id"]
    assert preview.status(first.headers["x-image-hash"])["uid"] == other.headers["x-job-id"]
    assert preview.manager.registry.get(first.headers["x-job-id"]).uid == first.headers["x-job-id"]


def test_a_random_seed_is_reported(preview: Server) -> None:
    seeds = {preview.generate(fields(104, seed=None)).headers["x-seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert all(0 <= int(seed) < 2**32 for seed in seeds)


@pytest.mark.parametrize("compress", ["meshopt", "draco"])
def test_the_geometry_has_the_requested_compression(preview: Server, compress: str) -> None:
    package = {"meshopt": "meshopt", "draco": "DracoPy"}[compress]
    pytest.importorskip(package, reason=f"{package} is not installed; it has no wheel for 3.10")
    reply = preview.generate(fields(105, compress=compress))
    assert reply.status_code == 200, reply.text
    extensions = gltf_json(reply.content)["extensionsRequired"]
    assert any(compress in extension.lower() for extension in extensions)


# ---- waiting, errors, retries ---------------------------------------------------------


def test_texture_true_waits_for_the_textured_model(server: Server, engine: GatedEngine) -> None:
    engine.gates["texture"].clear()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.generate, fields(texture=True))
        engine.wait_for("texture")
        shape = server.generate()
        assert not waiting.done()
        engine.open_all()
        textured = waiting.result()
    assert shape.headers["x-job-id"] == textured.headers["x-job-id"]
    assert "images" in gltf_json(textured.content)
    assert "images" not in gltf_json(shape.content)


def test_with_texture_false_the_texture_is_made_only_on_request(
    server: Server, engine: GatedEngine
) -> None:
    shape = server.generate(fields(texture=False))
    image_hash = shape.headers["x-image-hash"]
    assert server.status(image_hash)["status"] == "completed"
    assert server.status(image_hash)["texture_ready"] is False
    assert server.texture(image_hash=image_hash).is_success
    assert engine.calls.count(("texture", 1)) == 1


def test_the_status_reports_the_progress_of_a_job(server: Server, engine: GatedEngine) -> None:
    first = server.generate(fields(seed=1))
    server.wait_for_status(first.headers["x-job-id"], "completed")
    engine.gates["texture"].clear()
    image_hash = server.generate(fields(seed=2)).headers["x-image-hash"]
    engine.wait_for("texture")
    engine.wait_for("texture")
    until(lambda: "progress" in server.status(image_hash), "progress")
    status = server.status(image_hash)
    assert status["status"] == "texture_processing"
    assert status["stage"] == "texture"
    assert 0 <= status["progress"] <= 1
    assert status["eta_seconds"] >= 0
    assert status["resolution"] == 8
    assert (status["shape_ready"], status["texture_ready"]) == (True, False)
    assert server.client.get("/worker_status").json() == {
        "speed": 1, "queue_length": 1, "loading": False,
    }  # fmt: skip
    engine.open_all()
    done = server.wait_for_status(image_hash, "completed")
    assert not {"progress", "eta_seconds", "queue_position", "error", "stage"} & set(done)


def test_a_texture_that_is_not_ready_in_time_gets_a_408_and_the_job_continues() -> None:
    engine = GatedEngine("texture")
    configured = settings(worker={"texture_timeout_seconds": 0.05})
    with serving(engine, configured) as server:
        server.wait_until_loaded()
        image_hash = server.generate().headers["x-image-hash"]
        late = server.texture(image_hash=image_hash)
        assert late.text == '{"text":"Texture generation timed out","error_code":2}'
        assert error_text(late, 408, 2)
        assert server.status(image_hash)["status"] == "texture_processing"
        engine.open_all()
        server.wait_for_status(image_hash, "completed")
        assert server.texture(image_hash=image_hash).is_success
    assert engine.calls.count(("texture", 1)) == 1


def test_a_failed_texture_reports_the_cause_and_leaves_the_shape(
    server: Server, engine: GatedEngine
) -> None:
    engine.failures["texture"] = EngineError("the field is empty")
    image_hash = server.generate().headers["x-image-hash"]
    for body in ({"image_hash": image_hash}, {"image": encoded(picture())}):
        assert error_text(server.texture(**body), 500, 1) == "the field is empty"
    status = server.status(image_hash)
    assert (status["status"], status["error"]) == ("error", "the field is empty")
    assert status["shape_ready"] is True
    assert server.generate().is_success


def test_failures_have_the_statuses_of_the_http_contract(
    server: Server, engine: GatedEngine
) -> None:
    engine.failures["shape"] = ValueError("/opt/model/x.py broke")
    assert error_text(server.generate(), 500, 1) == "shape failed: ValueError: x.py broke"
    engine.failures["shape"] = OutOfMemoryError("the device is full")
    assert error_text(server.generate(), 507, 7) == "the device is full"
    assert server.generate().is_success


def test_a_cancelled_job_gets_a_409_and_its_status_is_error(
    server: Server, engine: GatedEngine
) -> None:
    manager = server.manager
    engine.gates["shape"].clear()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.generate)
        engine.wait_for("shape")
        [job] = manager.registry
        [active] = manager.active_jobs
        manager._loop.call_soon_threadsafe(manager.endings.cancel, active)
        assert error_text(waiting.result(), 409, 5) == "cancelled"
    status = server.status(job.image_hash or "")
    assert (status["status"], status["error"]) == ("error", "cancelled")
    assert server.status(job.uid) == {"status": "error", "message": "cancelled"}


def test_a_full_queue_gets_a_503_with_retry_after() -> None:
    engine = GatedEngine("shape")
    configured = settings(worker={"limit_model_concurrency": 1, "max_queue_length": 1})
    with serving(engine, configured) as server, ThreadPoolExecutor() as pool:
        server.wait_until_loaded()
        first = pool.submit(server.generate, fields(seed=1))
        engine.wait_for("shape")
        second = pool.submit(server.generate, fields(seed=2))
        until(lambda: server.queue_length == 2, "two jobs")
        full = server.generate(fields(seed=3))
        assert "the queue is full" in error_text(full, 503, 3)
        assert int(full.headers["retry-after"]) > 0
        engine.open_all()
        assert first.result().is_success
        assert second.result().is_success


@pytest.mark.parametrize(
    ("body", "status", "cause"),
    [
        ({}, 400, "image_hash: missing"),
        ({"image_hash": None, "uid": None}, 400, "image_hash: missing"),
        ({"image_hash": 5}, 400, "image_hash: must be a string"),
        ({"uid": ["x"]}, 400, "uid: must be a string"),
        ({"image_hash": "no hash"}, 404, "no such job"),
        ({"image_hash": "0" * 32}, 404, "no such job"),
        ({"image_hash": "../../etc/passwd"}, 404, "no such job"),
        ({"uid": "00000000-0000-4000-8000-000000000000"}, 404, "no such job"),
        ({"image": "AAAA"}, 400, "image: "),
    ],
)
def test_a_texture_request_without_a_job_is_rejected(
    preview: Server, body: dict[str, Any], status: int, cause: str
) -> None:
    assert cause in error_text(preview.texture(**body), status, 1)


def test_a_picture_that_was_never_sent_has_no_job(preview: Server) -> None:
    assert error_text(preview.texture(image=encoded(picture(250))), 404, 1)


@pytest.mark.parametrize("name", ["0" * 32, "x", "%00", "..%2F..", "%F0%9F", "a" * 5000])
def test_the_status_of_an_unknown_job_is_a_404(preview: Server, name: str) -> None:
    assert error_text(preview.client.get(f"/status/{name}"), 404, 1)


def test_the_event_loop_responds_while_a_stage_runs(server: Server, engine: GatedEngine) -> None:
    engine.gates["shape"].clear()
    with ThreadPoolExecutor(60) as pool:
        # More requests than Starlette's 40 threads, for two jobs.
        waiting = [pool.submit(server.generate, fields(seed=i % 2)) for i in range(50)]
        engine.wait_for("shape")
        assert server.client.get("/healthcheck", timeout=5).json()["status"] == "ok"
        assert server.client.get("/worker_status", timeout=5).json()["queue_length"] >= 1
        engine.open_all()
        assert {reply.result().status_code for reply in waiting} == {200}
    assert sorted(set(engine.calls)) == sorted(engine.calls)
