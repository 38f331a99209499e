from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.engines import PATIENCE_S
from trellis2_server.export import cancellation


class StopError(Exception):
    """Raised by the reports of these tests."""


class Switch:
    """A report that raises once it is turned off; notes what it is called with."""

    def __init__(self) -> None:
        self.is_off = threading.Event()
        self.was_called = threading.Event()
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, step: int, steps: int) -> None:
        self.calls.append((stage, step, steps))
        self.was_called.set()
        if self.is_off.is_set():
            raise StopError


def test_a_report_is_called_with_the_latest_progress_while_a_step_runs() -> None:
    switch = Switch()
    with cancellation.cancellable(switch, "first") as report:
        assert switch.was_called.wait(PATIENCE_S)
        assert switch.calls[0] == ("first", 0, 1)
        assert report is not None
        report("second", 1, 2)
        switch.was_called.clear()
        assert switch.was_called.wait(PATIENCE_S)
    assert switch.calls[-1] == ("second", 1, 2)


def test_the_flag_is_set_and_a_check_raises_when_the_report_raises() -> None:
    switch = Switch()

    def work() -> None:
        flag = cancellation.flag()
        assert flag[0] == cancellation.RUNNING
        switch.is_off.set()
        while flag[0] != cancellation.CANCELLED:
            pass
        cancellation.check()

    with pytest.raises(StopError), cancellation.cancellable(switch, "work"):
        work()
    assert cancellation.flag()[0] == cancellation.RUNNING
    cancellation.check()


def test_a_block_that_ends_after_its_report_has_raised_raises() -> None:
    switch = Switch()
    switch.is_off.set()

    def work() -> None:
        while cancellation.flag()[0] != cancellation.CANCELLED:
            pass

    with pytest.raises(StopError), cancellation.cancellable(switch, "work"):
        work()


def test_no_report_is_called_after_the_block() -> None:
    switch = Switch()
    with cancellation.cancellable(switch, "work"):
        pass
    count = len(switch.calls)
    switch.was_called.clear()
    assert not switch.was_called.wait(3 * cancellation.INTERVAL_S)
    assert len(switch.calls) == count


def test_two_exports_are_cancelled_separately() -> None:
    first, second = Switch(), Switch()
    is_ready = threading.Barrier(2)

    def work(switch: Switch) -> str:
        try:
            with cancellation.cancellable(switch, "work"):
                is_ready.wait(PATIENCE_S)
                if switch is first:
                    switch.is_off.set()
                    while True:
                        cancellation.check()
                switch.was_called.clear()
                switch.was_called.wait(PATIENCE_S)
                return "ended"
        except StopError:
            return "stopped"

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (first, second))) == ["stopped", "ended"]


def test_an_inner_block_belongs_to_the_outer_one() -> None:
    outer, inner = Switch(), Switch()
    with cancellation.cancellable(outer, "outer"):
        flag = cancellation.flag()
        with cancellation.cancellable(inner, "inner"):
            assert cancellation.flag() is flag
        assert flag[0] == cancellation.RUNNING


def test_a_stream_checks_whenever_it_is_read_or_written() -> None:
    switch = Switch()
    switch.is_off.set()
    stream = cancellation.CheckedStream(b"content")

    def wait_until_cancelled() -> None:
        while cancellation.flag()[0] != cancellation.CANCELLED:
            pass

    def use_stream() -> None:
        with cancellation.cancellable(switch, "work"):
            wait_until_cancelled()
            with pytest.raises(StopError):
                stream.read(1)
            stream.write(b"more")

    with pytest.raises(StopError):
        use_stream()
    assert stream.read() == b"content"
