"""Files that are made on threads."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.managers import in_a_loop, until
from trellis2_server.storage.deferred_files import DeferredFiles


class Makers:
    """Files that are made when a gate opens."""

    def __init__(self) -> None:
        self.files = DeferredFiles()
        self.gate = threading.Event()
        self.running = 0
        self.stored: list[bytes] = []
        self._lock = threading.Lock()

    def start(self, uid: str, name: str, content: bytes = b"x") -> None:
        def make() -> bytes:
            with self._lock:
                self.running += 1
            assert self.gate.wait(PATIENCE_S)
            return content

        self.files.start(uid, name, make, self.stored.append)


@in_a_loop
async def test_two_files_are_made_at_a_time_and_the_others_wait() -> None:
    makers = Makers()
    for name in "abc":
        makers.start("uid", name)
    await until(lambda: makers.running >= 2)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert (makers.running, len(makers.files), makers.stored) == (2, 3, [])
    makers.gate.set()
    await makers.files.wait()
    assert (makers.running, len(makers.files), makers.stored) == (3, 0, [b"x"] * 3)
    makers.files.close()


@in_a_loop
async def test_a_file_that_is_being_made_is_known_by_its_job_and_name() -> None:
    makers = Makers()
    makers.start("a", "shape")
    makers.start("b", "field")
    for uid, name, is_known in (
        ("a", "shape", True), ("b", "field", True), ("a", "field", False), ("shape", "a", False),
    ):  # fmt: skip
        assert makers.files.has(uid, name) is is_known
    for uid, name in (("a", "field"), ("shape", "a"), ("c", "shape")):
        await asyncio.wait_for(makers.files.wait_for(uid, name), PATIENCE_S / 2)  # at once
    assert len(makers.files) == 2
    waiting = asyncio.ensure_future(makers.files.wait_for("a", "shape"))
    await asyncio.sleep(0)
    assert not waiting.done()
    makers.gate.set()
    await waiting
    assert not makers.files.has("a", "shape")
    await makers.files.wait()
    makers.files.close()


@in_a_loop
async def test_a_file_that_could_not_be_made_is_not_stored_and_nobody_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    makers = Makers()

    def broken() -> bytes:
        raise ValueError("no such thing")

    with caplog.at_level(logging.WARNING):
        makers.files.start("a", "shape", broken, makers.stored.append)
        await makers.files.wait_for("a", "shape")
    assert (len(makers.files), makers.stored) == (0, [])
    assert "File not stored: no such thing" in caplog.text
    makers.files.close()


@in_a_loop
async def test_closing_does_not_wait_for_a_file_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    makers = Makers()
    makers.start("a", "shape")
    await until(lambda: makers.running == 1)
    makers.files.close()
    assert makers.files.has("a", "shape")
    with pytest.raises(RuntimeError, match="shutdown"):
        makers.files._executor.submit(print)
    makers.gate.set()
    await makers.files.wait()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("deferred"):
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
