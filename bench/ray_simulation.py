"""Simulate 1 to 64 GPUs under random requests: waiting times of clients, use of the GPUs.

    python bench/ray_simulation.py --output docs/scale.svg

prints the tables of docs/scale.md and draws their plot; `--json FILE` writes the tables, too. It
is a model of the parts that determine the duration of a job; nothing is measured.

- Requests arrive independently (Poisson process); each is for a textured model.
- A GPU runs one shape or texture step at a time, with the duration that the authors of TRELLIS.2
  state for an H100.
- The export of a step runs on the same machine, `--exports` at a time for each GPU, in the order
  in which they were started.
- The scheduler starts the step with the earliest deadline, like
  `trellis2_server/jobs/scheduler.py`: the deadline of a shape and of its export is the arrival of
  the request, that of a texture and of its export is `TEXTURE_PATIENCE_S` after the shape is
  ready. The texture does not wait for the export of the shape. The scheduler runs as many steps as
  there are GPUs and four exports for each, and starts no step while more than a number of exports
  wait.

Not modelled: the cutout step (0 to 4 s on another CPU), the network, failures, GPUs of different
speed, and durations that depend on the picture. Requires NumPy, and Matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set
from trellis2_server.jobs.scheduler import TEXTURE_PATIENCE_S  # noqa: E402

Kind = Literal["shape", "shape_export", "texture", "texture_export"]

#: Steps in progress for each GPU, as `worker.limit_model_concurrency`.
MAX_STEPS: Final = 5
#: Exports in progress for each GPU, as in `ray_serve.executor`.
CPU_WORKERS: Final = 4
#: Duration of the shape and of the texture step on an H100 by resolution, seconds; source: the
#: authors of TRELLIS.2.
H100: Final = {"512": (2.0, 1.0), "1024": (10.0, 7.0), "1536": (35.0, 25.0)}
LOADS: Final = (0.5, 0.7, 0.8, 0.9, 0.95)
GPUS: Final = (1, 2, 4, 8, 16, 32, 64)
RATES: Final = (20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Cluster:
    """GPUs, and durations of the steps of a job.

    Attributes:
        gpus: number of GPUs.
        shape_s: duration of a shape step, seconds.
        texture_s: duration of a texture step, seconds; 0: jobs have no texture.
        shape_export_s: duration of a shape_export step, seconds.
        texture_export_s: duration of a texture_export step, seconds.
        exports: number of exports that run at the same time for each GPU.
    """

    gpus: int
    shape_s: float
    texture_s: float
    shape_export_s: float
    texture_export_s: float
    exports: int

    @property
    def capacity_per_s(self) -> float:
        """Jobs per second at which every GPU is always busy."""
        return self.gpus / (self.shape_s + self.texture_s)


@dataclass(frozen=True)
class SimulationResult:
    """Times of the jobs, and use of the machines.

    Attributes:
        queued: time from each request to the begin of its shape step, seconds, float64 [N].
        untextured: time from each request to its untextured file, seconds, float64 [N].
        textured: time from each request to its textured file, seconds, float64 [N].
        gpu_busy: mean use of the GPUs, 0 to 1.
        export_busy: mean use of the export slots, 0 to 1.
    """

    queued: np.ndarray
    untextured: np.ndarray
    textured: np.ndarray
    gpu_busy: float
    export_busy: float


class Simulation:
    """Event-driven simulation.

    Args:
        cluster: GPUs and durations.
        arrivals: arrival times of the requests, ascending, seconds, float64 [N].
    """

    def __init__(self, cluster: Cluster, arrivals: np.ndarray) -> None:
        n = len(arrivals)
        self._cluster, self._arrivals = cluster, arrivals
        self._seconds: dict[Kind, float] = {
            "shape": cluster.shape_s,
            "texture": cluster.texture_s,
            "shape_export": cluster.shape_export_s,
            "texture_export": cluster.texture_export_s,
        }
        self._now, self._order = 0.0, 0
        self._events: list[tuple[float, int, Kind, int, int]] = []
        # Waiting steps: deadline, order, kind, job, machine.
        self._gpu_steps: list[tuple[float, int, Kind, int, int]] = []
        self._exports: list[tuple[float, int, Kind, int, int]] = []
        self._free_gpus = deque(range(cluster.gpus))
        self._exports_running = 0
        # Started exports, which wait for a slot on their machine.
        self._free_slots = [cluster.exports] * cluster.gpus
        self._queued: list[deque[tuple[Kind, int]]] = [deque() for _ in range(cluster.gpus)]
        self._busy = {"gpu": 0.0, "export": 0.0}
        self._deadline = np.array(arrivals)  # of the job's steps up to the shape
        self._texture_deadline = np.zeros(n)
        # 2: neither the export of the shape nor the texture of the job is done.
        self._left = np.full(n, 2)
        self._textured_on = np.zeros(n, int)
        self.began, self.untextured, self.textured = np.zeros(n), np.zeros(n), np.zeros(n)

    def run(self) -> SimulationResult:
        """Simulate until the last job ends; the first tenth of the jobs is not in the result."""
        arrived = 0
        while arrived < len(self._arrivals) or self._events:
            is_arrival = arrived < len(self._arrivals) and (
                not self._events or self._arrivals[arrived] <= self._events[0][0]
            )
            if is_arrival:
                self._now = float(self._arrivals[arrived])
                self._enqueue(self._gpu_steps, "shape", arrived, -1)
                arrived += 1
            else:
                self._now, _, kind, job, machine = heapq.heappop(self._events)
                self._end(kind, job, machine)
            self._dispatch()
        settled = slice(len(self._arrivals) // 10, None)
        slots = self._cluster.gpus * self._cluster.exports
        return SimulationResult(
            (self.began - self._arrivals)[settled],
            (self.untextured - self._arrivals)[settled],
            (self.textured - self._arrivals)[settled],
            self._busy["gpu"] / (self._cluster.gpus * self._now),
            self._busy["export"] / (slots * self._now),
        )

    def _enqueue(self, queue: list[tuple[float, int, Kind, int, int]], *step: object) -> None:
        kind, job, machine = step
        deadlines = self._texture_deadline if "texture" in str(kind) else self._deadline
        self._order += 1
        heapq.heappush(queue, (deadlines[job], self._order, kind, job, machine))  # type: ignore[misc]

    def _dispatch(self) -> None:
        """Start all steps that can start, by deadline, like `Scheduler.dispatch`."""
        gpus = self._cluster.gpus
        max_steps, cpu_workers = MAX_STEPS * gpus, CPU_WORKERS * gpus
        while gpus - len(self._free_gpus) + self._exports_running < max_steps:
            step = self._free_gpus and self._gpu_steps and len(self._exports) < max_steps
            export = self._exports and self._exports_running < cpu_workers
            if export and not (step and self._gpu_steps[0] < self._exports[0]):
                _, _, kind, job, machine = heapq.heappop(self._exports)
                self._exports_running += 1
                self._queued[machine].append((kind, job))
                self._start_exports(machine)
            elif step:
                _, _, kind, job, _ = heapq.heappop(self._gpu_steps)
                if kind == "shape":
                    self.began[job] = self._now
                self._begin(kind, job, self._free_gpus.popleft(), "gpu")
            else:
                return

    def _start_exports(self, machine: int) -> None:
        while self._queued[machine] and self._free_slots[machine]:
            self._free_slots[machine] -= 1
            self._begin(*self._queued[machine].popleft(), machine, "export")

    def _begin(self, kind: Kind, job: int, machine: int, resource: str) -> None:
        seconds = self._seconds[kind]
        self._busy[resource] += seconds
        self._order += 1
        heapq.heappush(self._events, (self._now + seconds, self._order, kind, job, machine))

    def _end(self, kind: Kind, job: int, machine: int) -> None:
        has_texture = self._cluster.texture_s > 0
        if kind in {"shape", "texture"}:
            self._free_gpus.append(machine)
        else:
            self._exports_running -= 1
            self._free_slots[machine] += 1
            self._start_exports(machine)
        if kind == "shape":
            self._enqueue(self._exports, "shape_export", job, machine)
            if has_texture:
                self._texture_deadline[job] = self._now + TEXTURE_PATIENCE_S
                self._enqueue(self._gpu_steps, "texture", job, -1)
            return
        if kind == "shape_export":
            self.untextured[job] = self._now
        if kind == "texture_export" or not has_texture:
            self.textured[job] = self._now
            return
        if kind == "texture":
            self._textured_on[job] = machine
        self._left[job] -= 1
        if not self._left[job]:
            self._enqueue(self._exports, "texture_export", job, int(self._textured_on[job]))


def simulate(cluster: Cluster, per_s: float, jobs: int, seed: int = 0) -> SimulationResult:
    """Simulate a number of jobs that arrive at a mean rate, jobs per second."""
    intervals = np.random.default_rng(seed).exponential(1 / per_s, jobs)
    return Simulation(cluster, np.cumsum(intervals)).run()


def queued_by_formula(load: float, step_s: float) -> float:
    """Return the mean time in an M/D/1 queue, seconds (Pollaczek and Khinchine)."""
    return load * step_s / (2 * (1 - load))


def check(jobs: int = 100_000) -> list[tuple[float, float, float]]:
    """Return loads with the mean time in the queue as simulated and by the formula, seconds."""
    found = []
    for load in (0.3, 0.5, 0.7):
        cluster = Cluster(1, 10.0, 0.0, 0.0, 0.0, 4)
        queued = simulate(cluster, load * cluster.capacity_per_s, jobs).queued.mean()
        found.append((load, float(queued), queued_by_formula(load, 10.0)))
    return found


def fewest(cluster: Cluster, per_s: float, patience_s: float, jobs: int) -> int | None:
    """Return how many GPUs finish 95 % of the textured files in time; None: no number does."""
    parts = cluster.shape_s + cluster.texture_s + cluster.shape_export_s + cluster.texture_export_s
    if parts > patience_s:
        return None

    def is_enough(gpus: int) -> bool:
        found = simulate(_with(cluster, gpus), per_s, jobs)
        return float(np.quantile(found.textured, 0.95)) <= patience_s

    low = math.floor(
        per_s / cluster.capacity_per_s * cluster.gpus
    )  # too few: the load exceeds their capacity
    high = low + 1
    while not is_enough(high):
        low, high = high, high + max(1, (high - low) * 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _with(cluster: Cluster, gpus: int) -> Cluster:
    return Cluster(
        gpus,
        cluster.shape_s,
        cluster.texture_s,
        cluster.shape_export_s,
        cluster.texture_export_s,
        cluster.exports,
    )


def draw(waits: dict[int, list[float]], needed: dict[float, list[int | None]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scale"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for gpus, seconds in waits.items():
        left.plot(LOADS, seconds, "o-", label=f"{gpus} GPU" + ("s" if gpus > 1 else ""))
    left.set_yscale("log")
    left.set_xlabel("load (1: every GPU always busy)")
    left.set_ylabel("p95 to the textured file, s")
    left.legend()
    for patience_s, gpus in needed.items():
        points = [(rate, n) for rate, n in zip(RATES, gpus, strict=True) if n is not None]
        right.loglog(*zip(*points, strict=True), "o-", label=f"p95 within {patience_s:.0f} s")
    right.set_xlabel("requests an hour")
    right.set_ylabel("GPUs")
    right.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--resolution", choices=H100, default="1024", help="resolution of the models (1024)"
    )
    parser.add_argument(
        "--shape-export", type=float, default=4.0, help="duration of the step, seconds (4)"
    )
    parser.add_argument(
        "--texture-export", type=float, default=5.0, help="duration of the step, seconds (5)"
    )
    parser.add_argument(
        "--exports", type=int, default=2, help="exports at the same time for each GPU (2)"
    )
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs of each simulation (20000)")
    parser.add_argument(
        "--patience",
        default="60,120,300",
        help="limits for the textured file, seconds (60,120,300)",
    )
    parser.add_argument("--output", type=Path, help="also write a plot to this file")
    add_option(parser)
    arguments = parser.parse_args()
    record = Record(__file__, arguments)

    print("| load | queued, simulated, s | by the formula of M/D/1 |\n|---|---|---|")
    for load, simulated, formula in check():
        record.add("formula", {"load": load, "simulated_s": simulated, "formula_s": formula})
        print(f"| {load} | {simulated:.2f} | {formula:.2f} |")

    alone = Cluster(
        1,
        *H100[arguments.resolution],
        arguments.shape_export,
        arguments.texture_export,
        arguments.exports,
    )
    print(
        "\n| GPUs | load | requests/h | untextured: mean, p50, p95, s "
        "| textured: mean, p50, p95, s | GPUs busy | exports busy |\n|---|---|---|---|---|---|---|"
    )
    waits: dict[int, list[float]] = {}
    for gpus in GPUS:
        cluster = _with(alone, gpus)
        for load in LOADS:
            found = simulate(cluster, load * cluster.capacity_per_s, arguments.jobs)
            waits.setdefault(gpus, []).append(float(np.quantile(found.textured, 0.95)))
            per_h = 3600 * load * cluster.capacity_per_s
            record.add(
                "load",
                {"gpus": gpus, "load": load, "requests_per_hour": per_h}
                | _figures("untextured", found.untextured)
                | _figures("textured", found.textured)
                | {"gpu_busy": found.gpu_busy, "export_busy": found.export_busy},
            )
            print(
                f"| {gpus} | {load} | {per_h:.0f} "
                f"| {_summary(found.untextured)} | {_summary(found.textured)} "
                f"| {found.gpu_busy:.2f} | {found.export_busy:.2f} |"
            )

    patiences = [float(seconds) for seconds in arguments.patience.split(",")]
    needed = {
        patience: [fewest(alone, rate / 3600, patience, arguments.jobs) for rate in RATES]
        for patience in patiences
    }
    print("\n| requests/h | " + " | ".join(f"p95 within {p:.0f} s" for p in patiences) + " |")
    print("|---" * (1 + len(patiences)) + "|")
    for k, rate in enumerate(RATES):
        record.add(
            "gpus",
            {"requests_per_hour": rate} | {f"within_{p:.0f}_s": needed[p][k] for p in patiences},
        )
        print(f"| {rate} | " + " | ".join(str(needed[p][k] or "-") for p in patiences) + " |")
    if arguments.output:
        draw(waits, needed, arguments.output)


def _figures(name: str, seconds: np.ndarray) -> dict[str, float]:
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return {f"{name}_mean_s": seconds.mean(), f"{name}_p50_s": p50, f"{name}_p95_s": p95}


def _summary(seconds: np.ndarray) -> str:
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return f"{seconds.mean():.0f}, {p50:.0f}, {p95:.0f}"


if __name__ == "__main__":
    main()
