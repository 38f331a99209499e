"""Jobs an hour of one GPU, by number of clients: the real scheduler on a simulated device.

    python bench/jobs_per_hour.py [--against CHECKOUT] [--jobs N] [--types 512,…]
        [--json FILE]

The job manager of this checkout runs on an executor whose steps only wait, as long as the model
says (`MODELS`, divided by `--speed`): device steps on the device thread, exports on the CPU pool.
Each of 1, 2, 4 and 8 clients sends a picture, waits for the textured GLB and sends the next one.
With `--against`, the other checkout's scheduler does the same, alternating with this one, and
`ratio` is ours over theirs. Two further columns are of one client: the time from the request to
the untextured GLB, and the time that the device thread waits between the shape and the texture of
a job.

It is a model of the order of steps; nothing is measured on a GPU. Times of the device are those
that the authors of TRELLIS.2 state for an H100, times of exports are assumptions.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parents[1]
ROOT: Final = Path(os.environ.get("JOBS_PER_HOUR_CHECKOUT") or HERE)
sys.path[:0] = [str(ROOT), str(HERE)]  # the package is the checkout's

import numpy as np  # noqa: E402 - after the path is set
from PIL import Image  # noqa: E402

from bench.record import Record, add_option  # noqa: E402
from trellis2_server.inputs.images import Cutout, Cutter  # noqa: E402
from trellis2_server.jobs.executor import ExportedShape, LocalExecutor  # noqa: E402
from trellis2_server.jobs.manager import JobManager  # noqa: E402
from trellis2_server.parameters import read_options  # noqa: E402
from trellis2_server.settings import Settings  # noqa: E402

CLIENTS: Final = (1, 2, 4, 8)


@dataclass(frozen=True)
class Model:
    """Durations of the steps of a job, seconds.

    Attributes:
        shape: on the device.
        texture: on the device.
        shape_export: on the CPU pool.
        texture_export: on the CPU pool.
        speed: how much faster the simulation runs, so that all types take about as long.
    """

    shape: float
    texture: float
    shape_export: float
    texture_export: float
    speed: float


#: Pipeline type → durations.
MODELS: Final = {
    "512": Model(2, 1, 1.6, 2.4, 10),
    "1024_cascade": Model(10, 7, 4, 5, 50),
    "1536_cascade": Model(35, 25, 6.5, 5, 150),
}


class NoEngine:
    """Has the name of an engine and nothing else: the executor does not call it."""

    name = "simulated"

    def load(self, report: object) -> None:
        """Do nothing."""

    def unload(self) -> None:
        """Do nothing."""

    def describe(self) -> dict[str, object]:
        """Return a device that is not the CPU."""
        return {"device": "cuda"}

    def device_memory(self) -> dict[str, int]:
        """Return nothing."""
        return {}


class SimulatedExecutor(LocalExecutor):
    """Waits as long as the model says.

    Attributes:
        device: begin and end of each step on the device, seconds.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        engine: Any = NoEngine()
        super().__init__(engine, Cutter(), settings)
        self.cpu_workers = 4
        self._model = model
        self.device: list[tuple[float, float]] = []

    def load(self, report: object) -> None:
        """Do nothing."""

    def cut_out(self, picture: bytes, **_: object) -> Cutout:
        """Return a picture that differs with the file."""
        rgba = np.full((16, 16, 4), 255, np.uint8)
        rgba[0, 0, :3] = np.frombuffer(picture[-3:], np.uint8)
        rgba[0, 1, :3] = np.frombuffer(picture[-6:-3], np.uint8)
        return Cutout(rgba, "alpha")

    def make_shape(self, *_: object, **__: object) -> Any:
        """Wait."""
        self._on_device(self._model.shape)
        return SimpleNamespace(resolution=512, warnings=(), details={}, state=None, mesh=None)

    def export_shape(self, *_: object, **__: object) -> ExportedShape:
        """Wait."""
        self._wait(self._model.shape_export)
        return ExportedShape(SimpleNamespace(shape=None, mesh=None), b"glb", "0" * 32)

    def make_texture(self, *_: object, **__: object) -> Any:
        """Wait."""
        self._on_device(self._model.texture)
        return SimpleNamespace(warnings=(), details={})

    def export_model(self, *_: object, **__: object) -> bytes:
        """Wait."""
        self._wait(self._model.texture_export)
        return b"glb"

    def shape_snapshotter(self, shape: object) -> Any:
        """Store an empty file."""
        del shape
        return bytes

    def field_snapshotter(self, field: object) -> Any:
        """Store an empty file."""
        del field
        return bytes

    def _on_device(self, seconds: float) -> None:
        begin = time.perf_counter()
        self._wait(seconds)
        self.device.append((begin, time.perf_counter()))

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds / self._model.speed)  # noqa: TID251 - this is the simulated work


async def run(kind: str, clients: int, jobs: int) -> dict[str, float]:
    """Run a number of jobs; return jobs per hour and seconds, in the model's time."""
    model, settings = MODELS[kind], Settings()
    executor = SimulatedExecutor(model, settings)
    manager = JobManager(executor, settings)
    manager.start()
    while not manager.is_idle:  # noqa: ASYNC110 - nothing else runs
        await asyncio.sleep(0.01)
    numbers = iter(range(jobs))
    untextured: list[float] = []

    async def client() -> None:
        for number in numbers:
            options = read_options({"pipeline_type": kind, "seed": number}, settings)
            begin = time.perf_counter()
            sent = await manager.submissions.submit(_picture(number), options, texture=True)
            await manager.waiter.wait_for_shape(sent)
            untextured.append(time.perf_counter() - begin)
            await manager.waiter.wait_for_texture(sent)

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - begin
    await manager.close()
    steps = executor.device
    gaps = [after[0] - before[1] for before, after in zip(steps[::2], steps[1::2], strict=True)]
    return {
        "jobs_per_hour": 3600 * jobs / (seconds * model.speed),
        "untextured_s": sorted(untextured)[len(untextured) // 2] * model.speed,
        "gap_s": sorted(gaps)[len(gaps) // 2] * model.speed,
        "gap_ms_real": sorted(gaps)[len(gaps) // 2] * 1000,
    }


def _picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(file, "PNG")
    return file.getvalue() + number.to_bytes(6, "big")


def of_checkout(checkout: Path, kind: str, clients: int, jobs: int) -> dict[str, float]:
    """Run in a new process with the package of a checkout."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", f"{kind},{clients},{jobs}"],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "JOBS_PER_HOUR_CHECKOUT": str(checkout)},
    )
    return json.loads(done.stdout)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, for a comparison")
    parser.add_argument("--types", default=",".join(MODELS))
    parser.add_argument("--jobs", type=int, default=24, help="of each measurement (24)")
    add_option(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, clients, jobs = arguments.one.split(",")
        print(json.dumps(asyncio.run(run(kind, int(clients), int(jobs)))))
        return
    record = Record(__file__, arguments)
    for kind in arguments.types.split(","):
        for clients in CLIENTS:
            ours = of_checkout(ROOT, kind, clients, arguments.jobs)
            row: dict[str, Any] = {"type": kind, "clients": clients, **ours}
            if arguments.against:
                theirs = of_checkout(arguments.against.resolve(), kind, clients, arguments.jobs)
                row |= {f"against_{key}": value for key, value in theirs.items()}
                row["ratio"] = ours["jobs_per_hour"] / theirs["jobs_per_hour"]
            record.add("jobs per hour", row)
            values = (f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items())
            print("  ".join(values), flush=True)


if __name__ == "__main__":
    main()
