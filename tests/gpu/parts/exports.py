"""How a job's export grows faster with the threads that it has, stage by stage.

Does not know: sampling.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from tests.gpu.full_model import warm_up
from tests.gpu.sample_job import job
from trellis2_server import pipeline
from trellis2_server.export import parallel
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session
    from trellis2_server.mesh import Shape, VoxelField

_THREADS: Final = (4, 2, 8, 1, 16)


def run(session: Session) -> None:
    """Export a 512 job with each number of threads."""
    made = session.full()
    made.set_tokens("512", 60 if session.is_tiny else 4_096)
    warm_up(made, "512", session.size)
    session.compile_exporter()
    shape, field = made.run(job("512", 1, session.size))
    usual = parallel.thread_count(os.cpu_count() or 1)
    export(made, shape, field, session.size)
    for threads in dict.fromkeys((usual, *_THREADS)):
        if threads > (os.cpu_count() or 1):
            continue
        setattr(parallel, "_THREADS", threads)  # noqa: B010 - read in each call
        try:
            session.attempt(
                "seconds of an export and its stages, by threads",
                {"threads": threads},
                8.0,
                lambda: export(made, shape, field, session.size),
            )
        finally:
            setattr(parallel, "_THREADS", usual)  # noqa: B010


def export(made: FullModel, shape: Shape, field: VoxelField, size: str) -> dict[str, Any]:
    """Export both files; return seconds of each and of their stages, and CPU seconds."""
    requested = job("512", 1, size)
    first, second = _Stages(), _Stages()
    cpu = time.process_time()
    geometry, _ = pipeline.export_shape(made.engine, shape, requested, first)
    first.end()
    untextured_s, cpu_1 = first.total, time.process_time()
    second.begin()
    pipeline.export_model(made.engine, geometry, field, requested, Settings().export, second)
    second.end()
    return {
        "untextured_s": untextured_s,
        "textured_s": second.total,
        "untextured_cpu_s": cpu_1 - cpu,
        "textured_cpu_s": time.process_time() - cpu_1,
        **{f"untextured_{stage}": seconds for stage, seconds in first.seconds.items()},
        **{f"textured_{stage}": seconds for stage, seconds in second.seconds.items()},
    }


class _Stages:
    """A report that adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stage = "begin"
        self.begin()

    def begin(self) -> None:
        """Begin to count."""
        self._since = self._began = time.perf_counter()

    def __call__(self, stage: str, step: int, steps: int) -> None:
        """Count what passed since the last call as the stage's that it reported."""
        del step, steps
        now = time.perf_counter()
        self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def end(self) -> None:
        """Count what passed since the last report."""
        self("end", 0, 0)

    @property
    def total(self) -> float:
        """Seconds in all."""
        return time.perf_counter() - self._began
