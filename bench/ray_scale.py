"""Measure whether the throughput on Ray Serve grows with the number of engines.

    python bench/ray_scale.py [--json FILE]

A cluster of several machines is simulated on this machine, on the loopback interface. The shape
and texture steps of its engines wait for `--stage-seconds` without using the CPU, like a GPU.
HTTP, job service, object store and exports (2000 faces, 256 x 256 pixels) are real. For each
number of replicas in `--replicas`, `--jobs` textured jobs for each replica are submitted at the
same time, each with another seed.

- `throughput`: jobs per second, from the begin of the first step to the end of the last one;
- `scaling`: throughput, divided by the number of replicas and by the throughput of one replica
  (or of each of the fewest); target: at least 0.9;
- `busy`: fraction of that time in which the replicas ran a step;
- `gap_ms`: idle time of a replica between two steps, median and longest.

Requires the packages of the tests on Ray.
"""

from __future__ import annotations

import argparse
import base64
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set
from tests.support.engines import cube, voxels  # noqa: E402
from tests.support.ray_cluster import deploy, ray_cluster  # noqa: E402
from tests.support.server import picture  # noqa: E402
from trellis2_server.inputs.images import Cutter  # noqa: E402
from trellis2_server.mesh import Shape, VoxelField  # noqa: E402
from trellis2_server.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report

FIELDS: Final = {"decimation_target": 2000, "texture_size": 256, "texture": True}
#: Longest time for all jobs of one measurement, seconds.
PATIENCE_S: Final = 200.0
#: Jobs for each replica before the measurement, in which export processes start and compile.
WARM_UP_JOBS: Final = 2
#: CPUs of each machine.
CPUS: Final = 2


class WaitingEngine:
    """Engine whose steps take a given time and return cubes.

    Args:
        step_s: durations of the shape step and of the texture step, seconds.
        folder: folder in which each process records name, begin and end of its steps, seconds.
    """

    name = "waiting"

    def __init__(self, step_s: tuple[float, float], folder: str) -> None:
        self._shape_s, self._texture_s = step_s
        self._folder = folder

    def load(self, report: Report) -> None:
        report("load", 1, 1)

    def unload(self) -> None:
        return

    def describe(self) -> dict[str, object]:
        return {"device": "none"}

    def device_memory(self) -> dict[str, int]:
        return {}

    def _wait(self, name: str, seconds: float, report: Report) -> None:
        begin, steps = time.monotonic(), 12
        for step in range(steps):
            report(name, step, steps)
            left = begin + seconds * (step + 1) / steps - time.monotonic()
            threading.Event().wait(max(0.0, left))
        with (Path(self._folder) / str(os.getpid())).open("a", encoding="ascii") as file:
            file.write(f"{name} {begin} {time.monotonic()}\n")

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        del cutout, options
        self._wait("shape", self._shape_s, report)
        return Shape(cube(), 8, state=None)

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        del shape, cutout, options
        self._wait("texture", self._texture_s, report)
        return voxels()

    def texture_mesh(self, *_: Any) -> VoxelField:
        raise NotImplementedError


def deploy_server(replicas: int, step_s: tuple[float, float], folder: str, url: str) -> Any:
    """Deploy the server with a number of engines."""
    from trellis2_server.ray_serve import ClusterSettings, build_app

    settings = Settings.model_validate(
        {"model": {"engine": "preview"}, "server": {"log_level": "warning"}}
    )
    cluster = ClusterSettings(engines=replicas, num_gpus=0, engine_resources={"engine": 1})
    deploy(
        build_app(
            settings,
            cluster,
            choose_engine=lambda _: WaitingEngine(step_s, folder),
            make_cutter=lambda *_: Cutter(background="none"),
            engine_name="waiting",
        ),
        url,
    )


