"""Which routes are there with which of `server.protocols`."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tests.support.app_client import AppClient
from tests.support.engines import GatedEngine
from tests.support.server import encoded, picture, settings, until
from trellis2_server.api.app import create_app
from trellis2_server.inputs.images import Cutter
from trellis2_server.settings import Protocol

HASH = "0" * 32
#: A route of each protocol: method, path, and which protocols have it.
ROUTES: dict[tuple[str, str], set[str]] = {
    ("POST", "/generate"): {"native", "hunyuan"},
    ("POST", "/generate_texture"): {"native", "hunyuan"},
    ("POST", "/send"): {"native", "hunyuan"},
    ("GET", "/"): {"native"},
    ("GET", "/page/options"): {"native"},
    ("GET", "/status/test"): {"hunyuan"},
    ("GET", "/health"): {"hunyuan", "unity"},
    ("POST", "/v1/3d/generations"): {"openai"},
    ("POST", "/3d/generations"): {"openai"},
    ("GET", "/v1/models"): {"openai", "sglang"},
    ("GET", "/v1/meshes"): {"sglang"},
    ("POST", "/v1/meshes"): {"sglang"},
    ("GET", "/ping"): {"stableprojectorz"},
    ("GET", "/status"): {"stableprojectorz"},
    ("POST", "/interrupt"): {"stableprojectorz"},
    ("POST", "/generate_no_preview"): {"stableprojectorz"},
    ("POST", "/submit/image"): {"unity"},
    ("GET", "/jobs"): set(get_args(Protocol)),
    ("GET", "/healthcheck"): set(get_args(Protocol)),
    ("GET", "/worker_status"): set(get_args(Protocol)),
    ("GET", "/docs"): set(get_args(Protocol)),
}


def app_with(*protocols: str) -> Any:
    configured = settings(server={"protocols": list(protocols)})
    return create_app(configured, GatedEngine(), Cutter(background="none"))


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_a_protocol_by_itself_has_its_routes_and_no_others(protocol: str) -> None:
    with AppClient(app_with(protocol)) as client:
        for (method, path), owners in ROUTES.items():
            for prefix in ("", "/api"):
                if prefix and path in {"/", "/page/options", "/docs"}:
                    continue
                reply = client.request(method, prefix + path)
                is_there = reply.status_code not in {404, 405}
                assert is_there is (protocol in owners), (method, prefix + path)


def test_all_protocols_together_have_every_route() -> None:
    with AppClient(app_with(*get_args(Protocol))) as client:
        for method, path in ROUTES:
            assert client.request(method, path).status_code not in {404, 405}, path


def test_the_native_status_of_a_uid_needs_no_other_protocol() -> None:
    with AppClient(app_with("native")) as client:
        until(lambda: client.get("/healthcheck").is_success, "loaded")
        sent = client.post("/send", json={"image": encoded(picture()), "seed": 1})
        status = client.get(f"/status/{sent.json()['uid']}").json()
        assert status["status"] in {"shape_processing", "texture_processing", "completed"}
        assert client.get(f"/status/{HASH}").json()["text"]


def test_the_same_picture_is_one_job_in_every_protocol() -> None:
    with AppClient(app_with(*get_args(Protocol))) as client:
        until(lambda: client.get("/healthcheck").is_success, "loaded")
        body = {"image": encoded(picture()), "seed": 1, "texture_size": 256}
        generated = client.post("/generate", json={**body, "texture": True})
        uid = generated.headers["X-Job-Id"]
        assert client.post("/v1/3d/generations", json={**body, "model": "m"}).json()["id"] == uid
        assert client.post("/v1/meshes", json={**body, "output_format": "glb"}).json()["id"] == uid
        projected = client.post("/generate_no_preview", data=body)
        assert projected.json()["model_url"].endswith(uid)
        quality = client.get(f"/jobs/{uid}").json()["parameters"]
        same = {name: quality[name] for name in ("pipeline_type", "decimation_target")}
        form = {**{name: str(value) for name, value in same.items()}, "texture_size": "256"}
        form |= {"seed": "1"}
        submitted = client.post("/submit/image", data=form, files={"file": picture()})
        assert submitted.json()["job_id"] == f"job-{uid}"
