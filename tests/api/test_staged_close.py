"""Closing a connection in stages, with a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.wire import Wire
from trellis2_server.api.staged_close import (
    LINGER_BYTES,
    LINGER_S,
    QUIET_S,
    SLOW_S,
    StagedTransport,
)
from trellis2_server.api.transfer_allowance import MIN_BYTES_PER_S


class Loop:
    """Timers that a test lets go off."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Any]] = []
        self.cancelled = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Any) -> Any:
        self.timers.append((self.now + delay_s, call))
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def go_on(self) -> None:
        self.now, call = self.timers.pop(0)
        call()


def staged(
    *, is_receiving: bool = True, can_end: bool = True
) -> tuple[StagedTransport, Wire, Loop]:
    wire, loop = Wire("", can_end=can_end), Loop()
    timers: Any = loop
    return StagedTransport(wire, lambda: is_receiving, timers), wire, loop


def test_a_client_that_sends_nothing_is_closed_at_once() -> None:
    for arguments in ({"is_receiving": False}, {"can_end": False}):
        transport, wire, loop = staged(**arguments)
        transport.close()
        assert (wire.is_closed, wire.has_ended, loop.timers) == (True, False, [])
        assert transport.is_closing()
        assert not transport.is_lingering


def test_a_client_that_still_sends_gets_time_to_read_the_response() -> None:
    transport, wire, loop = staged()
    wire.pause_reading()
    assert not transport.is_closing()
    transport.close()
    assert (wire.is_closed, wire.has_ended, wire.is_paused) == (False, True, False)
    assert transport.is_closing()
    assert transport.is_lingering
    wire.has_ended = False
    transport.close()
    assert not wire.has_ended
    enough = round(MIN_BYTES_PER_S * QUIET_S)
    for _ in range(round(LINGER_S / QUIET_S) - 1):
        transport.discard(enough)
        loop.go_on()
        assert not wire.is_aborted
    transport.discard(enough)
    loop.go_on()  # at the end of the time
    assert (wire.is_aborted, loop.now) == (True, LINGER_S)


def test_a_client_may_be_slow_for_a_while_only() -> None:
    transport, wire, loop = staged()
    transport.close()
    while not wire.is_aborted:
        transport.discard(1)
        loop.go_on()
    assert SLOW_S < loop.now <= SLOW_S + QUIET_S


@pytest.mark.parametrize(("more", "is_cut"), [(0, False), (1, True)])
def test_a_client_may_send_a_body_of_some_size(more: int, *, is_cut: bool) -> None:
    transport, wire, loop = staged()
    transport.close()
    for size in (LINGER_BYTES - 1, 1 + more):
        transport.discard(size)
    loop.go_on()
    assert wire.is_aborted is is_cut


def test_a_client_that_is_quiet_is_closed_and_one_that_still_reads_is_not() -> None:
    transport, wire, loop = staged()
    transport.close()
    wire.unsent = 1
    for _ in range(9):
        loop.go_on()
        assert not wire.is_aborted
    wire.unsent = 0
    loop.go_on()
    assert wire.is_aborted
    assert loop.now == 10 * QUIET_S
    transport.closed()
    assert loop.cancelled == 1
    other, _, none = staged()
    other.closed()
    assert none.cancelled == 0


def test_the_times_are_what_they_are_said_to_be() -> None:
    assert (LINGER_S, SLOW_S, QUIET_S) == (120.0, 5.0, 2.0)
    assert LINGER_BYTES == 2**30
