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
from tests.gpu.parts.compiled import compiled
from tests.gpu.parts.exports import export
from tests.gpu.parts.whole import TINY_TOKENS
from tests.gpu.sample_job import job, picture, silent
from trellis2_server.export import parallel
from trellis2_server.jobs.steps import device_steps
from trellis2_server.jobs.threads import ThreadPools
from trellis2_server.settings import Settings
from trellis2_server.thread_priority import EXPORT_NICENESS, device_niceness

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session

_EXPORTS: Final = 2
_ROUNDS: Final = 3
#: Pipeline type, `model.compile`, and seconds on the modelled H100: the defaults first.
_MEASURED: Final = (
    ("1024_cascade", "both", 90.0),
    ("512", "both", 20.0),
    ("512", "none", 20.0),
    ("512", "blocks", 20.0),
    ("1024_cascade", "blocks", 90.0),
)
_ALSO_BESIDE_PROCESSES: Final = ("512", "both")


def run(session: Session) -> None:
    """Measure with each way of compilation, then beside processes that share no lock with it."""
    made = session.full()
    made.set_tokens("512", 60 if session.is_tiny else 4_096)
    made.set_tokens("1024_cascade", TINY_TOKENS["1024_cascade"] if session.is_tiny else 6_250)
    session.compile_exporter()
    table = "shape stage of a job, the shortest of its runs"
    for kind, mode, modelled_s in _MEASURED:
        with compiled(session, made, mode) as (model, _):
            warm_up(model, kind, session.size)
            bench = _Bench(session, model, kind)
            labels = {"what": f"beside {_EXPORTS} exports", "type": kind, "compile": mode}
            session.attempt(table, labels, modelled_s, bench.beside_exports)
            if (kind, mode) == _ALSO_BESIDE_PROCESSES:
                threads = parallel.thread_count(os.cpu_count() or 1)
                labels = {"what": f"beside {threads} busy processes, no exports"}
                session.attempt(
                    "why: the same stage, medians",
                    labels | {"type": kind, "compile": mode},
                    10.0,
                    lambda bench=bench, threads=threads: bench.beside_processes(threads),
                )


class _Bench:
    """A stage that is timed with other work beside it."""

    def __init__(self, session: Session, made: FullModel, kind: str) -> None:
        self._session, self._made = session, made
        self._requested = job(kind, 2 if session.is_tiny else 12, session.size)
        self._shape, self._field = made.run(self._requested)

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
        # Without waiting for the device, which would break a capture of CUDA graphs.
        began = time.perf_counter()
        export(self._made, self._shape, self._field, self._session.size)
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
