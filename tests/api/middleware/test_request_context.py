from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.support.engines import GatedEngine
from tests.support.server import Server, fields, serving, settings, until
from trellis2_server import logs
from trellis2_server.api.middleware.request_context import DEFAULT_HEADERS

if TYPE_CHECKING:
    import httpx
    import pytest

# ---- ids and headers ------------------------------------------------------------------------


def responses_of_every_kind(server: Server, headers: dict[str, str]) -> dict[int, httpx.Response]:
    """Return one response of each status that is easy to provoke."""
    client = server.client
    responses = [
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
    responses.append(client.get("/worker_status", headers=headers | {"X-API-Key": "k"}))
    server.app.state.service = service
    return {reply.status_code: reply for reply in responses}


def test_every_response_has_a_request_id_and_the_default_headers() -> None:
    configured = settings(
        server={"api_keys": ["k"], "max_body_bytes": 65_536, "rate_per_minute": 6}
    )
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        replies = responses_of_every_kind(server, {"X-Request-Id": "mine-1.a_B"})
        assert set(replies) == {200, 400, 401, 404, 405, 413, 429, 500}
        for status, reply in replies.items():
            assert reply.headers["x-request-id"] == "mine-1.a_B", status
            for name, value in DEFAULT_HEADERS.items():
                assert reply.headers[name] == value, (status, name)
        assert int(replies[429].headers["retry-after"]) > 0
        assert replies[429].json()["error_code"] == 3


def test_each_request_has_its_own_id(server: Server) -> None:
    ids = {server.client.get("/healthcheck").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


# ---- the log ------------------------------------------------------------------------------


def requests(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.getMessage() == "Request"]


def test_each_request_is_logged_without_its_query(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            server.client.get("/healthcheck?quiet=yes")
        server.client.get("/worker_status/nothing?token=s3cret")
        server.client.post("/generate?token=s3cret", json={"seed": 1})
        until(lambda: len(requests(caplog)) == 2, "two lines")  # written after the response
    assert [(r.method, r.path, r.status) for r in requests(caplog)] == [
        ("GET", "/worker_status/nothing", 404),
        ("POST", "/generate", 400),
    ]
    assert not [r for r in caplog.records if r.name != "httpx" and "s3cret" in str(vars(r))]
    with caplog.at_level(logging.DEBUG):
        server.client.get("/healthcheck")
        until(lambda: requests(caplog)[-1].path == "/healthcheck", "a line")
    assert requests(caplog)[-1].client == "127.0.0.1"


def test_log_records_of_a_job_have_the_id_of_the_request_that_created_it(
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
            pending = [pool.submit(server.texture, image_hash=name) for name in (one, two)]
            engine.gates["texture"].set()
            assert {each.result().status_code for each in pending} == {200, 500}
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
