from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from trellis2_server.api import rate_limits
from trellis2_server.api.api_keys import KeyRing
from trellis2_server.api.links import LinkSigner
from trellis2_server.api.middleware import ApiKeyMiddleware, RateLimitMiddleware
from trellis2_server.api.rate_limits import RateLimit
from trellis2_server.errors import TooManyRequestsError


class Clients:
    """`RateLimitMiddleware` behind `ApiKeyMiddleware`, with a manual clock and no application."""

    def __init__(self, per_minute: float, *keys: str) -> None:
        self.now = 0.0
        self.limit = RateLimit(per_minute, clock=lambda: self.now)
        rate = RateLimitMiddleware(self._pass, self.limit)
        self._keys = ApiKeyMiddleware(rate, KeyRing(keys), (), "/open/", LinkSigner(b"", 60))
        self._has_passed = False

    async def _pass(self, *_: Any) -> None:
        self._has_passed = True

    async def send(
        self, address: str = "192.0.2.1", *, key: str = "", method: str = "POST"
    ) -> int | None:
        """Send a request; return None if it passes, otherwise the seconds of `Retry-After`."""
        scope = {
            "type": "http", "method": method, "headers": [(b"x-api-key", key.encode())],
            "path": "/", "client": (address, 1), "state": {},
        }  # fmt: skip
        sent: list[Any] = []
        self._has_passed = False

        async def collect(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        await self._keys(scope, receive, collect)
        if self._has_passed:
            assert not sent
            return None
        assert sent[0]["status"] == 429
        assert json.loads(sent[1]["body"])["error_code"] == 3
        return int(dict(sent[0]["headers"])[b"retry-after"])


def test_a_client_may_send_up_to_the_limit_and_again_after_retry_after() -> None:
    async def scenario() -> None:
        clients = Clients(6)
        assert [await clients.send() for _ in range(7)] == [None] * 6 + [10]
        assert await clients.send("192.0.2.2") is None
        assert await clients.send(method="GET") is None
        clients.now = 9.99
        assert await clients.send() == 1
        clients.now = 10
        assert await clients.send() is None
        assert await clients.send() == 10
        clients.now = 10_000
        assert [await clients.send() for _ in range(7)][5:] == [None, 10]

    asyncio.run(scenario())


def test_a_rate_below_one_per_minute_is_supported() -> None:
    async def scenario() -> None:
        clients = Clients(0.5)
        assert [await clients.send() for _ in range(2)] == [None, 120]

    asyncio.run(scenario())


def test_clients_are_identified_by_their_key_whatever_their_address() -> None:
    async def scenario() -> None:
        clients = Clients(1, "a", "b")
        assert await clients.send("192.0.2.1", key="a") is None
        assert await clients.send("192.0.2.2", key="a") == 60
        assert await clients.send("192.0.2.1", key="b") is None

    asyncio.run(scenario())


def test_clients_without_a_key_are_identified_by_ipv4_address_or_ipv6_network() -> None:
    async def scenario() -> None:
        clients = Clients(1)
        assert await clients.send("2001:db8::1", key="a") is None
        assert await clients.send("2001:db8::ffff:1", key="b") == 60
        assert await clients.send("2001:db8:0:1::1") is None
        assert await clients.send("::ffff:192.0.2.9") is None
        assert await clients.send("192.0.2.9") == 60
        assert await clients.send("a socket's path") is None

    asyncio.run(scenario())


def test_the_number_of_stored_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_CLIENTS", 10)

    async def scenario() -> None:
        clients = Clients(1)
        for host in range(200):
            assert await clients.send(f"192.0.2.{host}") is None
        assert len(clients.limit._buckets) == 10
        assert await clients.send("192.0.2.199") == 60

    asyncio.run(scenario())


def test_a_route_may_count_a_request_that_the_middleware_does_not() -> None:
    async def scenario() -> None:
        clients = Clients(2)
        clients.limit.take("192.0.2.1")
        assert await clients.send() is None
        assert await clients.send() == 30
        with pytest.raises(TooManyRequestsError, match="at most 2 a minute"):
            clients.limit.take("192.0.2.1")
        clients.limit.take("192.0.2.2")

    asyncio.run(scenario())


def test_without_a_limit_every_request_passes() -> None:
    limit = RateLimit(None)
    for _ in range(100):
        limit.take("192.0.2.1")
