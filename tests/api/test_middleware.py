from __future__ import annotations

import asyncio
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import Server, fields, serving, settings, until
from trellis2_server import logs, request_ids
from trellis2_server.api import middleware
from trellis2_server.api.api_keys import KeyRing
from trellis2_server.api.middleware import DEFAULT_HEADERS, ApiKeyMiddleware, RateLimitMiddleware

if TYPE_CHECKING:
    import httpx

# ---- ids and headers ------------------------------------------------------------------------


def replies_of_every_kind(server: Server, headers: dict[str, str]) -> dict[int, httpx.Response]:
    """One reply of each status that is easily had."""
    client = server.client
    found = [
        client.get("/healthcheck", headers=headers),
        client.get("/worker_status", headers=headers | {"X-API-Key": "k"}),
        client.post("/generate", json=fields(), headers=headers | {"X-API-Key": "k"}),
        client.post("/generate", content=b"{", headers=headers | {"X-API-Key": "k"}),
        client.get("/worker_status", headers=headers),
        client.get("/nothing", headers=headers | {"X-API-Key": "k"}),
        client.get("/generate", headers=headers | {"X-API-Key": "k"}),
        client.post(
            "/generate",
            content=b"x" * 70_000,
            headers=headers | {"X-API-Key": "k", "Content-Type": "image/png"},
        ),
        *(client.post("/send", headers=headers | {"X-API-Key": "k"}) for _ in range(10)),
    ]
    service, server.app.state.service = server.app.state.service, None
    found.append(client.get("/worker_status", headers=headers | {"X-API-Key": "k"}))
    server.app.state.service = service
    return {reply.status_code: reply for reply in found}


def test_every_reply_has_an_id_and_the_headers() -> None:
    configured = settings(
        server={"api_keys": ["k"], "max_body_bytes": 65_536, "rate_per_minute": 6}
    )
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        replies = replies_of_every_kind(server, {"X-Request-Id": "mine-1.a_B"})
        assert set(replies) == {200, 400, 401, 404, 405, 413, 429, 500}
        for status, reply in replies.items():
            assert reply.headers["x-request-id"] == "mine-1.a_B", status
            for name, value in DEFAULT_HEADERS.items():
                assert reply.headers[name] == value, (status, name)
        assert int(replies[429].headers["retry-after"]) > 0
        assert replies[429].json()["error_code"] == 3


@pytest.mark.parametrize("given", [None, "", "a b", "é", "x" * 65, "a\tb", '"', "a;b", "${jndi}"])
def test_an_id_that_may_not_stand_in_a_log_is_replaced(given: str | None) -> None:
    assert re.fullmatch("[0-9a-f]{32}", request_ids.choose(given))


