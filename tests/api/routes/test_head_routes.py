"""HEAD on every route, paths with several slashes, and preflights for private networks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute

from tests.support.engines import GATE_S, GatedEngine
from tests.support.server import fields, picture, serving, settings, until
from trellis2_server.api.routes import documentation, page, routers_of
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from tests.support.server import Server

PATHS = sorted(
    {
        route.path
        for router in (*routers_of(Settings().server.protocols), documentation.router, page.router)
        for route in router.routes
        if isinstance(route, APIRoute) and "GET" in (route.methods or ())
    }
)
#: Headers that depend on when a request came.
CHANGING = {"x-request-id", "date"}


def headers_of(reply: Any) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name not in CHANGING}


@pytest.mark.costly
def test_head_replies_as_get_does_without_the_body(server: Server, job: dict[str, Any]) -> None:
    until(lambda: server.is_idle, "idle")
    for template in PATHS:
        for name in (job["image_hash"], job["uid"]):
            values = {"name": name, "uid": name, "file_name": "shape.glb", "model": "gated"}
            path = template.format(**values)
            # Times in a body may take one digit more in the second reply.
            until(partial(replies_alike, server, path), f"HEAD {path} replies as GET does")


def replies_alike(server: Server, path: str) -> bool:
    """Return whether HEAD has the headers of GET; assert what holds for every pair of them."""
    calls = server.client.head, server.client.get
    head, get = (call(path, timeout=GATE_S) for call in calls)  # a turntable takes long to draw
    assert (head.status_code, head.content) == (get.status_code, b""), path
    ours, theirs = headers_of(head), headers_of(get)
    if path == "/metrics" or "length" not in str(head.headers):
        for name in ("content-length", "transfer-encoding"):
            ours.pop(name, None)
            theirs.pop(name, None)
    return ours == theirs


def test_head_is_served_under_the_prefix_and_is_named_among_the_methods(server: Server) -> None:
    assert server.client.head("/api/health").is_success
    assert server.client.head("/page/index.html").is_success
    assert server.client.head("/openapi.json").is_success
    allow = server.client.options("/healthcheck").headers["Allow"]
    assert allow == "GET, HEAD, OPTIONS"
    refused = server.client.head("/generate")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "OPTIONS, POST")
    documented = server.client.get("/openapi.json").json()["paths"].values()
    assert not any("head" in operations for operations in documented)


def test_head_ends_where_the_events_of_a_running_job_do_not() -> None:
    engine = GatedEngine("shape")
    with serving(engine) as server:
        server.wait_until_loaded()
        uid = server.client.post("/send", json=fields()).json()["uid"]
        engine.wait_for("shape")
        head = server.client.head(f"/events/{uid}")
        assert head.headers["Content-Type"].startswith("text/event-stream")
        until(lambda: not server.subscriptions, "no subscription")
        engine.open_all()


# ---- slashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["//generate", "///generate", "/api//generate", "//api/generate"])
def test_several_slashes_are_one(server: Server, path: str) -> None:
    content = picture()
    reply = server.client.post(
        f"{server.url}{path}?texture=false", content=content, headers={"Content-Type": "image/png"}
    )
    assert reply.is_success


def test_more_slashes_open_no_path_that_needs_a_key() -> None:
    with serving(GatedEngine(), settings(server={"api_keys": ["k"]})) as server:
        key = {"X-API-Key": "k"}
        for path in ("//generate", "//jobs", "//health", "/status//test", "//page/index.html"):
            for method in ("GET", "POST", "HEAD"):
                assert server.client.request(method, server.url + path).status_code == 401, path
        assert server.client.get(f"{server.url}/page//../jobs").status_code in {401, 404}
        assert server.client.get(f"{server.url}//jobs", headers=key).is_success


# ---- private networks ----------------------------------------------------------------------------


def preflight(server: Server, origin: str, **more: str) -> Any:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", **more}
    return server.client.options("/generate", headers=asked)


PRIVATE = {"Access-Control-Request-Private-Network": "true"}
ANSWER = "Access-Control-Allow-Private-Network"


def test_a_public_page_may_call_a_private_server_if_its_origin_is_allowed(server: Server) -> None:
    allowed = preflight(server, "https://a.example", **PRIVATE)
    assert (allowed.status_code, allowed.headers[ANSWER]) == (200, "true")
    assert ANSWER not in preflight(server, "https://a.example").headers
    wrong = {**PRIVATE, "Access-Control-Request-Headers": "x-other"}
    assert ANSWER not in preflight(server, "https://a.example", **wrong).headers


def test_a_page_of_another_origin_may_not() -> None:
    configured = settings(server={"api_keys": ["k"], "cors_origins": ["https://a.example"]})
    with serving(GatedEngine(), configured) as server:
        assert preflight(server, "https://a.example", **PRIVATE).headers[ANSWER] == "true"
        refused = preflight(server, "https://b.example", **PRIVATE)
        assert (refused.status_code, ANSWER in refused.headers) == (400, False)
    with serving(GatedEngine(), settings(server={"api_keys": ["k"]})) as server:
        assert ANSWER not in preflight(server, "https://a.example", **PRIVATE).headers
