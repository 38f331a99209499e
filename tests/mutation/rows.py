"""What a process of tests reports, as rows through a pipe.

Does not know: mutants.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from typing import TYPE_CHECKING, NamedTuple

from tests.mutation.reach import LineCounter

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    import pytest


class Row(NamedTuple):
    """What is reported of a test: see `Measured`."""

    name: str
    seconds: float
    has_failed: bool
    lines: dict[str, int]


class Reporter:
    """A pytest plugin that writes a row for each test.

    Args:
        pipe: a descriptor.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = self._seconds.get(report.nodeid, 0.0) + report.duration
        self._seconds[report.nodeid] = seconds
        if report.failed:
            self._failed.add(report.nodeid)
        if report.failed or report.when == "teardown":
            has_failed = report.nodeid in self._failed
            self.write(Row(report.nodeid, round(seconds, 3), has_failed, {}))

    def write(self, row: Row) -> None:
        with os.fdopen(os.dup(self._pipe), "wb") as pipe:  # more than a pipe takes at once
            pipe.write(json.dumps(row).encode() + b"\n")


class _TooLongError(BaseException):
    """A test takes longer than it may; no `Exception`, which Hypothesis would repeat."""


class MeasuringReporter(Reporter):
    """Reports also which lines a test runs, and ends those that take long.

    Args:
        pipe: a descriptor.
        tree: the copy of the repository.
        longest_s: that a test may take, seconds.
    """

    def __init__(self, pipe: int, tree: Path, longest_s: float) -> None:
        super().__init__(pipe)
        self._counter = LineCounter(tree, "trellis2_server")
        self._longest_s = longest_s
        signal.signal(signal.SIGALRM, self._end)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._counter.begin(nodeid)
        signal.setitimer(signal.ITIMER_REAL, self._longest_s)

    def write(self, row: Row) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        super().write(row._replace(lines=self._counter.end(row.name)))

    @staticmethod
    def _end(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise _TooLongError


class Rows:
    """What a child reports; closing ends it and what its tests have started.

    Args:
        child: process id, of a group of its own.
        pipe: a descriptor.
    """

    def __init__(self, child: int, pipe: int) -> None:
        self._child = child
        self._pipe = pipe
        self._text = b""
        self.is_late = False

    def next(self, limit_s: float) -> Row | None:
        """Return the next row; None: the child has ended, or it did not come in time."""
        while b"\n" not in self._text:
            if not select.select([self._pipe], [], [], max(0.0, limit_s))[0]:
                self.is_late = True
                return None
            some = os.read(self._pipe, 1 << 16)
            if not some:
                return None
            self._text += some
        line, _, self._text = self._text.partition(b"\n")
        return Row(*json.loads(line))

    def close(self) -> None:
        os.close(self._pipe)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # before it has its group
            os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)
