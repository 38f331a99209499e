"""Clients of OpenAI-like servers, each with its exact requests and its way of reading replies."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import encoded, picture, serving, settings

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx

    from tests.support.server import Server

KEY = "a-key-that-is-long"
SMALL = {"glb_texture_size": 256, "glb_decimation_target": 2000}


@pytest.fixture(scope="module")
def small() -> Generator[Server]:
    configured = settings(export=SMALL, server={"rate_per_minute": 1000, "max_body_bytes": 200_000})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


@pytest.fixture(scope="module")
def locked() -> Generator[Server]:
    """A server with an API key and few requests."""
    server = {"api_keys": [KEY], "rate_per_minute": 3}
    with serving(GatedEngine(), settings(export=SMALL, server=server)) as running:
        running.wait_until_loaded()
        yield running


def error_of(reply: httpx.Response, status: int) -> dict[str, Any]:
    """Return an error as OpenAI's library reads it."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    return body["error"]


# ---- LocalAI's page ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/3d/generations", "/v1/3d/generations"])
def test_localais_page_gets_a_url_and_loads_the_model_from_it(small: Server, path: str) -> None:
    body = {
        "model": "trellis2-4b",
        "image": encoded(picture(1)),
        "quality": "512",
        "background": "auto",
        "response_format": "url",
        "step": 8,
        "texture_steps": 6,
        "cfg_scale": 7.5,
        "seed": 3,
    }
    reply = small.client.post(path, json=body)
    assert reply.status_code == 200
    url = reply.json()["data"][0]["url"]
    model = small.client.get(url)
    assert (model.status_code, model.content[:4]) == (200, b"glTF")
    assert url.split("/")[-1].endswith(".glb")
    parameters = small.client.get(f"/jobs/{reply.json()['id']}").json()["parameters"]
    assert parameters["pipeline_type"] == "512"
    assert (parameters["ss_sampling_steps"], parameters["shape_sampling_steps"]) == (8, 8)
    assert (parameters["tex_sampling_steps"], parameters["seed"]) == (6, 3)


def test_localais_documented_command_decodes_the_base64(small: Server) -> None:
    body = {
        "model": "trellis2-4b",
        "image": encoded(picture(2)),
        "response_format": "b64_json",
        "params": {"texture_size": "512", "components": "all"},
    }
    document = json.loads(small.client.post("/3d/generations", content=json.dumps(body)).text)
    assert document.keys() == {"created", "id", "data"}
    model = base64.b64decode(document["data"][0]["b64_json"], validate=True)
    assert model == small.client.get(f"/jobs/{document['id']}/textured.glb").content
    parameters = small.client.get(f"/jobs/{document['id']}").json()["parameters"]
    assert parameters["texture_size"] == 512


@pytest.mark.parametrize(
    ("quality", "pipeline_type"),
    [("coarse", "512"), ("512", "512"), ("1024", "1024_cascade"), ("auto", "1024_cascade")],
)
def test_every_quality_selects_a_resolution(
    small: Server, quality: str, pipeline_type: str
) -> None:
    body = {"model": "m", "image": encoded(picture(3)), "quality": quality}
    uid = small.client.post("/v1/3d/generations", json=body).json()["id"]
    parameters = small.client.get(f"/jobs/{uid}").json()["parameters"]
    assert parameters["pipeline_type"] == pipeline_type


@pytest.mark.parametrize(
    ("background", "remove"), [("auto", None), ("keep", False), ("black", True), ("white", True)]
)
def test_every_background_selects_whether_it_is_removed(
    small: Server,
    background: str,
    remove: bool | None,  # noqa: FBT001 - a parameter
) -> None:
    body = {"model": "m", "image": encoded(picture(4)), "background": background}
    uid = small.client.post("/v1/3d/generations", json=body).json()["id"]
    parameters = small.client.get(f"/jobs/{uid}").json()["parameters"]
    assert parameters.get("remove_background") is remove


# ---- Lemonade's page and its tests ---------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/3d/generations", "/v1/3d/generations"])
@pytest.mark.parametrize("more", [{"bg_removal": "threshold"}, {"response_format": "glb"}])
def test_lemonades_page_gets_the_model_itself(
    small: Server, path: str, more: dict[str, str]
) -> None:
    body = {"model": "TRELLIS-3D", "image": encoded(picture()), "resolution": 512, "seed": 42}
    reply = small.client.post(path, json={**body, "uv": "xatlas", **more})
    assert reply.status_code == 200
    assert "model/gltf-binary" in reply.headers["content-type"]
    assert reply.content[:4] == b"glTF"
    job = small.client.get(f"/jobs/{reply.headers['X-Job-Id']}").json()
    assert job["parameters"]["pipeline_type"] == "512"


