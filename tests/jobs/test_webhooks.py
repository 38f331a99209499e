"""Webhooks: messages about jobs to a host, which takes them, refuses them, or is away."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.listener import SECRET, SOON, Listener, all_sent, telling
from tests.support.server import (
    ON_RAY,
    SMALL,
    Server,
    encoded,
    fields,
    picture,
    settings,
    until,
)
from trellis2_server.errors import EngineError, InputError
from trellis2_server.jobs import webhooks
from trellis2_server.jobs.webhook import Webhook
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.signatures import signing_key
from trellis2_server.outbound.webhooks import WebhookSender

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.engines import GatedEngine


pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@pytest.fixture
def listener() -> Generator[Listener]:
    running = Listener()
    yield running
    running.host.close()


# ---- messages ----------------------------------------------------------------------------


def test_the_end_of_a_job_is_told_with_its_json(listener: Listener) -> None:
    with telling(listener) as server:
        model = server.generate(fields(webhook=listener.url(), texture=True))
        assert model.status_code == 200, model.text
        message = listener.message()
        job = server.client.get(f"/jobs/{model.headers['x-job-id']}").json()
        assert message.pop("event") == "completed"
        assert message == job
        assert message["texture_ready"]
        all_sent(server)
    assert listener.has_nothing_more()


def test_a_job_whose_reply_is_the_shape_is_told_of_when_its_texture_is_there(
    listener: Listener, engine: GatedEngine
) -> None:
    engine.gates["texture"].clear()
    with telling(listener, engine) as server:
        events = ["shape", "completed", "failed"]
        server.generate(fields(webhook=listener.url(), webhook_events=events))
        shape = listener.message()
        assert (shape["event"], shape["shape_ready"], shape["texture_ready"]) == (
            "shape", True, False,
        )  # fmt: skip
        engine.gates["texture"].set()
        assert listener.message()["event"] == "completed"
        all_sent(server)


def test_a_failure_is_told_with_its_cause(listener: Listener, engine: GatedEngine) -> None:
    with telling(listener, engine) as server:
        engine.failures["shape"] = EngineError("the shape stage failed")
        assert server.generate(fields(webhook=listener.url())).status_code == 500
        message = listener.message()
        assert (message["event"], message["error"]) == ("failed", "the shape stage failed")
        all_sent(server)


def test_a_cancelled_job_is_told_of_as_failed(listener: Listener, engine: GatedEngine) -> None:
    engine.gates["shape"].clear()
    with telling(listener, engine) as server:
        uid = server.client.post("/send", json=fields(webhook=listener.url())).json()["uid"]
        engine.wait_for("shape")
        server.client.delete(f"/jobs/{uid}")
        message = listener.message()
        assert (message["event"], message["error"]) == ("failed", "cancelled")


def test_only_events_that_were_asked_for_are_told(listener: Listener) -> None:
    with telling(listener) as server:
        body = fields(webhook=listener.url(), webhook_events="failed", texture=True)
        server.generate(body)
        all_sent(server)
    assert listener.has_nothing_more()


def test_a_job_that_is_finished_already_is_told_of_at_once(listener: Listener) -> None:
    with telling(listener) as server:
        made = server.generate(fields(texture=True))
        assert listener.has_nothing_more()
        again = server.generate(fields(texture=True, webhook=listener.url()))
        assert again.headers["x-job-id"] == made.headers["x-job-id"]
        assert listener.message()["event"] == "completed"
        image_hash = made.headers["x-image-hash"]
        server.texture(image_hash=image_hash, webhook=listener.url("/other"))
        assert listener.host.next().target == "/other"


def test_a_webhook_that_comes_as_another_to_the_same_url_ends_is_told_too(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with telling(listener) as server:
        uid = server.generate(fields(texture=True)).headers["x-job-id"]
        hooks, told = server.manager.webhooks, list[str]()

        async def twice() -> None:
            taken, is_sending = asyncio.get_running_loop().create_future(), asyncio.Event()

            async def attempt(_pending: Any, event: str, _body: bytes) -> None:
                is_sending.set()
                await taken
                told.append(event)

            async def add() -> None:
                await hooks.add(server.manager.registry[uid], Webhook(listener.url()))

            async def add_as_it_ends() -> None:
                await taken
                await add()

            monkeypatch.setattr(hooks, "_attempt", attempt)
            await add()
            await is_sending.wait()
            again = asyncio.ensure_future(add_as_it_ends())
            await asyncio.sleep(0)  # it waits after the first one's message
            taken.set_result(None)
            await again

        asyncio.run_coroutine_threadsafe(twice(), server.manager._loop).result(PATIENCE_S)
        all_sent(server)
        assert told == ["completed", "completed"]


def test_a_job_that_turns_out_to_be_another_is_told_of_as_that(
    listener: Listener, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()
    with telling(listener, engine) as server:
        uid = server.client.post("/send", json=fields()).json()["uid"]
        engine.wait_for("shape")
        same = {"image": encoded(picture(file_format="WEBP")), "seed": 1, **SMALL}
        server.client.post("/send", json={**same, "webhook": listener.url()})
        until(lambda: len(server.client.get("/jobs").json()["jobs"]) == 1, "merged")
        engine.gates["shape"].set()
        assert listener.message()["uid"] == server.client.get(f"/jobs/{uid}").json()["uid"]


def test_a_job_whose_client_waits_for_a_message_is_not_abandoned(
    listener: Listener, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()
    worker = {"abandoned_job_seconds": 0.1, "limit_model_concurrency": 1}
    with telling(listener, engine, worker=worker) as server:

        def send(shade: int, **more: Any) -> str:
            return server.client.post("/send", json=fields(shade, **more)).json()["uid"]

        send(1)
        engine.wait_for("shape")
        send(2, webhook=listener.url())
        send(3)
        until(lambda: len(server.manager.active_jobs) == 2, "abandoned")  # not the second one
        engine.gates["shape"].set()
        assert listener.message()["event"] == "completed"


def test_a_webhook_in_a_form_or_the_query_is_the_same(listener: Listener) -> None:
    with telling(listener) as server:
        query = {"webhook": listener.url(), "webhook_events": "shape,completed", "texture": "true"}
        server.client.post("/generate", content=picture(), params={**query, **SMALL})
        assert [listener.message()["event"] for _ in range(2)] == ["shape", "completed"]


# ---- hosts that fail ---------------------------------------------------------------------


def test_a_message_is_sent_again_with_the_same_id_until_it_is_taken(listener: Listener) -> None:
    listener.status = [500, 404, 302, 204]
    with telling(listener) as server:
        server.generate(fields(webhook=listener.url(), texture=True))
        requests = [listener.host.next() for _ in range(4)]
        all_sent(server)
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert len({request.body for request in requests}) == 1
    assert listener.has_nothing_more()


@pytest.mark.parametrize(
    ("event", "attempts"), [("completed", len(SOON) + 1), ("shape", 4)], ids=["end", "shape"]
)
def test_a_message_that_nobody_takes_is_given_up(
    listener: Listener, event: str, attempts: int
) -> None:
    listener.status = [500]
    with telling(listener) as server:
        body = fields(webhook=listener.url(), webhook_events=[event], texture=True)
        server.generate(body)
        all_sent(server)
    assert listener.host.received.qsize() == attempts


def test_a_host_that_is_gone_gets_no_more(listener: Listener) -> None:
    listener.status = [410]
    with telling(listener) as server:
        server.generate(fields(webhook=listener.url(), texture=True))
        all_sent(server)
    assert listener.host.received.qsize() == 1


def test_a_deleted_job_is_told_of_no_more(listener: Listener) -> None:
    listener.status = [500]
    with telling(listener) as server:
        server.manager.webhooks.retry_delays_s = (0.05,) * 1000
        uid = server.generate(fields(webhook=listener.url(), texture=True)).headers["x-job-id"]
        listener.host.next()
        server.client.delete(f"/jobs/{uid}")
        all_sent(server)


def test_real_delays_grow_from_seconds_to_hours() -> None:
    delays = webhooks.RETRY_DELAYS_S
    assert delays[0] <= 5
    assert list(delays) == sorted(delays)
    assert 3600 < sum(delays) < 86_400


# ---- which hosts -------------------------------------------------------------------------


def test_a_host_that_is_not_listed_is_refused_before_there_is_a_job(listener: Listener) -> None:
    urls = (
        "http://127.0.0.1:1/", "https://127.0.0.1/", "http://169.254.169.254/", "http://[::1]/",
        "http://2130706433/", "http://user@127.0.0.1/", "javascript:1", "file:///etc/passwd", 7, "",
    )  # fmt: skip
    with telling(listener) as server:
        for url in urls:
            response = server.generate(fields(webhook=url))
            assert response.status_code == 400, url
            assert response.json()["text"].startswith("webhook: ")
        assert server.client.get("/jobs").json()["jobs"] == []


def test_a_listed_name_with_an_address_of_this_machine_is_not_called(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """The address is looked up for each message: the name may have changed it."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        del port
        asked.append(host)
        return ["127.0.0.1"]

    entry = f"hooks.example:{listener.host.port}"
    with telling(listener, webhook_hosts=[entry]) as server:
        server.manager.webhooks._sender = WebhookSender(
            HostList([entry]), signing_key(SECRET), resolve=resolve
        )
        assert server.generate(fields(webhook=f"http://{entry}/", texture=True)).is_success
        all_sent(server)
    assert listener.host.connections == 0
    assert asked == ["hooks.example"]
    assert "Webhook given up" in caplog.text


