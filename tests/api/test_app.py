from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import Server, encoded, fields, picture, serving, settings, until
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Generator

KEYS = settings(server={"api_keys": ["s3cret", "schlüssel"]})
HEAVY = ("torch", "numba", "onnxruntime", "rembg", "cv2", "scipy", "trellis2", "uvicorn.protocols")


@pytest.mark.parametrize("module", ["trellis2_server.api.app", "trellis2_server.cli"])
def test_importing_the_app_imports_no_heavy_package(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- loading -------------------------------------------------------------------------------


def test_the_server_responds_while_the_model_loads_and_serves_afterwards() -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        engine.wait_for("load")
        health = server.client.get("/healthcheck")
        assert (health.status_code, health.json()["status"]) == (503, "loading")
        assert health.json()["engine"] == "gated"
        rejected = server.generate()
        assert (rejected.status_code, rejected.json()["error_code"]) == (503, 3)
        assert rejected.json()["text"] == "the model is loading"
        assert int(rejected.headers["retry-after"]) > 0
        assert server.client.get("/worker_status").json()["loading"] is True
        engine.open_all()
        server.wait_until_loaded()
        health = server.client.get("/healthcheck").json()
        assert (health["status"], health["notes"]) == ("ok", ["a note"])
        assert server.generate().is_success


def test_after_a_failed_load_the_server_stays_up_and_reports_the_cause() -> None:
    engine = GatedEngine()
    engine.failures["load"] = EngineError("the weights are not there")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").json()["status"] == "error", "an error")
        health = server.client.get("/healthcheck")
        assert health.status_code == 503
        assert health.json()["error"] == "the weights are not there"
        for reply in (server.generate(), server.texture(image=fields()["image"])):
            assert reply.status_code == 503
            assert "the weights are not there" in reply.json()["text"]
        assert server.texture(image_hash="0" * 32).status_code == 404
        assert server.client.get("/status/" + "0" * 32).status_code == 404


def test_a_shutdown_is_reported_while_it_takes_place() -> None:
    engine = GatedEngine()
    with serving(engine) as server:
        server.wait_until_loaded()
        server.close_soon()
        until(lambda: server.manager.availability.is_closing, "closing")
        health = server.client.get("/healthcheck")
        assert (health.status_code, health.json()["status"]) == (503, "error")
        assert health.json()["error"] == "the server is shutting down"
        assert server.generate().status_code == 503


# ---- API keys ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Generator[Server]:
    with serving(GatedEngine(), KEYS) as server:
        server.wait_until_loaded()
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "Bearer"},
        {"X-API-Key": ""},
        {"X-API-Key": "s3cre"},
        {"X-API-Key": b"\xff\xfe"},
    ],
)
def test_without_a_valid_key_requests_are_rejected(locked: Server, headers: dict[str, str]) -> None:
    get = locked.client.get
    replies = [
        locked.client.post("/generate", json=fields(), headers=headers),
        *(get(path, headers=headers) for path in ("/docs", "/openapi.json", "/redoc", "/metrics")),
        *(get(path, headers=headers) for path in ("/worker_status", "/api", "/page", "/pages/x")),
        *(get(path, headers=headers) for path in ("/api/page/x", "/x/page/y")),
        *(get(f"{locked.url}//{path}", headers=headers) for path in ("page/x", "healthcheck")),
        get("/status/" + "0" * 32, headers=headers),
        get("/healthcheck/", headers=headers),
    ]
    for reply in replies:
        assert reply.status_code == 401, reply.url
        assert reply.json()["error_code"] == 4
        assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer s3cret"},
        {"Authorization": "bearer  s3cret"},
        {"X-API-Key": "s3cret"},
        {"X-API-Key": "schlüssel".encode()},
    ],
)
def test_with_a_valid_key_requests_are_served(locked: Server, headers: dict[str, str]) -> None:
    get = locked.client.get
    assert locked.client.post("/generate", json=fields(), headers=headers).is_success
    assert get("/worker_status", headers=headers).is_success
    assert get("/healthcheck", headers=headers).json()["notes"] == ["a note"]


def test_the_page_and_its_files_need_no_key(locked: Server) -> None:
    for path in ("/", "/page/missing.js"):
        assert locked.client.get(path).status_code != 401


def test_without_a_key_the_health_has_no_details(locked: Server) -> None:
    assert locked.client.get("/healthcheck").json() == {"status": "ok", "engine": "gated"}


# ---- CORS --------------------------------------------------------------------


