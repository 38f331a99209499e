"""SIGKILL for decoders at random, under load. The row `killed-decoders` of the benchmark: 200."""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import suppress

import pytest

from tests.support.engines import GatedEngine
from tests.support.meshes import as_bytes, egg
from tests.support.server import ON_RAY, Server, encoded, fields, serving, until

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL"),
    pytest.mark.skipif(ON_RAY, reason="needs the single process"),
]

KILLS = 30


@pytest.mark.costly
def test_a_killed_decoder_costs_no_job_but_the_one_that_it_decoded_twice() -> None:
    chance, is_over = random.Random(0), threading.Event()  # noqa: S311 - no secret
    mesh = encoded(as_bytes(egg(), "glb"))
    replies: list[tuple[int, str]] = []

    def ask(server: Server, number: int) -> None:
        seed = number
        while not is_over.is_set():
            seed += 10
            more = {"mesh": mesh, "texture": True} if number == 2 else {}
            reply = server.generate(fields(seed % 7, **more, seed=seed))
            replies.append((reply.status_code, "" if reply.is_success else reply.text))

    with serving(GatedEngine()) as server:
        server.wait_until_loaded()
        decoders = server.manager.executor.decoders
        threads = [threading.Thread(target=ask, args=(server, k)) for k in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            until(lambda: bool(decoders.pids), "a decoder")
            with suppress(OSError, IndexError):
                os.kill(chance.choice(decoders.pids), signal.SIGKILL)
            before = len(replies)
            until(lambda before=before: len(replies) > before, "a reply")
        is_over.set()
        for thread in threads:
            thread.join(60)
        lost = [reply for reply in replies if reply[0] != 200]
        allowed = {(400, "tried again"), (503, "could be started")}  # killed twice
        assert all(
            any(status == known and words in text for known, words in allowed)
            for status, text in lost
        ), lost
        assert len(lost) < len(replies) // 2
        assert server.generate(fields(seed=1)).is_success
        until(lambda: server.is_idle, "idle")
