from __future__ import annotations

import asyncio
from typing import Any

import pytest

from trellis2_server.api.api_keys import KeyRing
from trellis2_server.api.links import LinkSigner
from trellis2_server.api.middleware import ApiKeyMiddleware


def send(path: str, *keys: str, root_path: str = "", **headers: str) -> dict[str, Any] | int:
    """Send a request; return the state that the application sees, or the status of an error."""
    states: list[dict[str, Any]] = []
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "GET",
        "query_string": b"",
        "path": path,
        "root_path": root_path,
        "client": ("192.0.2.1", 1),
        "headers": [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()],
        "state": {},
    }

    async def app(inner: Any, *_: Any) -> None:
        states.append(inner["state"])

    async def collect(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    links = LinkSigner(b"secret", 60)
    middleware = ApiKeyMiddleware(app, KeyRing(keys), {"/open"}, "/folder/", links)
    asyncio.run(middleware(scope, receive, collect))
    return states[0] if states else sent[0]["status"]


def test_without_configured_keys_every_request_is_trusted() -> None:
    assert send("/x") == {"is_trusted": True, "owner": "", "client": "192.0.2.1"}


@pytest.mark.parametrize("headers", [{"x_api_key": "k"}, {"authorization": "Bearer k"}])
def test_a_request_with_a_valid_key_has_the_owner_of_the_key(headers: dict[str, str]) -> None:
    owner = KeyRing(["k"]).owner(b"k")
    assert send("/x", "k", **headers) == {"is_trusted": True, "owner": owner, "client": owner}


@pytest.mark.parametrize("headers", [{}, {"x_api_key": "wrong"}])
def test_a_request_without_a_valid_key_is_rejected(headers: dict[str, str]) -> None:
    assert send("/x", "k", **headers) == 401


@pytest.mark.parametrize("path", ["/open", "/folder/x", "/prefix/open"])
def test_an_open_path_needs_no_key_but_is_not_trusted(path: str) -> None:
    state = send(path, "k", root_path="/prefix")
    assert state == {"is_trusted": False, "owner": "", "client": "192.0.2.1"}
