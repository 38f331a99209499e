"""Record what runs on which thread, and write it in Chrome's trace format.

Open the file at https://ui.perfetto.dev or chrome://tracing. A row is a thread: the device
thread, the CPU pool; and `transfers`, the weights that are copied with `low_vram`: from the call
that starts a copy to its return. On CUDA the copy itself may end later.

Format: "Trace Event Format", Google, https://chromium.googlesource.com/catapult.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.weight_copies import WeightCopies
from trellis2_server.jobs.executor import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

#: Steps on the device thread.
DEVICE_STEPS: Final = ("make_shape", "make_texture")
#: Steps on the CPU pool.
CPU_STEPS: Final = ("cut_out", "export_shape", "read_mesh", "export_model")


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time.

    Attributes:
        name: of the step, stage or transfer.
        row: name of the thread, or "transfers".
        begin: seconds of `time.perf_counter`.
        end: the same.
    """

    name: str
    row: str
    begin: float
    end: float


class Trace:
    """Spans of all threads.

    Attributes:
        spans: in the order of their ends.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def span(self, name: str, row: str | None = None) -> Generator[None]:
        """Record the block; without `row`, in the row of its thread."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, begin, row)

    def add(self, name: str, begin: float, row: str | None = None) -> None:
        """Record something that began then and ends now."""
        row = row or threading.current_thread().name
        self.spans.append(Span(name, row, begin, time.perf_counter()))

    def of(self, *names: str) -> list[Span]:
        """Return the spans with these names, by their begin."""
        return sorted((s for s in self.spans if s.name in names), key=lambda span: span.begin)

    def write(self, path: Path) -> None:
        """Write a file in Chrome's trace format."""
        rows = sorted({span.row for span in self.spans})
        start = min((span.begin for span in self.spans), default=0.0)
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": row}}
            for tid, row in enumerate(rows)
        ]
        events += [
            {
                "ph": "X",
                "name": span.name,
                "pid": 1,
                "tid": rows.index(span.row),
                "ts": round((span.begin - start) * 1e6, 1),
                "dur": round((span.end - span.begin) * 1e6, 1),
            }
            for span in self.spans
        ]
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


class TracedExecutor(LocalExecutor):
    """Records each step, and the stages that it reports.

    Attributes:
        trace: where they are recorded.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.trace = Trace()
        for name in (*DEVICE_STEPS, *CPU_STEPS):
            setattr(self, name, self._traced(name, getattr(self, name)))

    def _traced(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*arguments: Any, **named: Any) -> Any:
            *others, report = arguments
            stages = _Stages(self.trace, report) if callable(report) else None
            with self.trace.span(name):
                try:
                    return call(*others, stages or report, **named)
                finally:
                    if stages:
                        stages.end()

        return traced


@contextmanager
def transfers_recorded(executor: TracedExecutor) -> Generator[None]:
    """Within the block, record the copies of weights in the executor's present trace."""
    methods = {"upload": WeightCopies.upload, "store": WeightCopies.store}

    def recorded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def copy(copies: WeightCopies, *arguments: Any, **named: Any) -> Any:
            with executor.trace.span(name, "transfers"):
                return method(copies, *arguments, **named)

        return copy

    for name, method in methods.items():
        setattr(WeightCopies, name, recorded(name, method))
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(WeightCopies, name, method)


class _Stages:
    """A report that records each stage of a step."""

    def __init__(self, trace: Trace, report: Callable[..., Any]) -> None:
        self._trace = trace
        self._report = report
        self._stage, self._begin = "", 0.0

    def __call__(self, stage: str, step: int, steps: int) -> None:
        if stage != self._stage:
            self.end()
            self._stage, self._begin = stage, time.perf_counter()
        self._report(stage, step, steps)

    def end(self) -> None:
        if self._stage:
            self._trace.add(self._stage, self._begin)
        self._stage = ""


def idle_percent(device: list[Span]) -> float:
    """Return the share of time between the first begin and the last end without a span, %."""
    busy = sum(span.end - span.begin for span in device)
    return 100 * (1 - busy / (device[-1].end - device[0].begin))


def gap_s(before: Span, after: Span) -> float:
    """Return the time between two spans, seconds."""
    return after.begin - before.end
