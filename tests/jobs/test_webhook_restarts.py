"""Webhooks whose messages are still to be sent when the process ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GatedEngine
from tests.support.listener import Listener, all_sent, check_signature, telling
from tests.support.server import (
    ON_RAY,
    fields,
    serving,
    settings,
    until,
)
from trellis2_server.storage.store import JobName

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@pytest.fixture
def listener() -> Generator[Listener]:
    running = Listener()
    yield running
    running.host.close()


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
