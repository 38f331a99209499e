"""The client's address as an ingress sees it, behind Serve's proxy; nothing is deployed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs ray")

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from trellis2_server.ray_serve.ingress import with_clients


def client_of(address: str, forwarded: str, trusted: list[str]) -> str:
    """Return what an ingress sees of a request that comes to Serve's proxy."""
    seen: list[Any] = []

    async def app(scope: Any, *_: Any) -> None:
        seen.append(scope["client"])

    # uvicorn's defaults, as in Serve's proxy.
    proxy: Any = ProxyHeadersMiddleware(with_clients(app, trusted))
    scope = {
        "type": "http",
        "client": (address, 1234),
        "headers": [(b"x-forwarded-for", forwarded.encode())] if forwarded else [],
    }
    asyncio.run(proxy(scope, None, None))
    return seen[0][0]


@pytest.mark.parametrize("forwarded", ["203.0.113.1", "203.0.113.1:80", "[2001:db8::1]:80", ""])
def test_a_local_caller_cannot_choose_its_address(forwarded: str) -> None:
    assert client_of("127.0.0.1", forwarded, []) == "127.0.0.1"
    assert client_of("127.0.0.1", f"198.51.100.1, {forwarded}", []) == "127.0.0.1"


def test_another_client_cannot_choose_its_address() -> None:
    assert client_of("198.51.100.7", "203.0.113.1", []) == "198.51.100.7"
    assert client_of("198.51.100.7", "198.51.100.7, 203.0.113.1", []) == "198.51.100.7"


def test_a_trusted_proxy_on_the_same_machine_or_another_is_believed() -> None:
    assert client_of("127.0.0.1", "203.0.113.1", ["127.0.0.1"]) == "203.0.113.1"
    assert client_of("10.0.0.1", "203.0.113.1", ["10.0.0.0/8"]) == "203.0.113.1"
    assert client_of("10.0.0.1", "6.6.6.6, 203.0.113.1, 10.0.0.2", ["10.0.0.0/8"]) == "203.0.113.1"
