"""Sampling alone and beside two exports, on the server's own threads with their priorities.

Does not know: the queue, HTTP.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from tests.gpu.full_model import warm_up
from tests.gpu.parts.whole_512 import export
from tests.gpu.sample_job import job, picture, silent
from trellis2_server.jobs.steps import device_steps
from trellis2_server.jobs.threads import ThreadPools
from trellis2_server.settings import Settings
from trellis2_server.thread_priority import device_niceness

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session
    from trellis2_server.mesh import Shape, VoxelField

_EXPORTS: Final = 2
_ROUNDS: Final = 3


def run(session: Session) -> None:
    """Measure sampling alone, exports alone, and both at once."""
    made = session.full()
    made.set_tokens("512", 60 if session.is_tiny else 4_096)
    warm_up(made, "512", session.size)
    session.compile_exporter()
    steps = 2 if session.is_tiny else 12
    shape, field = made.run(job("512", steps, session.size))
    session.attempt(
        "shape stage of a 512 job, the shortest of its runs",
        {"what": f"beside {_EXPORTS} exports"},
        20.0,
        lambda: asyncio.run(_measure(session, made, steps, shape, field)),
    )


async def _measure(
    session: Session, made: FullModel, steps: int, shape: Shape, field: VoxelField
) -> dict[str, Any]:
    pools = ThreadPools(
        _EXPORTS,
        device_steps(Settings()),
        max_steps=_EXPORTS + 1,
        device_niceness=device_niceness(made.engine.describe()),
    )
    requested = job("512", steps, session.size)
    ended: list[float] = []

    def sample() -> float:
        began = session.meter.now()
        made.engine.shape(picture(), requested, silent)
        return session.meter.now() - began

    def export_once() -> float:
        began = time.perf_counter()
        export(session, made, shape, field)
        return time.perf_counter() - began

    async def keep_exporting(is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            ended.append(await pools.start_step("texture_export", export_once))

    try:
        await pools.start_step("shape", sample)
        alone = [await pools.start_step("shape", sample) for _ in range(_ROUNDS)]
        export_alone_s = await pools.start_step("texture_export", export_once)
        is_over = asyncio.Event()
        exporting = [asyncio.create_task(keep_exporting(is_over)) for _ in range(_EXPORTS)]
        beside = [await pools.start_step("shape", sample) for _ in range(_ROUNDS)]
        while len(ended) < _EXPORTS:  # an export can take longer than all samplings
            beside.append(await pools.start_step("shape", sample))
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
