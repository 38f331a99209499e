"""Simulates 1 to 64 GPUs under requests that come at random: how long clients wait, how busy it is.

    python bench/ray_simulation.py --output docs/scale.svg

prints the tables of docs/scale.md and draws their plot. Nothing is measured here: it is a
model, of the parts that decide how long a job takes.

- Requests come one by one, independently (Poisson), each for a textured model.
- A GPU does one stage at a time, for the seconds that TRELLIS.2's authors give for an H100.
- A stage's export runs on the machine of that stage, `--exports` at a time beside each GPU, in
  the order in which they were begun.
- The desk begins what is due first, as `trellis2_server/line.py` does: a shape is due when its
  request came, a texture `TEXTURE_PATIENCE_S` after it became ready; it has as many stages in
  flight as there are GPUs, four exports for each, and begins no stage while more exports wait
  than that.

Left out: cutting out (0 to 4 s of another processor), the network, failures, GPUs of other
speeds, and that stages vary with the picture. Needs numpy; for the drawing matplotlib.
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

from trellis2_server.jobs.scheduler import TEXTURE_PATIENCE_S  # noqa: E402 - after the path is set

Kind = Literal["shape", "shape_export", "texture", "texture_export"]

#: Steps in progress for each GPU, as of `worker.limit_model_concurrency`.
AT_MOST: Final = 5
#: Exports in progress for each GPU, as of `ray_serve.fleet.Fleet.hands`.
HANDS: Final = 4
#: Seconds of the shape and of the texture stage on an H100, by TRELLIS.2's authors.
H100: Final = {"512": (2.0, 1.0), "1024": (10.0, 7.0), "1536": (35.0, 25.0)}
LOADS: Final = (0.5, 0.7, 0.8, 0.9, 0.95)
GPUS: Final = (1, 2, 4, 8, 16, 32, 64)
RATES: Final = (20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Plant:
    """What there is.

    Attributes:
        gpus: how many.
        shape_s: seconds of a shape stage.
        texture_s: … of a texture stage; 0: none is asked for.
        shape_export_s: … of decimating and writing the untextured file.
        texture_export_s: … of the textured file.
        exports: how many run at a time beside each GPU.
    """

    gpus: int
    shape_s: float
    texture_s: float
    shape_export_s: float
    texture_export_s: float
    exports: int

    @property
    def most_per_s(self) -> float:
        """Jobs a second at which every GPU is busy all the time."""
        return self.gpus / (self.shape_s + self.texture_s)


@dataclass(frozen=True)
class Found:
    """What a simulation found.

    Attributes:
        queued: seconds from each request to the begin of its shape stage, float64 [N].
        untextured: seconds from each request to its untextured file.
        textured: seconds to its textured file.
        gpu_busy: 0 … 1, of the GPUs.
        export_busy: 0 … 1, of the places for exports.
    """

    queued: np.ndarray
    untextured: np.ndarray
    textured: np.ndarray
    gpu_busy: float
    export_busy: float


class Simulation:
    """One run.

    Args:
        plant: what there is.
        arrivals: seconds at which requests come, ascending, float64 [N].
    """

    def __init__(self, plant: Plant, arrivals: np.ndarray) -> None:
        n = len(arrivals)
        self._plant, self._arrivals = plant, arrivals
        self._seconds: dict[Kind, float] = {
            "shape": plant.shape_s,
            "texture": plant.texture_s,
            "shape_export": plant.shape_export_s,
            "texture_export": plant.texture_export_s,
        }
        self._now, self._order = 0.0, 0
        self._events: list[tuple[float, int, Kind, int, int]] = []
        # What waits at the desk: due at, order, what, job, machine.
        self._stages: list[tuple[float, int, Kind, int, int]] = []
        self._exports: list[tuple[float, int, Kind, int, int]] = []
        self._free_gpus = deque(range(plant.gpus))
        self._exports_running = 0
        # What was begun and waits for a place on its machine.
        self._places = [plant.exports] * plant.gpus
        self._queued: list[deque[tuple[Kind, int]]] = [deque() for _ in range(plant.gpus)]
        self._busy = {"gpu": 0.0, "export": 0.0}
        self._due = np.array(arrivals)
        self.began, self.untextured, self.textured = np.zeros(n), np.zeros(n), np.zeros(n)

    def run(self) -> Found:
        """What happens until the last job is done, without the first tenth of the jobs."""
        coming = 0
        while coming < len(self._arrivals) or self._events:
            is_arrival = coming < len(self._arrivals) and (
                not self._events or self._arrivals[coming] <= self._events[0][0]
            )
            if is_arrival:
                self._now = float(self._arrivals[coming])
                self._wait(self._stages, "shape", coming, -1)
                coming += 1
            else:
                self._now, _, kind, job, machine = heapq.heappop(self._events)
                self._end(kind, job, machine)
            self._pump()
        settled = slice(len(self._arrivals) // 10, None)
        places = self._plant.gpus * self._plant.exports
        return Found(
            (self.began - self._arrivals)[settled],
            (self.untextured - self._arrivals)[settled],
            (self.textured - self._arrivals)[settled],
            self._busy["gpu"] / (self._plant.gpus * self._now),
            self._busy["export"] / (places * self._now),
        )

    def _wait(self, queue: list[tuple[float, int, Kind, int, int]], *what: object) -> None:
        kind, job, machine = what
        self._order += 1
        heapq.heappush(queue, (self._due[job], self._order, kind, job, machine))  # type: ignore[misc]

    def _pump(self) -> None:
        """Begin all that can begin, what is due first first: `Scheduler.dispatch`."""
        gpus = self._plant.gpus
        at_most, hands = AT_MOST * gpus, HANDS * gpus
        while gpus - len(self._free_gpus) + self._exports_running < at_most:
            stage = self._free_gpus and self._stages and len(self._exports) < at_most
            export = self._exports and self._exports_running < hands
            if export and not (stage and self._stages[0] < self._exports[0]):
                _, _, kind, job, machine = heapq.heappop(self._exports)
                self._exports_running += 1
                self._queued[machine].append((kind, job))
                self._take_places(machine)
            elif stage:
                _, _, kind, job, _ = heapq.heappop(self._stages)
                if kind == "shape":
                    self.began[job] = self._now
                self._begin(kind, job, self._free_gpus.popleft(), "gpu")
            else:
                return

    def _take_places(self, machine: int) -> None:
        while self._queued[machine] and self._places[machine]:
            self._places[machine] -= 1
            self._begin(*self._queued[machine].popleft(), machine, "export")

    def _begin(self, kind: Kind, job: int, machine: int, where: str) -> None:
        seconds = self._seconds[kind]
        self._busy[where] += seconds
        self._order += 1
        heapq.heappush(self._events, (self._now + seconds, self._order, kind, job, machine))

    def _end(self, kind: Kind, job: int, machine: int) -> None:
        if kind == "shape":
            self._free_gpus.append(machine)
            self._wait(self._exports, "shape_export", job, machine)
        elif kind == "texture":
            self._free_gpus.append(machine)
            self._wait(self._exports, "texture_export", job, machine)
        else:
            self._exports_running -= 1
            self._places[machine] += 1
            self._take_places(machine)
            if kind == "texture_export":
                self.textured[job] = self._now
                return
            self.untextured[job] = self._now
            if self._plant.texture_s:
                self._due[job] = self._now + TEXTURE_PATIENCE_S
                self._wait(self._stages, "texture", job, -1)
            else:
                self.textured[job] = self._now


def simulate(plant: Plant, per_s: float, jobs: int, seed: int = 0) -> Found:
    """So many jobs that come at that rate on average."""
    waits = np.random.default_rng(seed).exponential(1 / per_s, jobs)
    return Simulation(plant, np.cumsum(waits)).run()


def queued_by_formula(load: float, stage_s: float) -> float:
    """Mean seconds in the queue of one GPU with one stage: Pollaczek and Khinchine, M/D/1."""
    return load * stage_s / (2 * (1 - load))


def check(jobs: int = 100_000) -> list[tuple[float, float, float]]:
    """Load, mean seconds in the queue as simulated, and by the formula."""
    found = []
    for load in (0.3, 0.5, 0.7):
        plant = Plant(1, 10.0, 0.0, 0.0, 0.0, 4)
        queued = simulate(plant, load * plant.most_per_s, jobs).queued.mean()
        found.append((load, float(queued), queued_by_formula(load, 10.0)))
    return found


def fewest(plant: Plant, per_s: float, patience_s: float, jobs: int) -> int | None:
    """GPUs with which 95 of 100 textured files are there in time; None: never."""
    parts = plant.shape_s + plant.texture_s + plant.shape_export_s + plant.texture_export_s
    if parts > patience_s:
        return None

    def is_enough(gpus: int) -> bool:
        found = simulate(_with(plant, gpus), per_s, jobs)
        return float(np.quantile(found.textured, 0.95)) <= patience_s

    low = math.floor(per_s / plant.most_per_s * plant.gpus)  # too few: more than they can do
    high = low + 1
    while not is_enough(high):
        low, high = high, high + max(1, (high - low) * 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _with(plant: Plant, gpus: int) -> Plant:
    return Plant(
        gpus,
        plant.shape_s,
        plant.texture_s,
        plant.shape_export_s,
        plant.texture_export_s,
        plant.exports,
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
        there = [(rate, n) for rate, n in zip(RATES, gpus, strict=True) if n is not None]
        right.loglog(*zip(*there, strict=True), "o-", label=f"p95 within {patience_s:.0f} s")
    right.set_xlabel("requests an hour")
    right.set_ylabel("GPUs")
    right.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", choices=H100, default="1024", help="stages of (1024)")
    parser.add_argument("--shape-export", type=float, default=4.0, help="seconds (4)")
    parser.add_argument("--texture-export", type=float, default=5.0, help="seconds (5)")
    parser.add_argument("--exports", type=int, default=2, help="at a time beside each GPU (2)")
    parser.add_argument("--jobs", type=int, default=20_000, help="of each run (20000)")
    parser.add_argument(
        "--patience", default="60,120,300", help="seconds to the textured file (60,120,300)"
    )
    parser.add_argument("--output", type=Path, help="also draw it here")
    asked = parser.parse_args()

    print("| load | queued, simulated, s | by the formula of M/D/1 |\n|---|---|---|")
    for load, simulated, formula in check():
        print(f"| {load} | {simulated:.2f} | {formula:.2f} |")

    alone = Plant(
        1, *H100[asked.resolution], asked.shape_export, asked.texture_export, asked.exports
    )
    print(
        "\n| GPUs | load | requests/h | untextured: mean, p50, p95, s "
        "| textured: mean, p50, p95, s | GPUs busy | exports busy |\n|---|---|---|---|---|---|---|"
    )
    waits: dict[int, list[float]] = {}
    for gpus in GPUS:
        plant = _with(alone, gpus)
        for load in LOADS:
            found = simulate(plant, load * plant.most_per_s, asked.jobs)
            waits.setdefault(gpus, []).append(float(np.quantile(found.textured, 0.95)))
            print(
                f"| {gpus} | {load} | {3600 * load * plant.most_per_s:.0f} "
                f"| {_summary(found.untextured)} | {_summary(found.textured)} "
                f"| {found.gpu_busy:.2f} | {found.export_busy:.2f} |"
            )

    patiences = [float(seconds) for seconds in asked.patience.split(",")]
    needed = {
        patience: [fewest(alone, rate / 3600, patience, asked.jobs) for rate in RATES]
        for patience in patiences
    }
    print("\n| requests/h | " + " | ".join(f"p95 within {p:.0f} s" for p in patiences) + " |")
    print("|---" * (1 + len(patiences)) + "|")
    for k, rate in enumerate(RATES):
        print(f"| {rate} | " + " | ".join(str(needed[p][k] or "-") for p in patiences) + " |")
    if asked.output:
        draw(waits, needed, asked.output)


def _summary(seconds: np.ndarray) -> str:
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return f"{seconds.mean():.0f}, {p50:.0f}, {p95:.0f}"


if __name__ == "__main__":
    main()
