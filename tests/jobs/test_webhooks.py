"""Webhooks: messages about jobs to a host, which takes them, refuses them, or is away."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.documents import block
from tests.support.engines import GatedEngine
from tests.support.other_host import OtherHost, Received, reply
from tests.support.server import (
    ON_RAY,
    SMALL,
    Server,
    encoded,
    fields,
    picture,
    serving,
    settings,
    until,
)
from trellis2_server.errors import EngineError
from trellis2_server.jobs import webhooks
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.signatures import signature, signing_key
from trellis2_server.outbound.webhooks import WebhookSender
from trellis2_server.storage.store import JobName

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()
#: Delays of the tests, in place of seconds to hours.
SOON = (0.01,) * 5


class Listener:
    """A host that takes messages.

    Attributes:
        host: where it is.
        status: of its replies, the last one for all further ones.
    """

    def __init__(self) -> None:
        self.status = [200]
        self.host = OtherHost(self._answer)

    def _answer(self, _: Received) -> list[bytes]:
        return [reply(status=self.status.pop(0) if len(self.status) > 1 else self.status[0])]

    def url(self, path: str = "/hook?token=a-secret-token") -> str:
        return self.host.url(path)

    def message(self) -> dict[str, Any]:
        """Wait for the next message, whose signature must be right."""
        request = self.host.next()
        check_signature(request)
        return request.json()

    def has_nothing_more(self) -> bool:
        return self.host.received.empty()


def check_signature(request: Received) -> None:
    """As https://www.standardwebhooks.com describes it."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, timestamp, signed = (request.headers[name] for name in names)
    assert abs(int(timestamp) - time.time()) < 60
    content = f"{message_id}.{timestamp}.".encode() + request.body
    digest = hmac.new(b"0123456789abcdef", content, hashlib.sha256).digest()
    assert signed == f"v1,{base64.b64encode(digest).decode()}"


@pytest.fixture
def listener() -> Generator[Listener]:
    running = Listener()
    yield running
    running.host.close()


@contextmanager
def telling(
    listener: Listener,
    engine: GatedEngine | None = None,
    folder: Path | None = None,
    worker: dict[str, Any] | None = None,
    **server: Any,
) -> Generator[Server]:
    """A server that may send to the listener, without long delays."""
    configured = settings(
        server={
            "webhook_hosts": [listener.host.entry],
            "webhook_secret": SECRET,
            "shutdown_grace_seconds": 0.1,
            **server,
        },
        worker={"result_dir": str(folder) if folder else None, **(worker or {})},
    )
    with serving(engine or GatedEngine(), configured) as running:
        running.wait_until_loaded()
        running.manager.webhooks.retry_delays_s = SOON
        yield running


def all_sent(server: Server) -> None:
    until(lambda: not len(server.manager.webhooks), "sent")


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


# ---- restarts ----------------------------------------------------------------------------


def stored_text(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_message_that_was_not_taken_is_sent_by_the_next_process(
    listener: Listener, tmp_path: Path
) -> None:
    listener.status = [500]
    with telling(listener, folder=tmp_path) as server:
        server.manager.webhooks.retry_delays_s = (600.0,)
        server.generate(fields(webhook=listener.url(), texture=True))
        first = listener.host.next()
    listener.status = [200]
    with telling(listener, folder=tmp_path) as server:
        second = listener.host.next()
        all_sent(server)
    assert second.headers["webhook-id"] == first.headers["webhook-id"]
    check_signature(second)
    assert second.json()["event"] == "completed"
    with telling(listener, folder=tmp_path) as server:
        assert not len(server.manager.webhooks)
    assert listener.has_nothing_more()


def test_a_job_that_a_restart_ended_is_told_of_as_failed(
    listener: Listener, engine: GatedEngine, tmp_path: Path
) -> None:
    engine.gates["shape"].clear()
    with telling(listener, engine, tmp_path) as server:
        server.client.post("/send", json=fields(webhook=listener.url()))
        engine.wait_for("shape")
        server.close_soon()
        until(lambda: server.manager.unavailable_reason is not None, "closing")
        until(lambda: not len(server.manager.webhooks), "closed")
    taken = [] if listener.has_nothing_more() else [listener.message()]
    with telling(listener, folder=tmp_path) as server:
        all_sent(server)
    taken += [] if listener.has_nothing_more() else [listener.message()]
    assert [message["event"] for message in taken] == ["failed"]
    assert taken[0]["error"] in {"the server was restarted", "the server is shutting down"}


def test_hosts_that_are_not_listed_any_more_get_nothing_after_a_restart(
    listener: Listener, tmp_path: Path
) -> None:
    listener.status = [500]
    with telling(listener, folder=tmp_path) as server:
        server.manager.webhooks.retry_delays_s = (600.0,)
        server.generate(fields(webhook=listener.url(), texture=True))
        listener.host.next()
    stored = settings(worker={"result_dir": str(tmp_path)})
    with serving(GatedEngine(), stored) as server:  # none at all
        server.wait_until_loaded()
        all_sent(server)
    with telling(listener, folder=tmp_path, webhook_hosts=["other.example"]) as server:
        all_sent(server)
    with telling(listener, folder=tmp_path) as server:  # it was given up
        all_sent(server)
    assert listener.has_nothing_more()


def test_a_damaged_webhook_costs_no_job(listener: Listener, tmp_path: Path) -> None:
    listener.status = [500]
    with telling(listener, folder=tmp_path) as server:
        server.manager.webhooks.retry_delays_s = (600.0,)
        server.generate(fields(webhook=listener.url(), texture=True))
        listener.host.next()
        uid = server.client.get("/jobs").json()["jobs"][0]["uid"]
        archive = server.manager.archive
        for number, payload in enumerate(("{}", "[]", "7", '{"events": 5, "url": 1}')):
            name = JobName("webhook", f"damaged-{number}", uid, payload)
            server.manager._loop.call_soon_threadsafe(archive.save_name, name)
    with telling(listener, folder=tmp_path) as server:
        assert [job["uid"] for job in server.client.get("/jobs").json()["jobs"]] == [uid]
        listener.host.next()


# ---- signatures --------------------------------------------------------------------------


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_function_of_the_documentation_accepts_genuine_messages_only() -> None:
    names: dict[str, Any] = {}
    exec(block("verify-webhook"), names)  # noqa: S102 - our own page
    now = int(time.time())

    def is_accepted(body: bytes = b"{}", at: int = now, secret: str = SECRET) -> bool:
        headers = {
            "webhook-id": "1",
            "webhook-timestamp": str(at),
            "webhook-signature": signature(signing_key(SECRET), "1", at, b"{}"),
        }
        return names["is_genuine"](headers, body, secret)

    assert is_accepted()
    assert not is_accepted(body=b"{ }")
    assert not is_accepted(at=now - 301)
    assert not is_accepted(secret="whsec_" + base64.b64encode(bytes(16)).decode())


def test_a_secret_has_sixteen_bytes_and_not_less() -> None:
    assert signing_key("x" * 16) == b"x" * 16
    assert len(signing_key("whsec_" + base64.b64encode(bytes(16)).decode())) == 16
    short = "whsec_" + base64.b64encode(bytes(15)).decode()
    for secret in ("x" * 15, short):
        with pytest.raises(ValueError, match="should have at least 16 bytes"):
            signing_key(secret)
    with pytest.raises(ValueError, match="must be base64"):
        signing_key("whsec_no base64 at all")
