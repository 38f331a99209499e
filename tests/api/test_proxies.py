"""Which proxies' headers are believed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import ON_RAY, Server, serving, settings, until

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@pytest.fixture(params=[[], ["127.0.0.1"], ["10.0.0.0/8"]], ids=["none", "this one", "others"])
def proxied(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Generator[tuple[Server, bool]]:
    """A server with a rate limit, and whether it believes 127.0.0.1."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's, which must not apply
    trusted: list[str] = request.param
    configured = settings(server={"trusted_proxies": trusted, "rate_per_minute": 1})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server, trusted == ["127.0.0.1"]


def test_only_trusted_proxies_choose_who_is_limited_and_logged(
    proxied: tuple[Server, bool], caplog: pytest.LogCaptureFixture
) -> None:
    server, is_believed = proxied
    caplog.set_level(logging.INFO)

    def post(address: str) -> int:
        headers = {"X-Forwarded-For": address, "X-Forwarded-Proto": "https"}
        return server.client.post("/generate", json={}, headers=headers).status_code

    statuses = [post(f"203.0.113.{number}") for number in range(3)]
    assert statuses == ([400, 400, 400] if is_believed else [400, 429, 429])

    def logged() -> list[Any]:
        records: list[Any] = [each for each in caplog.records if each.getMessage() == "Request"]
        return [each.client for each in records if each.method == "POST"]

    until(lambda: len(logged()) == len(statuses), "logged, which is done after the reply")
    assert logged() == [f"203.0.113.{n}" if is_believed else "127.0.0.1" for n in range(3)]