def test_without_hosts_a_webhook_is_refused_in_plain_words(server: Server) -> None:
    response = server.generate(fields(webhook="https://example.com/"))
    assert response.status_code == 400
    assert response.json()["text"] == (
        "webhook: this server sends none; poll the job instead, or ask the operator for "
        "server.webhook_hosts"
    )


def test_a_job_has_a_number_of_webhooks_and_no_more(
    listener: Listener, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()
    with telling(listener, engine) as server:

        def send(number: int) -> int:
            body = fields(webhook=listener.url(f"/{number}"), texture=True)
            return server.client.post("/send", json=body).status_code

        for number in (*range(webhooks.MAX_WEBHOOKS), 0):  # one of them twice
            assert send(number) == 200
        assert send(99) == 400
        engine.gates["shape"].set()
        targets = sorted(listener.host.next().target for _ in range(webhooks.MAX_WEBHOOKS))
        assert targets == [f"/{number}" for number in range(webhooks.MAX_WEBHOOKS)]
        all_sent(server)
    assert listener.has_nothing_more()


def test_no_url_is_shown_or_logged(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    listener.status = [500, 200]
    with caplog.at_level(logging.DEBUG), telling(listener) as server:
        uid = server.generate(fields(webhook=listener.url(), texture=True)).headers["x-job-id"]
        all_sent(server)
        assert "a-secret" not in server.client.get(f"/jobs/{uid}").text
    assert "Webhook delivered" in caplog.text
    assert "a-secret-token" not in caplog.text
    assert "a-secret" not in listener.host.next().body.decode()


@pytest.mark.parametrize(
    "server", [{}, {"webhook_secret": SECRET}, {"webhook_hosts": ["a.example"]}], ids=range(3)
)
def test_without_hosts_or_a_secret_none_is_sent_and_that_is_what_is_said(
    server: dict[str, Any],
) -> None:
    parts: Any = SimpleNamespace(registry=None), None
    sender = webhooks.Webhooks(settings(server=server).server, *parts)
    with pytest.raises(InputError, match=r"^webhook: this server sends none; poll the job"):
        asyncio.run(sender.add(parts[1], Webhook("https://a.example/")))
