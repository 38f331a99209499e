"""Measures whether more engines on Ray Serve make more models in the same time.

    python bench/ray_scale.py              a table
    python bench/ray_scale.py --json       one JSON line

A cluster of several machines runs on this one, on the loopback interface. Its engines' stages
wait as long as `--stage-seconds` says without using the CPU, as a GPU does; HTTP, desk, object
store and exports (2000 faces, 256²) are real. For each number of replicas in `--replicas`, as
many jobs as keep all of them busy are sent at once, each of another seed and with a texture.

- `throughput`: jobs per second, from the first stage's begin to the last one's end;
- `scaling`: that over the replicas times the throughput with one (or with the fewest): at
  least 0.9;
- `busy`: which part of that time the replicas were in a stage;
- `gap_ms`: how long a replica is idle between two stages, median and longest.

Needs what the tests on Ray need.
"""

from __future__ import annotations

import argparse
import base64
import json
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

from tests.support.engines import cube, voxels  # noqa: E402 - after the path is set
from tests.support.ray_cluster import deploy, ray_cluster  # noqa: E402
from tests.support.server import picture  # noqa: E402
from trellis2_server.inputs.images import Cutter  # noqa: E402
from trellis2_server.mesh import Shape, VoxelField  # noqa: E402
from trellis2_server.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Report

FIELDS: Final = {"decimation_target": 2000, "texture_size": 256, "texture": True}
#: Longer than all jobs of one measurement may take.
PATIENCE_S: Final = 200.0
#: Before the jobs that count: each machine's processes for exports start and compile.
WARM_UP_JOBS: Final = 2
#: On each machine.
EXPORTS_AT_ONCE: Final = 2


class WaitingEngine:
    """Makes cubes, each stage in a given time, and notes when.

    Args:
        stage_s: seconds of the shape stage, and of the texture stage.
        folder: where each process notes its stages: name, begin and end in seconds.
    """

    name = "waiting"

    def __init__(self, stage_s: tuple[float, float], folder: str) -> None:
        self._shape_s, self._texture_s = stage_s
        self._folder = folder

    def load(self, report: Report) -> None:
        report("load", 1, 1)

    def unload(self) -> None:
        return

    def describe(self) -> dict[str, object]:
        return {"device": "none"}

    def device_memory(self) -> dict[str, int]:
        return {}

    def _wait(self, stage: str, seconds: float, report: Report) -> None:
        begin, steps = time.monotonic(), 12
        for step in range(steps):
            report(stage, step, steps)
            left = begin + seconds * (step + 1) / steps - time.monotonic()
            threading.Event().wait(max(0.0, left))
        with (Path(self._folder) / str(os.getpid())).open("a", encoding="ascii") as file:
            file.write(f"{stage} {begin} {time.monotonic()}\n")

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


def serving(replicas: int, stage_s: tuple[float, float], folder: str, url: str) -> Any:
    """Deploy it with so many engines."""
    from trellis2_server.ray_serve import ClusterSettings, build_app

    settings = Settings.model_validate(
        {"model": {"engine": "preview"}, "server": {"log_level": "warning"}}
    )
    cluster = ClusterSettings(engines=replicas, num_gpus=0, engine_resources={"engine": 1})
    deploy(
        build_app(
            settings,
            cluster,
            choose_engine=lambda _: WaitingEngine(stage_s, folder),
            make_cutter=lambda *_: Cutter(background="none"),
            engine_name="waiting",
        ),
        url,
    )


def ask(url: str, seed: int) -> None:
    """Have one textured model made."""
    image = base64.b64encode(picture(seed)).decode()
    body = {**FIELDS, "image": image, "seed": seed}
    reply = httpx.post(f"{url}/generate", json=body, timeout=PATIENCE_S)
    if reply.status_code != 200 or reply.content[:4] != b"glTF":
        raise SystemExit(f"/generate answered {reply.status_code}: {reply.content[:200]!r}")


def ask_at_once(url: str, seeds: range) -> None:
    with ThreadPoolExecutor(len(seeds)) as pool:
        list(pool.map(partial(ask, url), seeds, timeout=PATIENCE_S))


def stages_in(folder: str) -> dict[str, list[tuple[float, float]]]:
    """Begin and end of each stage in seconds, by replica, in order."""
    stages = {
        file.name: [
            (float(begin), float(end))
            for _, begin, end in map(str.split, file.read_text("ascii").splitlines())
        ]
        for file in Path(folder).iterdir()
    }
    return {name: sorted(spans) for name, spans in stages.items()}


def measure(url: str, replicas: int, stage_s: tuple[float, float], jobs: int) -> dict[str, Any]:
    from ray import serve

    with tempfile.TemporaryDirectory() as folder:
        serving(replicas, stage_s, folder, url)
        pause, end = threading.Event(), time.monotonic() + PATIENCE_S
        while running(url) < replicas:
            if time.monotonic() > end:
                raise SystemExit(f"{replicas} engines did not start")
            pause.wait(0.2)
        ask_at_once(url, range(WARM_UP_JOBS * replicas))
        for file in Path(folder).iterdir():
            file.unlink()
        ask_at_once(url, range(1000, 1000 + jobs * replicas))
        stages = stages_in(folder)
        serve.delete("trellis2")
    begin = min(spans[0][0] for spans in stages.values())
    last = max(spans[-1][1] for spans in stages.values())
    gaps = [b - a for spans in stages.values() for (_, a), (b, _) in pairwise(spans)]
    busy = sum(b - a for spans in stages.values() for a, b in spans)
    return {
        "replicas": replicas,
        "throughput": jobs * replicas / (last - begin),
        "busy": busy / (replicas * (last - begin)),
        "gap_ms": [1e3 * statistics.median(gaps), 1e3 * max(gaps)],
        "stages": [len(spans) for spans in stages.values()],
    }


def running(url: str) -> int:
    details = httpx.get(f"{url}/healthcheck", timeout=20).json().get("details", {})
    return details.get("engines", {}).get("running", 0)


@contextmanager
def cluster_for(engines: int) -> Generator[str]:
    """A cluster of machines with two engines each, and the address of its proxy."""
    with ray_cluster((engines + 1) // 2, num_cpus=EXPORTS_AT_ONCE) as (_, url):
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--replicas", default="1,2,4", help="how many engines (1,2,4)")
    parser.add_argument(
        "--stage-seconds", default="3.0,2.0", help="of a shape and of a texture (3.0,2.0)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="of each replica (4)")
    asked = parser.parse_args()
    counts = [int(n) for n in asked.replicas.split(",")]
    shape_s, texture_s = (float(s) for s in asked.stage_seconds.split(","))
    with cluster_for(max(counts)) as url:
        found = [measure(url, n, (shape_s, texture_s), asked.jobs) for n in counts]
    alone = found[0]["throughput"] / counts[0]
    for each in found:
        each["scaling"] = each["throughput"] / (each["replicas"] * alone)
    if asked.json:
        print(json.dumps({key: [each[key] for each in found] for key in found[0]}))
        return
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
