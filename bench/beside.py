"""How much exports slow down the thread that drives the device.

    python bench/beside.py [--rounds N] [--exports N] [--json FILE]

A thread evaluates a model of 30 blocks on small tensors, as the device thread does for each step
of a sampler: about 2,000 short calls of PyTorch, and 90 waits of half a millisecond, in which a
GPU would compute. The evaluation is timed

    alone      nothing else runs
    served     beside exports, with the priorities that the server gives the threads
    equal      beside the same exports, all threads with the same priority

alternating; medians of 20 evaluations in each round, in milliseconds, and the ratios to `alone`.
Here the small calls stand for launches of kernels. What a GPU's driver adds, only a GPU shows:
the part `beside` of tests/gpu/run.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - after the path is set

from bench.record import Record, add_option  # noqa: E402
from tests.support import shapes  # noqa: E402
from trellis2_server import export  # noqa: E402
from trellis2_server.export import parallel  # noqa: E402
from trellis2_server.thread_priority import (  # noqa: E402
    EXPORT_NICENESS,
    WORKER_NICENESS,
    device_niceness,
    lower_priority,
)

BLOCKS: Final = 30
CALLS: Final = 22
WAITS: Final = 3
WAIT_S: Final = 0.0005
#: Evaluations of each round, after the first.
EVALUATIONS: Final = 20


def layers() -> list[Any]:
    """Return about 2,000 calls of PyTorch: a linear layer is three."""
    torch.manual_seed(0)
    return [torch.nn.Linear(8, 8) for _ in range(BLOCKS * CALLS)]


def evaluate(calls: list[Any]) -> None:
    """Call all layers, with three waits in each block."""
    x, after = torch.rand(4, 8), CALLS // WAITS
    with torch.inference_mode():
        for number, call in enumerate(calls):
            x = torch.tanh(call(x)) + x
            if number % after == 0:
                time.sleep(WAIT_S)  # noqa: TID251 - the device computes


class Exports:
    """Exports that run until the end of the block.

    Args:
        count: number of exports at a time.
        niceness: of their threads.
    """

    def __init__(self, count: int, niceness: int) -> None:
        self._count, self._niceness = count, niceness
        self._is_over = threading.Event()
        self._mesh, self._field = shapes.sphere(200), shapes.field(64)

    def __enter__(self) -> None:
        parallel._pool.cache_clear()  # noqa: SLF001 - its threads get the niceness when they start
        parallel.EXPORT_NICENESS = self._niceness  # type: ignore[misc]
        self._pool = ThreadPoolExecutor(self._count, "cpu", lower_priority, (self._niceness,))
        self._running = [self._pool.submit(self._export) for _ in range(self._count)]

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for done in self._running:
            done.result()
        self._pool.shutdown()

    def _export(self) -> None:
        while not self._is_over.is_set():
            mesh = export.prepare(self._mesh, decimation_target=len(self._mesh.faces) // 2)
            export.textured_glb(mesh, self._field, original=self._mesh, texture_size=2048)


def measure(rounds: int, exports: int) -> dict[str, float]:
    """Return the median milliseconds of an evaluation, alone and beside exports."""
    modes = {
        "alone": (0, 0, 0),
        "served": (exports, device_niceness({"device": "cuda"}), EXPORT_NICENESS),
        "equal": (exports, WORKER_NICENESS, WORKER_NICENESS),
    }
    calls = layers()
    found: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(rounds):
        for mode, (count, niceness, export_niceness) in modes.items():
            with (
                Exports(count, export_niceness) if count else nullcontext(),
                ThreadPoolExecutor(1, "device", lower_priority, (niceness,)) as device,
            ):
                for measured in range(EVALUATIONS + 1):
                    begin = time.perf_counter()
                    device.submit(evaluate, calls).result()
                    if measured:  # the first one runs before the exports do
                        found[mode].append(1000 * (time.perf_counter() - begin))
    return {mode: statistics.median(values) for mode, values in found.items()}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each mode (3)")
    parser.add_argument("--exports", type=int, default=2, help="at the same time (2)")
    add_option(parser)
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    torch.set_num_threads(1)
    export.warm_up()
    found = measure(arguments.rounds, arguments.exports)
    found |= {f"{mode}_ratio": found[mode] / found["alone"] for mode in ("served", "equal")}
    record.add("beside", found)
    print("  ".join(f"{name} {value:.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
