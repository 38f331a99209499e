from __future__ import annotations

import asyncio
from typing import Any

import pytest

from trellis2_server.api.inflight_bodies import InflightBodies
from trellis2_server.api.middleware import RequestLimitsMiddleware
from trellis2_server.api.middleware.request_limits import MAX_QUERY_BYTES, MAX_QUERY_FIELDS


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        (b"", True),
        (b"a" * MAX_QUERY_BYTES, True),
        (b"a" * (MAX_QUERY_BYTES + 1), False),
        (b"&".join([b"a"] * MAX_QUERY_FIELDS), True),
        (b"&".join([b"a"] * (MAX_QUERY_FIELDS + 1)), False),
    ],
    ids=["none", "longest", "too long", "most fields", "too many fields"],
)
def test_a_long_query_is_refused_and_others_have_the_account_of_their_body(
    query: bytes, *, passes: bool
) -> None:
    bodies = InflightBodies(1000)
    sent: list[Any] = []
    seen: list[int] = []

    async def app(scope: Any, *_: Any) -> None:
        scope["state"]["body"].reserve(100)
        seen.append(bodies.used_bytes)

    async def collect(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "query_string": query, "state": {"client": "a"}, "path": "/jobs"}
    asyncio.run(RequestLimitsMiddleware(app, bodies)(scope, receive, collect))
    assert bodies.used_bytes == 0
    assert (seen, [each["status"] for each in sent if "status" in each]) == (
        ([100], []) if passes else ([], [414])
    )
