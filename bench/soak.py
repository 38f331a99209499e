"""Run mixed traffic, including faulty clients, for any length of time.

    python bench/soak.py --minutes 20 [--json FILE]

Correct clients generate models, with and without textures, synchronously and asynchronously,
from pictures and meshes, export and convert them, follow jobs, ask for jobs that are about to age
out, cancel or delete some of them, and read parts of files. Faulty clients send garbage, wrong keys
and incomplete requests, disconnect at any time, and hold connections open; decoders are killed.
Each reply is compared with the statuses that are allowed for its request: an error among them is
counted as explained. Any other reply is an unexplained error; there must be none. Memory, file
descriptors and threads of the server's process, and the number and memory of its children, are
sampled each second after a warm-up: the medians of the first and last tenth, and the slope per
hour. Meanwhile another process requests `/healthcheck` continuously.

Routes that the server does not have are omitted and listed in `left_out`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set
from bench.server import (  # noqa: E402
    HEALTH_PROBE,
    HOST,
    Server,
    serving,
    summarize_probe,
)
from bench.soak_client import KEYS, Client  # noqa: E402
from bench.soak_models import ModelClient  # noqa: E402
from bench.soak_process import sample, summarize  # noqa: E402

CONFIG: Final = {
    "model": {"engine": "preview", "background": "none"},
    "export": {"glb_decimation_target": 2000, "glb_texture_size": 256},
    "server": {
        "api_keys": list(KEYS),
        "log_level": "error",
        "max_body_bytes": 2_000_000,
        "transfer_timeout_seconds": 3,
        "max_connections": 200,
    },
    "worker": {
        "max_queue_length": 30,
        "job_max_age_seconds": 10,
        "job_cleanup_interval_seconds": 1,
        "texture_timeout_seconds": 60,
    },
}
#: Routes that are used if the server has them.
OPTIONAL_ROUTES: Final = {
    "/jobs", "/jobs/{name}", "/jobs/{name}/{file_name}", "/jobs/{name}/export", "/events/{name}",
}  # fmt: skip


def routes_of(server: Server) -> set[str]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/openapi.json", headers={"X-API-Key": KEYS[0]})
        return set(json.loads(connection.getresponse().read())["paths"])


def wait_until_idle(server: Server) -> None:
    """Wait until no job is left and idle connections are closed."""
    threading.Event().wait(5)
    client = Client(server, 0, set())
    while json.loads(client.request("GET", "/worker_status").content)["queue_length"]:
        threading.Event().wait(0.2)


def soak(server: Server, minutes: float, clients: int) -> dict[str, Any]:
    seconds = 60 * minutes
    warm_s = min(120.0, seconds / 4)
    begin = time.monotonic()
    routes = routes_of(server)
    done: Counter[str] = Counter()
    unexplained: list[str] = []

    all_clients = [ModelClient(server, number, routes) for number in range(clients)]

    def run(client: Client) -> None:
        kinds = client.behaviours()
        while time.monotonic() - begin < seconds:
            kind = client.random.choice(kinds)
            try:
                kind()
            except Exception as error:  # noqa: BLE001 - any of them is a finding
                unexplained.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            done[kind.__name__] += 1

    threads = [threading.Thread(target=run, args=(client,)) for client in all_clients]
    for thread in threads:
        thread.start()
    threading.Event().wait(warm_s)
    samples: list[tuple[float, dict[str, float]]] = []
    with subprocess.Popen(
        [sys.executable, "-c", HEALTH_PROBE, str(server.port), str(seconds - warm_s)],
        stdout=subprocess.PIPE,
    ) as probe:
        while any(thread.is_alive() for thread in threads):
            samples.append((time.monotonic() - begin, sample(server.process.pid)))
            threading.Event().wait(1)
        health = summarize_probe(probe.communicate()[0])
    busy = [(at, each) for at, each in samples if at <= seconds]
    result: dict[str, Any] = {"minutes": minutes, "clients": clients, "left_out": []}
    result["left_out"] = sorted(OPTIONAL_ROUTES - routes)
    result |= summarize(busy)
    wait_until_idle(server)
    result |= {f"{name}_idle": value for name, value in sample(server.process.pid).items()}
    result |= health
    result["requests"] = dict(sorted(done.items()))
    explained = sum((client.explained for client in all_clients), Counter[str]())
    result["explained"] = dict(sorted(explained.items()))
    result["unexplained"] = len(unexplained)
    result["examples"] = unexplained[:10]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="duration (20)")
    parser.add_argument("--clients", type=int, default=16, help="number of clients (16)")
    add_option(parser)
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    with serving(CONFIG) as server:
        server.wait_for_health((200,))
        result = soak(server, arguments.minutes, arguments.clients)
    record.add("soak", result)
    for key, value in result.items():
        print(f"{key:22} {value:.1f}" if isinstance(value, float) else f"{key:22} {value}")
    return int(result["unexplained"] > 0)


if __name__ == "__main__":
    sys.exit(main())