def cors_headers(server: Server, value: str = "https://a.example") -> dict[str, str | None]:
    preflight = server.client.options(
        "/generate",
        headers={
            "Origin": value,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-api-key",
        },
    )
    reply = server.client.post("/generate", headers={"Origin": value}, json=fields())
    return {
        "preflight": preflight.headers.get("access-control-allow-origin"),
        "reply": reply.headers.get("access-control-allow-origin"),
        "exposed": reply.headers.get("access-control-expose-headers"),
    }


def test_pages_of_any_origin_may_call_the_api_and_read_its_headers(server: Server) -> None:
    allowed = cors_headers(server)
    assert (allowed["preflight"], allowed["reply"]) == ("*", "*")
    for name in (
        "X-Image-Hash", "X-Job-Id", "X-Seed", "X-Engine", "X-Background", "Retry-After",
        "X-Request-Id", "ETag", "Content-Range",
    ):  # fmt: skip
        assert name in (allowed["exposed"] or "")


def test_with_keys_only_pages_of_configured_origins_may_call_the_api(locked: Server) -> None:
    assert set(cors_headers(locked).values()) == {None}
    configured = settings(server={"api_keys": ["k"], "cors_origins": ["https://a.example"]})
    with serving(GatedEngine(), configured) as server:
        allowed = cors_headers(server)  # without a key: the page may read the error
        assert (allowed["preflight"], allowed["reply"]) == ("https://a.example",) * 2
        assert cors_headers(server, "https://b.example")["reply"] is None


# ---- documentation, errors, threads -----------------------------------------------------------


def test_the_openapi_documentation_is_complete_and_has_no_422(server: Server) -> None:
    assert "swagger" in server.client.get("/docs").text
    api = server.client.get("/openapi.json").json()
    assert set(api["paths"]) == {
        "/generate", "/generate_texture", "/status/{name}", "/healthcheck", "/worker_status",
        "/send", "/status/test", "/health", "/metrics", "/page/options",
        "/jobs", "/jobs/{name}", "/jobs/{name}/{file_name}", "/jobs/{name}/export",
        "/events/{name}", "/jobs/{name}/thumbnail.png", "/jobs/{name}/turntable.webp",
        "/v1/3d/generations", "/v1/models", "/v1/models/{model}",
    }  # fmt: skip
    assert "HTTPValidationError" not in api["components"]["schemas"]
    for operations in api["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert "422" not in operation["responses"]
    content = api["paths"]["/generate"]["post"]["requestBody"]["content"]
    assert set(content) >= {"application/json", "multipart/form-data", "image/png"}
    properties = content["application/json"]["schema"]["properties"]
    assert all(field.get("description") for field in properties.values())


def test_the_example_in_the_documentation_works(server: Server) -> None:
    api = server.client.get("/openapi.json").json()
    body = api["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]
    assert server.generate({**body["example"], "texture": False}).is_success


def test_unknown_routes_and_methods_get_the_usual_error_body(server: Server) -> None:
    for reply, status in (
        (server.client.get("/nothing"), 404),
        (server.client.get("/generate"), 405),
        (server.client.put("/healthcheck"), 405),
    ):
        assert (reply.status_code, set(reply.json())) == (status, {"text", "error_code"})


def test_the_server_works_under_a_prefix() -> None:
    configured = settings(server={"root_path": "/3d", "api_keys": ["k"]})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        assert server.client.get("/healthcheck").is_success
        assert server.client.get("/3d/healthcheck").is_success
        reply = server.client.post("/3d/generate", json=fields(), headers={"X-API-Key": "k"})
        assert reply.is_success


def test_the_threads_end_with_the_server(engine: GatedEngine) -> None:
    before = set(threading.enumerate())
    with serving(engine) as server:
        server.wait_until_loaded()
        assert server.generate().is_success
        assert server.texture(image=encoded(picture(file_format="WEBP"))).is_success
        new = set(threading.enumerate()) - before
        assert {thread.name for thread in new} >= {"device_0", "cpu_0", "lookup_0"}
    for thread in new:
        thread.join(10)
        assert not thread.is_alive()


def test_an_unexpected_error_reveals_no_stack_trace(server: Server) -> None:
    service, server.app.state.service = server.app.state.service, None
    reply = server.client.get("/worker_status")
    server.app.state.service = service
    assert reply.status_code == 500
    assert reply.json() == {"text": "unexpected error; see the server's log", "error_code": 1}
    assert server.client.get("/healthcheck").is_success
