"""Retries, against a server that is temporarily unavailable."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.faults import reply
from tests.support.server import SMALL, Server, picture
from trellis2_server.client import BusyError, Progress, UnreachableError
from trellis2_server.client.protocol.retry import MAX_DELAY_S, Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]

FIRST_DELAY_S = 0.01  # set for all tests of the client


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_request_is_retried_while_the_server_is_busy(
    ask: Ask, server: Server, status: int
) -> None:
    busy = reply(status, b'{"text":"the queue is full","error_code":3}', retry_after="0")
    server.faults.next("/send", busy, busy)
    server.faults.next("/events", busy)
    server.faults.next("/jobs", busy)
    found: list[Progress] = []
    ask(server, "generate", picture(), shape=False, on_progress=found.append, **SMALL)
    assert len(server.faults.paths("/send")) == 3
    assert sum("the queue is full; retrying" in each.text for each in found) == 4


def test_retries_end_after_the_time_limit(ask: Ask, server: Server) -> None:
    server.faults.next("/send", reply(503, b'{"text":"full"}', retry_after="9"))
    with pytest.raises(BusyError, match=r"^full$") as caught:
        ask(server, "generate", picture(), client={"patience_s": 5})
    assert (caught.value.status, caught.value.retry_after_s) == (503, 9)
    assert len(server.faults.paths("/send")) == 1


def test_delays_increase_until_something_succeeds() -> None:
    backoff = Backoff(1e9)
    delays = [backoff.next_delay_s(UnreachableError("lost")) for _ in range(4)]
    assert all(later > earlier for earlier, later in pairwise(delays[::2]))
    assert 0.75 * FIRST_DELAY_S <= delays[0] <= 1.25 * FIRST_DELAY_S
    backoff.restart_limit()
    assert backoff.next_delay_s(UnreachableError("lost")) > 10 * FIRST_DELAY_S
    backoff.reset()
    assert backoff.next_delay_s(UnreachableError("lost")) <= 1.25 * FIRST_DELAY_S


def test_a_delay_is_at_least_what_the_server_asks_for_and_has_an_upper_bound() -> None:
    backoff = Backoff(1e9)
    busy = BusyError("full", status=503, retry_after_s=100)
    assert 100 <= backoff.next_delay_s(busy) <= 110
    for _ in range(100):
        assert backoff.next_delay_s(UnreachableError("lost")) <= 1.25 * MAX_DELAY_S


def test_without_time_for_a_retry_the_error_is_raised() -> None:
    error = UnreachableError("lost")
    with pytest.raises(UnreachableError) as caught:
        Backoff(0).next_delay_s(error)
    assert caught.value is error