def generate(url: str, seed: int) -> None:
    """Generate one textured model."""
    image = base64.b64encode(picture(seed)).decode()
    body = {**FIELDS, "image": image, "seed": seed}
    reply = httpx.post(f"{url}/generate", json=body, timeout=PATIENCE_S)
    if reply.status_code != 200 or reply.content[:4] != b"glTF":
        raise SystemExit(f"/generate replied {reply.status_code}: {reply.content[:200]!r}")


def generate_concurrently(url: str, seeds: range) -> None:
    with ThreadPoolExecutor(len(seeds)) as pool:
        list(pool.map(partial(generate, url), seeds, timeout=PATIENCE_S))


def read_steps(folder: str) -> dict[str, list[tuple[float, float]]]:
    """Return begin and end of each step in order, seconds, by replica."""
    steps = {
        file.name: [
            (float(begin), float(end))
            for _, begin, end in map(str.split, file.read_text("ascii").splitlines())
        ]
        for file in Path(folder).iterdir()
    }
    return {name: sorted(spans) for name, spans in steps.items()}


def measure(url: str, replicas: int, step_s: tuple[float, float], jobs: int) -> dict[str, Any]:
    from ray import serve

    with tempfile.TemporaryDirectory() as folder:
        deploy_server(replicas, step_s, folder, url)
        pause, end = threading.Event(), time.monotonic() + PATIENCE_S
        while running_engines(url) < replicas:
            if time.monotonic() > end:
                raise SystemExit(f"{replicas} engines did not start")
            pause.wait(0.2)
        generate_concurrently(url, range(WARM_UP_JOBS * replicas))
        for file in Path(folder).iterdir():
            file.unlink()
        generate_concurrently(url, range(1000, 1000 + jobs * replicas))
        steps = read_steps(folder)
        serve.delete("trellis2")
    begin = min(spans[0][0] for spans in steps.values())
    last = max(spans[-1][1] for spans in steps.values())
    gaps = [b - a for spans in steps.values() for (_, a), (b, _) in pairwise(spans)]
    busy = sum(b - a for spans in steps.values() for a, b in spans)
    return {
        "replicas": replicas,
        "throughput": jobs * replicas / (last - begin),
        "busy": busy / (replicas * (last - begin)),
        "gap_ms": [1e3 * statistics.median(gaps), 1e3 * max(gaps)],
        "steps": [len(spans) for spans in steps.values()],
    }


def running_engines(url: str) -> int:
    details = httpx.get(f"{url}/healthcheck", timeout=20).json().get("details", {})
    return details.get("engines", {}).get("running", 0)


@contextmanager
def cluster_for(engines: int) -> Generator[str]:
    """Start a cluster of machines with two engines each; yield the address of its proxy."""
    with ray_cluster((engines + 1) // 2, num_cpus=CPUS) as (_, url):
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--replicas", default="1,2,4", help="numbers of engines (1,2,4)")
    parser.add_argument(
        "--stage-seconds",
        default="3.0,2.0",
        help="durations of a shape and of a texture step (3.0,2.0)",
    )
    parser.add_argument("--jobs", type=int, default=4, help="jobs for each replica (4)")
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    counts = [int(n) for n in arguments.replicas.split(",")]
    shape_s, texture_s = (float(s) for s in arguments.stage_seconds.split(","))
    with cluster_for(max(counts)) as url:
        found = [measure(url, n, (shape_s, texture_s), arguments.jobs) for n in counts]
    alone = found[0]["throughput"] / counts[0]
    for each in found:
        each["scaling"] = each["throughput"] / (each["replicas"] * alone)
        record.add("scaling", each)
    print("| replicas | jobs/s | scaling | busy | gap median, longest, ms |")
    print("|---|---|---|---|---|")
    for each in found:
        median, longest = each["gap_ms"]
        print(
            f"| {each['replicas']} | {each['throughput']:.3f} | {each['scaling']:.3f} "
            f"| {each['busy']:.3f} | {median:.0f}, {longest:.0f} |"
        )


if __name__ == "__main__":
    main()
