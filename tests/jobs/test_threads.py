"""Which thread runs a step."""

from __future__ import annotations

import asyncio
import threading

from trellis2_server.jobs.threads import ThreadPools


async def names(threads: ThreadPools) -> list[str]:
    def name() -> str:
        return threading.current_thread().name

    return [await threads.start_step(step, name) for step in ("texture_export", "shape_export")]


def test_a_step_runs_where_it_is_told_to() -> None:
    threads = ThreadPools(1, frozenset({"texture_export"}), 2)
    try:
        device, cpu = asyncio.run(names(threads))
    finally:
        threads.close()
    assert device.startswith("device")
    assert cpu.startswith("cpu")
