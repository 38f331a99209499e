"""Measures the queue under more clients than it can serve at once.

    python bench/load.py              a table
    python bench/load.py --json       one JSON line

Fifty clients ask for one untextured model after another. The engine is the embedded one, but
each of its stages holds the lane for as long as `--stage` says without using the CPU, as a
GPU does. What is measured, and against what:

- `/healthcheck` from another process: p99 at most 50 ms;
- how much of the time the lane is busy while work waits: at least 95 %;
- fairness: how long a job waits against the jobs ahead of it at its arrival times the mean
  time of a job: at most 1.5.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.server import _PROBE, Server, drawn, png  # noqa: E402 - after the path is set
from trellis2_server.engines.preview import PreviewEngine  # noqa: E402

if TYPE_CHECKING:
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Shape
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Report

FIELDS: Final = {"decimation_target": 2000, "texture_size": 256, "texture": False}


class PacedEngine(PreviewEngine):
    """The embedded engine, with a shape stage that takes a given time; says how long it worked."""

    def __init__(self, stage_s: float) -> None:
        super().__init__()
        self._stage_s = stage_s
        self._busy_s = 0.0

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        begin = time.monotonic()
        shape = super().shape(cutout, options, report)
        threading.Event().wait(max(0.0, self._stage_s - (time.monotonic() - begin)))
        self._busy_s += time.monotonic() - begin
        return shape

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "busy_s": self._busy_s}


def serve(host: str, port: int, stage_s: float) -> None:
    import uvicorn

    from trellis2_server.api.app import create_app
    from trellis2_server.api.connections import uvicorn_config
    from trellis2_server.inputs.images import Cutter
    from trellis2_server.settings import ServerSettings, Settings, WorkerSettings

    settings = Settings(
        server=ServerSettings(host=host, port=port),
        worker=WorkerSettings(job_max_age_seconds=10, job_cleanup_interval_seconds=1),
    )
    app = create_app(settings, PacedEngine(stage_s), Cutter(background="none"))
    uvicorn.Server(uvicorn_config(app, settings.server)).run()


def details(server: Server) -> dict[str, Any]:
    return json.loads(server.request("GET", "/healthcheck")[2])["details"]


def measure(server: Server, clients: int, seconds: float) -> dict[str, float]:
    stop = threading.Event()
    jobs: list[tuple[float, float]] = []  # from when to when
    pictures = [base64.b64encode(png(drawn(seed, 96))).decode() for seed in range(clients)]

    def ask(client: int) -> None:
        seed = client * 100_000
        while not stop.is_set():
            seed += 1
            begin = time.monotonic()
            body = {**FIELDS, "image": pictures[client], "seed": seed}
            status, _, content = server.request("POST", "/generate", body)
            if status != 200:
                raise SystemExit(f"/generate answered {status}: {content[:200]!r}")
            jobs.append((begin, time.monotonic()))

    threads = [threading.Thread(target=ask, args=(k,), daemon=True) for k in range(clients)]
    for thread in threads:
        thread.start()
        stop.wait(0.05)  # one after the other, so that it is known who was first
    begin, busy = time.monotonic(), details(server)["busy_s"]
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, str(server.port), str(seconds)],
        check=True,
        capture_output=True,
    )
    end, busy_end = time.monotonic(), details(server)["busy_s"]
    stop.set()
    for thread in threads:
        thread.join(120)
    job_s = (end - begin) / sum(1 for _, done in jobs if begin <= done <= end)
    waits: list[tuple[int, float]] = []
    for came, done in jobs:
        if begin <= came <= end:
            ahead = sum(1 for other, until in jobs if other < came < until)
            waits.append((ahead, (done - came - job_s) / (max(ahead, 1) * job_s)))
    taken = sorted(json.loads(probe.stdout))
    return {
        "clients": clients,
        "jobs": len(waits),
        "job_s": job_s,
        "ahead_mean": sum(ahead for ahead, _ in waits) / len(waits),
        "lane_busy": (busy_end - busy) / (end - begin),
        "wait_ratio_max": max(ratio for _, ratio in waits),
        "health_p50_ms": 1e3 * taken[len(taken) // 2],
        "health_p99_ms": 1e3 * taken[min(int(0.99 * len(taken)), len(taken) - 1)],
        "health_max_ms": 1e3 * taken[-1],
        "health_samples": len(taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stage", type=float, default=0.2, help="seconds of a stage (0.2)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--host", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.host, asked.port, asked.stage)
        return
    me = str(Path(__file__).resolve())
    server = Server([sys.executable, me, "--serve", "--stage", str(asked.stage)])
    try:
        server.until((200,))
        result = measure(server, asked.clients, asked.seconds)
    finally:
        server.stop()
    if asked.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:16} {value:.3f}" if isinstance(value, float) else f"{key:16} {value}")


if __name__ == "__main__":
    main()
