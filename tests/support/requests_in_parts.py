"""Requests whose body arrives in parts, for the parser alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from trellis2_server.api.inflight_bodies import BodyAccount, InflightBodies
from trellis2_server.api.request_parsing import ParsedRequest, parse_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LIMIT = 1_000_000
FORM = "multipart/form-data; boundary=x"


def account(budget: int = 2**30) -> BodyAccount:
    return InflightBodies(budget).open("client")


def parse(  # noqa: PLR0913, PLR0917 - the parts of a request
    parts: Iterable[bytes],
    content_type: str = "",
    query: str = "",
    limit: int = LIMIT,
    account: BodyAccount | None = None,
    headers: Mapping[str, str] | None = None,
) -> ParsedRequest:
    """Parse content that arrives in these parts; then the client disconnects."""

    def messages() -> Iterator[dict[str, Any]]:
        for part in parts:
            yield {"type": "http.request", "body": part, "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}
        yield {"type": "http.disconnect"}

    remaining = messages()

    async def receive() -> dict[str, Any]:
        return next(remaining)

    sent = {**({"content-type": content_type} if content_type else {}), **(headers or {})}
    scope = {
        "type": "http", "method": "POST", "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "state": {"body": account or InflightBodies(2**30).open("client")},
    }  # fmt: skip
    return asyncio.run(parse_request(Request(scope, receive), max_bytes=limit))


def form(*parts: tuple[str, bytes]) -> bytes:
    lines = [b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (n.encode(), v)
             for n, v in parts]  # fmt: skip
    return b"".join(lines) + b"--x--\r\n"
