"""Measure the queue under more clients than the server can serve at the same time.

    python bench/load.py [--json FILE]

Fifty clients request one untextured model after the other. The engine is the preview engine, but
each shape step occupies the device for `--stage` seconds without using the CPU, like a GPU.

Measurements, and their targets:

- `/healthcheck`, requested by another process: p99 at most 50 ms;
- `device_busy`, fraction of time in which the device is busy while jobs wait: at least 0.95;
- `wait_ratio_max`, fairness: waiting time of a job, divided by the number of jobs ahead of it at
  its arrival and by the mean time per job: at most 1.5.
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

from bench.record import Record, add_option  # noqa: E402 - after the path is set
from bench.server import (  # noqa: E402
    HEALTH_PROBE,
    Server,
    draw_picture,
    png,
    summarize_probe,
)
from trellis2_server.engines.preview import PreviewEngine  # noqa: E402

if TYPE_CHECKING:
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Shape
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report

FIELDS: Final = {"decimation_target": 2000, "texture_size": 256, "texture": False}


class PacedEngine(PreviewEngine):
    """The preview engine with a shape step of a given duration; describes its busy time.

    Args:
        stage_s: duration of the shape step, seconds.
    """

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
    jobs: list[tuple[float, float]] = []  # begin and end, seconds
    pictures = [base64.b64encode(png(draw_picture(seed, 96))).decode() for seed in range(clients)]

    def request_models(client: int) -> None:
        seed = client * 100_000
        while not stop.is_set():
            seed += 1
            begin = time.monotonic()
            body = {**FIELDS, "image": pictures[client], "seed": seed}
            status, _, content = server.request("POST", "/generate", body)
            if status != 200:
                raise SystemExit(f"/generate replied {status}: {content[:200]!r}")
            jobs.append((begin, time.monotonic()))

    threads = [
        threading.Thread(target=request_models, args=(k,), daemon=True) for k in range(clients)
    ]
    for thread in threads:
        thread.start()
        stop.wait(0.05)  # one after the other, so that the order of arrival is known
    begin, busy = time.monotonic(), details(server)["busy_s"]
    probe = subprocess.run(
        [sys.executable, "-c", HEALTH_PROBE, str(server.port), str(seconds)],
        check=True,
        capture_output=True,
    )
    end, busy_end = time.monotonic(), details(server)["busy_s"]
    stop.set()
    for thread in threads:
        thread.join(120)
    job_s = (end - begin) / sum(1 for _, done in jobs if begin <= done <= end)
    waits: list[tuple[int, float]] = []
    for arrival, done in jobs:
        if begin <= arrival <= end:
            ahead = sum(1 for other, until in jobs if other < arrival < until)
            waits.append((ahead, (done - arrival - job_s) / (max(ahead, 1) * job_s)))
    return {
        "clients": clients,
        "jobs": len(waits),
        "job_s": job_s,
        "ahead_mean": sum(ahead for ahead, _ in waits) / len(waits),
        "device_busy": (busy_end - busy) / (end - begin),
        "wait_ratio_max": max(ratio for _, ratio in waits),
        **summarize_probe(probe.stdout),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--clients", type=int, default=50, help="number of clients (50)")
    parser.add_argument("--seconds", type=float, default=60, help="duration (60)")
    parser.add_argument(
        "--stage", type=float, default=0.2, help="duration of a shape step, seconds (0.2)"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--host", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.host, arguments.port, arguments.stage)
        return
    record = Record(__file__, arguments)
    script = str(Path(__file__).resolve())
    server = Server([sys.executable, script, "--serve", "--stage", str(arguments.stage)])
    try:
        server.wait_for_health((200,))
        result = measure(server, arguments.clients, arguments.seconds)
    finally:
        server.stop()
    record.add("load", result)
    for key, value in result.items():
        print(f"{key:16} {value:.3f}" if isinstance(value, float) else f"{key:16} {value}")


if __name__ == "__main__":
    main()
