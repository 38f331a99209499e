"""What a client is told of a job is saved before; nobody waits for a disk that fails."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import ON_RAY, fields, serving, settings, until
from trellis2_server.errors import StoreError
from trellis2_server.storage import write_queue
from trellis2_server.storage.disk_store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from tests.support.server import Server

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")


class Commits:
    """Holds commits back while the gate is closed, or has them fail.

    Attributes:
        gate: open by itself.
        failure: raised by each commit.
        held: set while a commit waits.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.held = threading.Event(), threading.Event()
        self.gate.set()
        self.failure: StoreError | None = None
        for name in ("save", "delete_jobs"):
            monkeypatch.setattr(DiskStore, name, self._guarded(getattr(DiskStore, name)))

    def _guarded(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            if not self.gate.is_set():
                self.held.set()
                assert self.gate.wait(PATIENCE_S)
                self.held.clear()
            if self.failure is not None:
                raise self.failure
            real(*arguments)

        return call


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Generator[Commits]:
    commits = Commits(monkeypatch)
    yield commits
    commits.gate.set()


@pytest.fixture
def server(commits: Commits, tmp_path: Path) -> Generator[Server]:
    configured = settings(worker={"result_dir": str(tmp_path)})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server
        commits.gate.set()


def held_back(server: Server, commits: Commits, reply: Future[Any]) -> None:
    """The reply waits for the commit, and nothing else waits for it."""
    assert commits.held.wait(PATIENCE_S)
    until(server.manager.scheduler.is_idle.is_set, "all steps are done")
    for _ in range(20):
        assert server.client.get("/healthcheck").is_success
    assert not reply.done()


def last_event(server: Server, uid: str) -> str:
    with server.client.stream("GET", f"/events/{uid}") as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    return json.loads(lines[-1][6:])["status"]


REQUESTS: dict[str, Callable[[Server, str], Any]] = {
    "details": lambda server, uid: server.client.get(f"/jobs/{uid}").json()["status"],
    "the list": lambda server, _: server.client.get("/jobs").json()["jobs"][0]["status"],
    "a file": lambda server, uid: server.client.get(f"/jobs/{uid}/textured.glb").status_code,
    "status": lambda server, uid: server.client.get(f"/status/{uid}").json()["status"],
    "an event": last_event,
    "texture": lambda server, uid: server.texture(uid=uid).status_code,
    "the same request": lambda server, _: server.generate(fields(texture=True)).status_code,
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_reply_about_a_result_waits_until_it_is_saved(
    server: Server, commits: Commits, kind: str
) -> None:
    commits.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.generate, fields(texture=True))
        until(lambda: any(job.textured_glb is not None for job in server.manager.registry), "made")
        uid = next(iter(server.manager.registry)).uid
        reply = pool.submit(REQUESTS[kind], server, uid)
        held_back(server, commits, first)
        assert not reply.done()
        commits.gate.set()
        assert reply.result(PATIENCE_S) in {200, "completed"}
        assert first.result(PATIENCE_S).is_success


def test_a_deletion_is_confirmed_when_it_is_saved(server: Server, commits: Commits) -> None:
    uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
    until(lambda: server.is_idle, "written")
    commits.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(server.client.delete, f"/jobs/{uid}")
        held_back(server, commits, reply)
        assert server.client.get(f"/jobs/{uid}").status_code == 404
        commits.gate.set()
        assert reply.result(PATIENCE_S).status_code == 204


def test_a_deletion_that_cannot_be_saved_is_not_confirmed(server: Server, commits: Commits) -> None:
    requests = [fields(seed=seed, texture=True) for seed in (1, 2)]
    uids = [server.generate(request).headers["X-Job-Id"] for request in requests]
    until(lambda: server.is_idle, "written")
    commits.failure = StoreError("Read-only file system")
    for uid in uids:
        refused = server.client.delete(f"/jobs/{uid}")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "may be again after a restart" in refused.json()["text"]
        assert server.client.get(f"/jobs/{uid}").status_code == 404
    assert "Read-only" in str(server.client.get("/healthcheck").json()["notes"])
    commits.failure = None
    third = server.generate(fields(seed=3, texture=True)).headers["X-Job-Id"]
    assert server.client.delete(f"/jobs/{third}").status_code == 204
    until(lambda: not server.manager.archive.is_in_memory, "written again")
    assert "Read-only" not in str(server.client.get("/healthcheck").json())


def test_nobody_waits_for_a_disk_that_fails_or_does_not_answer(
    server: Server, commits: Commits, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    commits.failure = StoreError("No space left on device")
    assert server.generate(fields(seed=1, texture=True)).is_success
    assert "No space" in str(server.client.get("/healthcheck").json()["notes"])
    commits.failure = None
    server.manager._loop.call_soon_threadsafe(server.manager.archive.retry_failed_writes)
    archive = server.manager.archive
    # A turn that runs has the usual limit.
    until(lambda: not archive.is_in_memory and archive.is_idle, "written again")
    monkeypatch.setattr(write_queue, "STALL_S", 0.05)
    commits.gate.clear()
    with caplog.at_level(logging.WARNING):
        assert server.generate(fields(seed=2, texture=True)).is_success
    assert "has not answered" in caplog.text
    assert "has not answered" in str(server.client.get("/healthcheck").json()["notes"])
    commits.gate.set()
    until(lambda: not archive.is_in_memory, "written again")
    assert "has not answered" not in str(server.client.get("/healthcheck").json())
