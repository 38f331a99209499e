"""Retries, against a server that is temporarily unavailable."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.faults import reply
from tests.support.operations import json_reply, perform
from tests.support.server import SMALL, Server, picture
from trellis2_server.client import BusyError, Progress, ProtocolError, UnreachableError
from trellis2_server.client.protocol import jobs, retry
from trellis2_server.client.protocol.actions import Call, Notice
from trellis2_server.client.protocol.retry import MAX_DELAY_S, Backoff
from trellis2_server.client.records import JobState

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


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.75), (0.5, 1.0), (0.999, 1.2495)])
def test_delays_double_up_to_their_limit(
    monkeypatch: pytest.MonkeyPatch, chance: float, factor: float
) -> None:
    monkeypatch.setattr(retry.random, "random", lambda: chance)
    backoff = Backoff(1e9)
    delays = [backoff.next_delay_s(UnreachableError("lost")) for _ in range(40)]
    wanted = [min(FIRST_DELAY_S * 2**at, MAX_DELAY_S) * factor for at in range(40)]
    assert delays == pytest.approx(wanted)
    busy = BusyError("full", status=503, retry_after_s=0.0)
    assert backoff.next_delay_s(busy) == pytest.approx(FIRST_DELAY_S * (1 + chance / 10))
    late = BusyError("full", status=503, retry_after_s=3.0)
    assert backoff.next_delay_s(late) == pytest.approx(3.0 * (1 + chance / 10))
    nameless = BusyError("full", status=503)
    assert backoff.next_delay_s(nameless) == pytest.approx(MAX_DELAY_S * factor)


def test_the_time_limit_begins_with_the_first_failure_and_again_after_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.random, "random", lambda: 0.5)  # delays of 0.01, 0.02, …
    now = 100.0
    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: now))
    error, backoff = UnreachableError("lost"), Backoff(10.0)
    backoff.next_delay_s(error)
    now = 109.98
    assert backoff.next_delay_s(error) == pytest.approx(0.02)  # at the limit
    now = 109.97
    with pytest.raises(UnreachableError) as caught:
        backoff.next_delay_s(error)
    assert caught.value is error
    backoff.restart_limit()
    assert backoff.next_delay_s(error) == pytest.approx(0.08)
    now = 150.0
    backoff.reset()
    assert backoff.next_delay_s(error) == pytest.approx(0.01)
    now = 160.0
    with pytest.raises(UnreachableError):
        backoff.next_delay_s(error)


def test_a_call_is_repeated_until_it_succeeds_and_resets_the_delays() -> None:
    backoff, action = Backoff(1e9), Call("GET", "jobs")
    lost, busy, ok = UnreachableError("lost"), json_reply(503, '{"text": "full"}'), json_reply()
    done = perform(retry.call(action, backoff), lost, busy, lost, ok)
    assert (done.result, done.asked) == (ok, [action] * 4)
    assert done.updates == [
        Notice("lost; retrying"), Notice("full; retrying"), Notice("lost; retrying"),
    ]  # fmt: skip
    assert len(done.pauses) == 3
    assert backoff.next_delay_s(lost) <= 1.25 * FIRST_DELAY_S
    assert isinstance(perform(retry.call(action, Backoff(0)), busy).error, BusyError)


# ---- operations on jobs --------------------------------------------------------------------------

STATE = '{"uid": "a", "status": "completed"}'


def test_jobs_are_asked_for_by_their_names() -> None:
    backoff = Backoff(0)
    one = perform(jobs.job("a", backoff), json_reply(200, STATE))
    assert (one.result, one.asked) == (JobState("a", "completed"), [Call("GET", "jobs/a")])
    many = perform(jobs.jobs(7, None, backoff), json_reply(200, f'{{"jobs": [{STATE}]}}'))
    assert (many.result, many.paths) == ([JobState("a", "completed")], ["jobs?limit=7"])
    after = perform(jobs.jobs(7, "b", backoff), json_reply(200, '{"jobs": []}'))
    assert (after.result, after.paths) == ([], ["jobs?limit=7&before=b"])
    gone = perform(jobs.cancel("a", backoff), json_reply(204))
    assert (gone.error, gone.asked) == (None, [Call("DELETE", "jobs/a")])
    for operation in (jobs.job("a/b", backoff), jobs.cancel("..", backoff)):
        assert isinstance(perform(operation).error, ProtocolError)


@pytest.mark.parametrize("text", ["{}", '{"jobs": {}}', '{"jobs": [4]}'])
def test_a_list_of_something_else_is_no_reply(text: str) -> None:
    done = perform(jobs.jobs(7, None, Backoff(0)), json_reply(200, text))
    assert isinstance(done.error, ProtocolError)
    assert done.error.status == 200
