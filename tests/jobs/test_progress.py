"""Which steps run where."""

from __future__ import annotations

import asyncio
import threading

from trellis2_server.jobs.progress import device_steps, fraction
from trellis2_server.jobs.threads import ThreadPools
from trellis2_server.settings import ExportSettings, ModelSettings, Settings


def test_what_trellis2_does_itself_runs_on_the_lane() -> None:
    assert device_steps(Settings()) == {"shape", "texture"}
    settings = Settings(
        model=ModelSettings(background="upstream"), export=ExportSettings(backend="upstream")
    )
    assert device_steps(settings) == {"shape", "texture", "cutout", "texture_export"}


def test_a_step_that_is_tried_again_is_no_further_than_at_its_begin() -> None:
    assert fraction("shape", "retry", 1, 1) == fraction("shape", "condition", 0, 1)
    assert fraction("texture", "retry", 2, 3) == fraction("texture", "texture", 0, 12)


async def names(threads: ThreadPools) -> list[str]:
    def name() -> str:
        return threading.current_thread().name

    return [await threads.begin(step, name) for step in ("texture_export", "shape_export")]


def test_a_step_runs_where_it_is_told_to() -> None:
    threads = ThreadPools(1, frozenset({"texture_export"}))
    try:
        device_s, pool = asyncio.run(names(threads))
    finally:
        threads.close()
    assert device_s.startswith("lane")
    assert pool.startswith("pool")