def test_accept_asks_for_the_model_itself(small: Server) -> None:
    body = {"model": "m", "image": "data:image/png;base64," + encoded(picture())}
    reply = small.client.post(
        "/v1/3d/generations", json=body, headers={"Accept": "model/gltf-binary"}
    )
    assert reply.content[:4] == b"glTF"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"image": None}, "image"),
        ({"image": "!!!not-base64!!!"}, "image"),
        ({"image": encoded(b"not an image")}, "image"),
        ({"response_format": "obj"}, "response_format"),
        ({"seed": "abc"}, "seed"),
        ({"quality": "best"}, "quality"),
        ({"background": "magic"}, "background"),
        ({"type": "stl"}, "type"),
        ({"preset": "print"}, "preset"),
        ({"params": "texture_size=512"}, "params"),
        ({"model": 7}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named_in_openais_form(
    small: Server, change: dict[str, Any], param: str
) -> None:
    body = {"model": "TRELLIS-3D", "image": encoded(picture()), **change}
    error = error_of(small.client.post("/v1/3d/generations", json=body), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


# ---- the rest of the form ------------------------------------------------------------------------


def test_a_shape_without_texture_has_its_own_url(small: Server) -> None:
    body = {"model": "m", "image": encoded(picture(5)), "texture": False, "size_m": 0.5}
    url = small.client.post("/v1/3d/generations", json=body).json()["data"][0]["url"]
    assert url.endswith("/shape.glb?size_m=0.5")
    assert small.client.get(url).content[:4] == b"glTF"


def test_a_prompt_alone_is_refused_as_text_is(small: Server) -> None:
    body = {"model": "m", "prompt": "a chair"}
    assert error_of(small.client.post("/v1/3d/generations", json=body), 400)["param"] == "text"


def test_the_models_are_listed_and_each_one_is_found(small: Server) -> None:
    listed = small.client.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model.keys() == {"id", "object", "created", "owned_by", "labels"}
    assert (model["object"], model["labels"]) == ("model", ["3d"])
    assert small.client.get(f"/v1/models/{model['id']}").json() == model
    assert error_of(small.client.get("/v1/models/gpt-4"), 404)["code"] == "not_found"


def test_errors_outside_of_routes_have_openais_form(small: Server) -> None:
    assert error_of(small.client.get("/v1/nothing"), 404)["message"] == "Not Found"
    reply = small.client.put("/v1/3d/generations")
    assert error_of(reply, 405)["type"] == "invalid_request_error"
    assert reply.headers["allow"] == "OPTIONS, POST"
    large = b"x" * 200_001
    assert error_of(small.client.post("/v1/3d/generations", content=large), 413)["code"] == (
        "request_too_large"
    )
    long = small.client.post("/v1/3d/generations?a=" + "x" * 9_000)
    assert error_of(long, 414)["type"] == "invalid_request_error"


def test_paths_that_only_begin_alike_keep_the_usual_form(small: Server) -> None:
    for path in ("/v1x/models", "/jobs/v1/x", "/3dx"):
        assert small.client.get(path).json().keys() == {"text", "error_code"}


def test_a_missing_key_and_too_many_requests_have_openais_form(locked: Server) -> None:
    for path in ("/v1/models", "/api/v1/models", "//v1/models"):
        reply = locked.client.get(locked.url + path)
        assert error_of(reply, 401)["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"
    keyed = {"Authorization": f"Bearer {KEY}"}
    for _ in range(3):
        error_of(locked.client.post("/v1/3d/generations", json={}, headers=keyed), 400)
    reply = locked.client.post("/v1/3d/generations", json={}, headers=keyed)
    assert error_of(reply, 429)["code"] == "rate_limit_exceeded"
    assert int(reply.headers["retry-after"]) >= 1


def test_a_server_that_is_not_ready_says_so_in_openais_form() -> None:
    engine = GatedEngine()
    with serving(engine, settings(worker={"max_queue_length": 1})) as server:
        server.wait_until_loaded()
        server.close_soon()
        body = {"model": "m", "image": encoded(picture())}
        reply = server.client.post("/v1/3d/generations", json=body)
        assert error_of(reply, 503)["type"] == "server_error"
        assert int(reply.headers["retry-after"]) >= 1
