"""Runs the parts in another process, within the budget, and survives what happens there.

A part can hang in a call of the driver, which no signal ends, or break the device for its
process. So the parts run in a worker: a part that exceeds its limit is first interrupted in the
worker, and if that does not help, the worker is killed; the parts that follow get a new one.
The rows are here, and on the disk.

Does not know: what a part measures.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.gpu import needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.gpu.budget import Budget
    from tests.gpu.part import Part
    from tests.gpu.report import Report, State

#: Between the interruption of a part and the end of its process, seconds.
GRACE_S: Final = 8.0
#: Between the end of a worker's input and its end.
_LEAVING_S: Final = 5.0
_WORKER: Final = Path(__file__).with_name("worker.py")

Message = dict[str, Any]


class StoppedError(BaseException):
    """Raised by a signal that ends this run."""


class Worker:
    """A process that runs parts, one after the other.

    Args:
        options: of the run, as JSON values.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(_WORKER), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.messages: queue.Queue[Message | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="worker", daemon=True)
        self._reader.start()

    def send(self, command: Message) -> None:
        """Start a part."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead: its messages end
            print(json.dumps(command), file=self._process.stdin, flush=True)

    def stop(self) -> int:
        """Let the process end, or end it; return its exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_LEAVING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        status = self._process.wait()
        self._reader.join(_LEAVING_S)
        return status

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line that was cut off by its end
                    self.messages.put(json.loads(line))
        self.messages.put(None)


class Supervisor:
    """Runs parts and fills a report.

    Args:
        options: of the run, as JSON values: `device`, `size`, `settings`.
        report: gets the rows.
        budget: seconds.
        grace_s: between the interruption of a part and the end of its process, seconds.
    """

    def __init__(
        self, options: dict[str, Any], report: Report, budget: Budget, grace_s: float = GRACE_S
    ) -> None:
        self._options = options
        self._report = report
        self._budget = budget
        self._grace_s = grace_s
        self._worker: Worker | None = None
        self._began = time.monotonic()

    def run(self, parts: Sequence[Part]) -> None:
        """Run the parts that fit, in this order.

        Raises:
            StoppedError: a signal came; the report says so.
        """
        waiting = list(parts)
        running: Part | None = None
        try:
            while waiting:
                running = waiting.pop(0)
                self._run_if_it_fits(running)
        except StoppedError as error:
            if running is not None and self._state_of(running) in ("running", None):
                seconds = time.monotonic() - self._began
                self._report.end(running, "cut off", seconds, str(error))
            for part in waiting:
                self._report.end(part, "not started", why=str(error))
            if self._worker is not None:
                self._worker.kill()
            raise
        if self._worker is not None:
            self._worker.stop()

    def _state_of(self, part: Part) -> str | None:
        return self._report.data["parts"].get(part.name, {}).get("state")

    def _run_if_it_fits(self, part: Part) -> None:
        lacks = needs.missing(part.packages)
        if lacks:
            self._report.end(part, "missing", why=f"this Python lacks {', '.join(lacks)}")
            return
        estimate_s = self._budget.seconds(part.estimate)
        if not self._budget.fits(part.estimate):
            left = max(self._budget.left_s, 0.0)
            why = f"estimated {estimate_s:.0f} s, {left:.0f} s are left"
            self._report.end(part, "no time", why=why)
            return
        self._report.begin(part, estimate_s)
        self._began = time.monotonic()
        state, why = self._run(part)
        seconds = time.monotonic() - self._began
        self._report.end(part, state, seconds, why)
        if state == "done":
            self._budget.note_part(part.estimate, seconds)

    def _run(self, part: Part) -> tuple[State, str]:
        """Run a part in the worker; return its state and why."""
        if self._worker is None or part.is_alone:
            self._end_worker()
            self._worker = Worker(self._options)
        worker, limit_s = self._worker, self._budget.limit_s(part.estimate)
        deadline = time.monotonic() + limit_s + self._grace_s
        worker.send(
            {
                "part": part.name,
                "module": part.module,
                "limit_s": limit_s,
                "slowness": self._budget.slowness,
            }
        )
        while True:
            try:
                message = worker.messages.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                worker.kill()
                self._worker = None
                return "cut off", f"did not end within {limit_s:.0f} s and was killed"
            if message is None:
                self._worker = None
                return "failed", f"its process ended with status {worker.stop()}"
            ended = self._take(part, message)
            if ended is not None:
                if part.is_alone or message.get("is_unusable"):
                    self._end_worker()
                return ended

    def _take(self, part: Part, message: Message) -> tuple[State, str] | None:
        """Take a message; return state and reason if the part has ended."""
        if message["event"] == "row":
            self._report.add_row(part, message["row"])
        elif message["event"] == "about":
            self._report.add_about(message["about"])
        elif message["event"] == "speed":
            self._budget.note_speed(message["slowness"])
        else:
            return message["state"], message.get("why", "")
        return None

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
