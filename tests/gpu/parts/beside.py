"""Sampling alone and beside two exports, on the server's own threads with their priorities.

Does not know: the queue, HTTP.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from tests.gpu.full_model import warm_up
from tests.gpu.parts.whole_512 import export
from tests.gpu.sample_job import job, picture, silent
from trellis2_server.export import parallel
from trellis2_server.jobs.steps import device_steps
from trellis2_server.jobs.threads import ThreadPools
from trellis2_server.settings import Settings
from trellis2_server.thread_priority import EXPORT_NICENESS, device_niceness

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session
    from trellis2_server.mesh import Shape, VoxelField

_EXPORTS: Final = 2
_ROUNDS: Final = 3


def run(session: Session) -> None:
    """Measure sampling alone, beside exports, and beside processes that share no lock with it."""
    made = session.full()
    made.set_tokens("512", 60 if session.is_tiny else 4_096)
    warm_up(made, "512", session.size)
    session.compile_exporter()
    steps = 2 if session.is_tiny else 12
    bench = _Bench(session, made, steps, *made.run(job("512", steps, session.size)))
    table = "shape stage of a 512 job, the shortest of its runs"
    session.attempt(table, {"what": f"beside {_EXPORTS} exports"}, 20.0, bench.beside_exports)
    why = "why: the same stage, medians"
    threads = parallel.thread_count(os.cpu_count() or 1)
    labels = {"what": f"beside {threads} busy processes, no exports"}
    session.attempt(why, labels, 10.0, lambda: bench.beside_processes(threads))


class _Bench:
    """A stage that is timed with other work beside it."""

    def __init__(
        self, session: Session, made: FullModel, steps: int, shape: Shape, field: VoxelField
    ) -> None:
        self._session, self._made = session, made
        self._shape, self._field = shape, field
        self._requested = job("512", steps, session.size)

    def beside_exports(self) -> dict[str, Any]:
        """Sample alone and beside exports, on the server's own threads."""
        return asyncio.run(self._beside_exports())

    def beside_processes(self, count: int) -> dict[str, Any]:
        """Sample alone and beside processes that compute, with the exports' priority."""
        self._sample()
        alone = [self._sample() for _ in range(_ROUNDS)]
        code = f"import os\nos.nice({EXPORT_NICENESS})\nwhile True: pass"
        busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
        try:
            beside = [self._sample() for _ in range(_ROUNDS)]
        finally:
            for process in busy:
                process.kill()
                process.wait()
        return {"alone_s": _median(alone), "ratio": _median(beside) / _median(alone)}

    def _sample(self) -> float:
        meter = self._session.meter
        began = meter.now()
        self._made.engine.shape(picture(), self._requested, silent)
        return meter.now() - began

    def _export(self) -> float:
        began = time.perf_counter()
        export(self._session, self._made, self._shape, self._field)
        return time.perf_counter() - began

    async def _beside_exports(self) -> dict[str, Any]:
        pools = ThreadPools(
            _EXPORTS,
            device_steps(Settings()),
            max_steps=_EXPORTS + 1,
            device_niceness=device_niceness(self._made.engine.describe()),
        )
        ended: list[float] = []

        async def keep_exporting(is_over: asyncio.Event) -> None:
            while not is_over.is_set():
                ended.append(await pools.start_step("texture_export", self._export))

        try:
            await pools.start_step("shape", self._sample)
            alone = [await pools.start_step("shape", self._sample) for _ in range(_ROUNDS)]
            export_alone_s = await pools.start_step("texture_export", self._export)
            is_over = asyncio.Event()
            exporting = [asyncio.create_task(keep_exporting(is_over)) for _ in range(_EXPORTS)]
            beside = [await pools.start_step("shape", self._sample) for _ in range(_ROUNDS)]
            while len(ended) < _EXPORTS:  # an export can take longer than all samplings
                beside.append(await pools.start_step("shape", self._sample))
            is_over.set()
            await asyncio.gather(*exporting)
        finally:
            pools.close()
        return {
            "alone_s": min(alone),
            "beside_s": min(beside),
            "slower_percent": 100 * (min(beside) / min(alone) - 1),
            "median_slower_percent": 100 * (_median(beside) / _median(alone) - 1),
            "samplings": len(beside),
            "export_alone_s": export_alone_s,
            "export_beside_s": _median(ended),
            "exports": len(ended),
        }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
