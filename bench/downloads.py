"""Measure what downloads and conversions cost other clients, with the preview engine.

    python bench/downloads.py [--json FILE]
    python bench/downloads.py --against CHECKOUT   measure another checkout in the same run, too

Measurements:

- memory: growth of the server's resident set while 100 clients have begun to download one file of
  a folder (`worker.result_dir`) and read no further;
- latency: from the request to the untextured model of one client, alone, and while another client
  requests `textured.obj` of a finished job in 40 loops, every other time with HEAD.

The loops run in a process of their own.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set
from bench.server import HOST, draw_picture, png  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS: Final = 100
LOOPS: Final = 40
PICTURES: Final = 15
KEYS: Final = ("alice-has-a-long-key", "bob-has-a-long-key-too")
#: A file of some megabytes.
LARGE: Final = {"decimation_target": 200_000, "texture_size": 2048, "texture_format": "png"}
SMALL: Final = {"decimation_target": 5000, "texture_size": 256, "texture": False}


class Server:
    """A server of a checkout, in a process of its own."""

    def __init__(self, checkout: Path, folder: Path, **sections: dict[str, Any]) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        sections["model"] = {"engine": "preview"}
        sections["server"] = {"log_level": "error", **sections.get("server", {})}
        config = folder / "config.json"
        config.write_text(json.dumps(sections), encoding="utf-8")
        command = [sys.executable, "api_server_trellis2.py", "--config", str(config)]
        self.process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(self.port)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, key: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=600)
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", "X-API-Key": key}
            connection.request(method, path, content, headers)
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return reply.status, found, reply.read()

    def generate(self, seed: int, key: str = "", **fields: Any) -> str:
        """Return the uid of a new job, when its model is there."""
        image = base64.b64encode(png(draw_picture(seed, 512))).decode()
        status, headers, body = self.request("POST", "/generate", {"image": image, **fields}, key)
        if status != 200:
            raise SystemExit(f"/generate replied {status}: {body[:300]!r}")
        return headers["x-job-id"]

    def wait(self) -> None:
        """Wait until the engine is loaded."""
        pause, end = threading.Event(), time.monotonic() + 300
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/healthcheck")[0] == 200:
                    return
            pause.wait(0.05)
        raise SystemExit("the server did not start in time")

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@contextlib.contextmanager
def serving(checkout: Path, **sections: dict[str, Any]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(checkout, Path(folder), **sections)
        try:
            server.wait()
            yield server
        finally:
            server.process.terminate()
            server.process.wait(60)


def measure_memory(checkout: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as results, contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(checkout, worker={"result_dir": results}))
        path = f"/jobs/{server.generate(1, texture=True, **LARGE)}/textured.glb"
        size = len(server.request("GET", path)[2])
        before = server.resident_mb()
        head = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            client.connect((HOST, server.port))
            client.sendall(head)
            client.settimeout(60)
            client.recv(12)
        server.request("GET", "/healthcheck")
        growth = server.resident_mb() - before
        return {"file_mb": size / 2**20, "slow_downloads": CLIENTS, "growth_mb": growth}


#: Requests a path in loops until standard input ends. Arguments: port, path, key, loops.
LOOPS_OF_REQUESTS: Final = """
import http.client, sys, threading
port, path, key, loops = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
stop, counts = threading.Event(), {}
def loop(at):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    while not stop.is_set():
        at += 1
        connection.request("HEAD" if at % 2 else "GET", path, headers={"X-API-Key": key})
        reply = connection.getresponse()
        reply.read()
        counts[reply.status] = counts.get(reply.status, 0) + 1
        if reply.status == 429:
            stop.wait(0.1)
threads = [threading.Thread(target=loop, args=(at,)) for at in range(loops)]
for thread in threads:
    thread.start()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(counts)
"""


def latencies(server: Server, first_seed: int) -> dict[str, float]:
    seconds: list[float] = []
    for seed in range(first_seed, first_seed + PICTURES):
        begin = time.monotonic()
        server.generate(seed, KEYS[1], **SMALL)
        seconds.append(time.monotonic() - begin)
    return {"median_s": statistics.median(seconds), "max_s": max(seconds)}


def measure_latency(checkout: Path) -> dict[str, Any]:
    with serving(checkout, server={"api_keys": list(KEYS)}) as server:
        uid = server.generate(1, KEYS[0], texture=True, **LARGE)
        server.generate(2, KEYS[1], **SMALL)  # warm up
        alone = latencies(server, 100)
        command = [sys.executable, "-c", LOOPS_OF_REQUESTS, str(server.port)]
        loops = subprocess.Popen(
            [*command, f"/jobs/{uid}/textured.obj", KEYS[0], str(LOOPS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Event().wait(2)  # until all of them have begun
        beside = latencies(server, 200)
        replies, _ = loops.communicate()
        return {"alone": alone, "beside_40_loops": beside, "replies_of_the_loops": replies.strip()}


def measure(checkout: Path) -> dict[str, Any]:
    return {"memory": measure_memory(checkout), "latency": measure_latency(checkout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_option(parser)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout")
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    checkouts = {"this": ROOT}
    if arguments.against:
        checkouts["against"] = arguments.against.resolve()
    for name, checkout in checkouts.items():
        for what, figures in measure(checkout).items():
            record.add(what, {"checkout": name} | figures)
            for key, value in figures.items():
                print(f"{name:8} {what:8} {key:22} {value}")


if __name__ == "__main__":
    main()