def test_two_requests_have_two_ids(server: Server) -> None:
    ids = {server.client.get("/healthcheck").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


# ---- the log ------------------------------------------------------------------------------


def requests(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.getMessage() == "Request"]


def test_a_request_is_a_line_without_its_query(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            server.client.get("/healthcheck?quiet=yes")
        server.client.get("/worker_status/nothing?token=s3cret")
        server.client.post("/generate?token=s3cret", json={"seed": 1})
        until(lambda: len(requests(caplog)) == 2, "two lines")  # written after the reply
    assert [(r.method, r.path, r.status) for r in requests(caplog)] == [
        ("GET", "/worker_status/nothing", 404),
        ("POST", "/generate", 400),
    ]
    assert not [r for r in caplog.records if r.name != "httpx" and "s3cret" in str(vars(r))]
    with caplog.at_level(logging.DEBUG):
        server.client.get("/healthcheck")
        until(lambda: requests(caplog)[-1].path == "/healthcheck", "a line")
    assert requests(caplog)[-1].client == "127.0.0.1"


def test_a_jobs_lines_carry_the_id_of_the_request_that_asked_for_it(
    server: Server, engine: GatedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(settings(server={"log_format": "json", "log_level": "debug"}).server)
    try:
        engine.failures["texture"] = RuntimeError("why")
        engine.gates["texture"].clear()
        for shade in (1, 2):
            body = fields(shade, texture=False)
            server.client.post("/generate", json=body, headers={"X-Request-Id": f"ask-{shade}"})
        [one, two] = [job.image_hash for job in server.manager.registry]
        with ThreadPoolExecutor() as pool:
            asked = [pool.submit(server.texture, image_hash=name) for name in (one, two)]
            engine.gates["texture"].set()
            assert {each.result().status_code for each in asked} == {200, 500}
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    by_uid: dict[str, set[str]] = {}
    for line in lines:
        if "uid" in line:
            by_uid.setdefault(line["uid"], set()).add(line["request_id"])
    assert sorted(map(sorted, by_uid.values())) == [["ask-1"], ["ask-2"]]
    [failed] = [line for line in lines if line["message"] == "Step failed"]
    assert failed["request_id"] in {"ask-1", "ask-2"}
    assert len([line for line in lines if line["message"].startswith("Job ")]) == 6


# ---- the rate -----------------------------------------------------------------------------


class Clients:
    """`RateLimitMiddleware` behind `ApiKeyMiddleware`, with a manual clock and no application."""

    def __init__(self, per_minute: float, *keys: str) -> None:
        self.now = 0.0
        self.rate = RateLimitMiddleware(self._pass, per_minute, clock=lambda: self.now)
        self._keys = ApiKeyMiddleware(self.rate, KeyRing(keys), (), "/open/")
        self._passed = False

    async def _pass(self, *_: Any) -> None:
        self._passed = True

    async def ask(
        self, address: str = "192.0.2.1", *, key: str = "", method: str = "POST"
    ) -> int | None:
        """None: it may pass; else the seconds after which to come again."""
        scope = {
            "type": "http", "method": method, "headers": [(b"x-api-key", key.encode())],
            "path": "/", "client": (address, 1), "state": {},
        }  # fmt: skip
        sent: list[Any] = []
        self._passed = False

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        await self._keys(scope, receive, send)
        if self._passed:
            assert not sent
            return None
        assert sent[0]["status"] == 429
        assert json.loads(sent[1]["body"])["error_code"] == 3
        return int(dict(sent[0]["headers"])[b"retry-after"])


def test_a_client_may_ask_so_often_and_again_when_it_was_told_to() -> None:
    async def story() -> None:
        clients = Clients(6)
        assert [await clients.ask() for _ in range(7)] == [None] * 6 + [10]
        assert await clients.ask("192.0.2.2") is None
        assert await clients.ask(method="GET") is None
        clients.now = 9.99
        assert await clients.ask() == 1
        clients.now = 10
        assert await clients.ask() is None
        assert await clients.ask() == 10
        clients.now = 10_000
        assert [await clients.ask() for _ in range(7)][5:] == [None, 10]

    asyncio.run(story())


def test_less_than_one_a_minute_is_a_rate_too() -> None:
    async def story() -> None:
        clients = Clients(0.5)
        assert [await clients.ask() for _ in range(2)] == [None, 120]

    asyncio.run(story())


def test_a_client_is_a_key_whatever_its_address() -> None:
    async def story() -> None:
        clients = Clients(1, "a", "b")
        assert await clients.ask("192.0.2.1", key="a") is None
        assert await clients.ask("192.0.2.2", key="a") == 60
        assert await clients.ask("192.0.2.1", key="b") is None

    asyncio.run(story())


def test_a_client_without_a_key_is_an_address_or_a_network_of_ipv6() -> None:
    async def story() -> None:
        clients = Clients(1)
        assert await clients.ask("2001:db8::1", key="a") is None
        assert await clients.ask("2001:db8::ffff:1", key="b") == 60
        assert await clients.ask("2001:db8:0:1::1") is None
        assert await clients.ask("::ffff:192.0.2.9") is None
        assert await clients.ask("192.0.2.9") == 60
        assert await clients.ask("a socket's path") is None

    asyncio.run(story())


def test_the_table_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MAX_CLIENTS", 10)

    async def story() -> None:
        clients = Clients(1)
        for host in range(200):
            assert await clients.ask(f"192.0.2.{host}") is None
        assert len(clients.rate._left) == 10
        assert await clients.ask("192.0.2.199") == 60

    asyncio.run(story())
