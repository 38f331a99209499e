"""Measure the server over HTTP, with the preview engine.

    python bench/server.py [--json FILE]

Measurements:

- start: from the start of the process to the first reply of `/healthcheck` and to `ok`, with
  cold and warm compilation caches;
- latency: from the request to the untextured and to the textured GLB of each picture, with
  50,000 faces and a texture of 1024 x 1024 pixels;
- similarity: front view of the textured model against the cut-out (PSNR inside the mask, IoU);
- responsiveness: duration of `/healthcheck` while four jobs are in progress, compared with an
  application that runs its steps inside request handlers (`blocking`);
- memory: resident set size after the 20th and the 200th of 200 different pictures.

Pictures come from `--images FOLDER`, from `../shared/images` if it exists, or are drawn.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
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

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image, ImageDraw

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set
from bench.render import front_view_match  # noqa: E402
from trellis2_server import pipeline  # noqa: E402
from trellis2_server.inputs.images import Cutter  # noqa: E402
from trellis2_server.parameters import read_options  # noqa: E402
from trellis2_server.settings import ModelSettings, Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST: Final = "127.0.0.1"
FIELDS: Final = {"decimation_target": 50_000, "texture_size": 1024}
IMAGE_KINDS: Final = {".webp", ".png"}


# ---- server process --------------------------------------------------------------------


class Server:
    """A server process on a free port."""

    def __init__(self, command: list[str], *, environment: dict[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(self.port)],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=600)
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            headers = {name.lower(): value for name, value in reply.getheaders()}
            return reply.status, headers, reply.read()

    def wait_for_health(self, statuses: tuple[int, ...], *, limit_s: float = 180) -> float:
        """Return the time from the start until `/healthcheck` replies so, seconds."""
        pause = threading.Event()
        while time.monotonic() - self.begin < limit_s:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/healthcheck")[0] in statuses:
                    return time.monotonic() - self.begin
            pause.wait(0.02)
        raise SystemExit("the server did not start in time")

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextlib.contextmanager
def serving(config: dict[str, Any], **environment: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        server = Server(
            [sys.executable, "api_server_trellis2.py", "--config", str(file)],
            environment=environment,
        )
        try:
            yield server
        finally:
            server.stop()


PREVIEW: Final = {"model": {"engine": "preview"}, "server": {"log_level": "error"}}


# ---- pictures ----------------------------------------------------------------------------


def draw_picture(seed: int, size_px: int = 1024) -> Image.Image:
    """Draw a few overlapping coloured ellipses on transparency; each seed gives another picture."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGBA", (size_px, size_px))
    draw = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y = random.uniform(0.25, 0.75, 2) * size_px
        w, h = random.uniform(0.08, 0.24, 2) * size_px
        colour = tuple(int(c) for c in random.integers(30, 230, 3))
        draw.ellipse((x - w, y - h, x + w, y + h), fill=(*colour, 255))
    return picture


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def read_pictures(folder: Path | None) -> list[tuple[str, bytes]]:
    """Return names and PNGs of cut-out pictures, 1024 px on the longer side."""
    if folder is None:
        return [(f"drawn {seed}", png(draw_picture(seed))) for seed in range(4)]
    found: list[tuple[str, bytes]] = []
    for file in sorted(folder.iterdir()):
        if file.suffix in IMAGE_KINDS:
            picture = Image.open(file).convert("RGBA")
            scale = 1024 / max(picture.size)
            size = tuple(round(edge * scale) for edge in picture.size)
            found.append((file.stem, png(picture.resize(size, Image.Resampling.LANCZOS))))
    return found


def generate(server: Server, picture: bytes, **fields: Any) -> tuple[dict[str, str], bytes]:
    body = {"image": base64.b64encode(picture).decode(), **FIELDS, **fields}
    status, headers, glb = server.request("POST", "/generate", body)
    if status != 200:
        raise SystemExit(f"/generate replied {status}: {glb[:300]!r}")
    return headers, glb


# ---- measurements ------------------------------------------------------------------------


def measure_start() -> dict[str, float]:
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("cold", "warm"):
            with serving(PREVIEW, NUMBA_CACHE_DIR=cache) as server:
                result[f"first_reply_{kind}_s"] = server.wait_for_health((200, 503))
                result[f"ok_{kind}_s"] = server.wait_for_health((200,))
    return result


def measure_models(server: Server, images: list[tuple[str, bytes]]) -> dict[str, Any]:
    cutter = Cutter(background="none")
    rows: list[dict[str, Any]] = []
    generate(server, png(draw_picture(10**6)), texture=True)  # warm up
    for name, picture in images:
        begin = time.monotonic()
        headers, _ = generate(server, picture)
        untextured = time.monotonic() - begin
        status, _, glb = server.request(
            "POST", "/generate_texture", {"image_hash": headers["x-image-hash"]}
        )
        textured = time.monotonic() - begin
        if status != 200:
            raise SystemExit(f"/generate_texture replied {status}: {glb[:300]!r}")
        psnr, iou = front_view_match(glb, cutter.cut_out(picture).rgba)
        rows.append(
            {
                "picture": name,
                "untextured_s": untextured,
                "textured_s": textured,
                "psnr_db": psnr,
                "iou": iou,
            }
        )

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    return {
        "pictures": rows,
        "untextured_s": statistics.median(column("untextured_s")),
        "untextured_max_s": max(column("untextured_s")),
        "textured_s": statistics.median(column("textured_s")),
        "textured_max_s": max(column("textured_s")),
        "psnr_db": statistics.mean(column("psnr_db")),
        "iou": statistics.mean(column("iou")),
    }


#: Requests `/healthcheck` repeatedly. Arguments: port, seconds. Prints durations in seconds.
HEALTH_PROBE: Final = """
import http.client, json, sys, threading, time
port, seconds = int(sys.argv[1]), float(sys.argv[2])
end, durations, pause = time.monotonic() + seconds, [], threading.Event()
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
while time.monotonic() < end:
    begin = time.monotonic()
    connection.request("GET", "/healthcheck")
    connection.getresponse().read()
    durations.append(time.monotonic() - begin)
    pause.wait(0.01)
print(json.dumps(durations))
"""


def measure_health(
    server: Server, first_seed: int, *, jobs: int = 4, seconds: float = 12
) -> dict[str, float]:
    """Measure the duration of `/healthcheck` while `jobs` clients request models."""
    stop = threading.Event()
    done = [0] * jobs

    def request_models(k: int) -> None:
        while not stop.is_set():
            generate(server, png(draw_picture(first_seed + k + jobs * done[k], 512)), texture=True)
            done[k] += 1

    threads = [threading.Thread(target=request_models, args=(k,)) for k in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        stop.wait(1.0)
        probe = subprocess.run(
            [sys.executable, "-c", HEALTH_PROBE, str(server.port), str(seconds)],
            check=True,
            capture_output=True,
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return {**summarize_probe(probe.stdout), "jobs_meanwhile": sum(done)}


def summarize_probe(output: bytes) -> dict[str, float]:
    """Return percentiles of the durations that `HEALTH_PROBE` has printed."""
    durations = sorted(json.loads(output))
    return {
        "health_p50_ms": 1e3 * durations[len(durations) // 2],
        "health_p99_ms": 1e3 * durations[min(int(0.99 * len(durations)), len(durations) - 1)],
        "health_max_ms": 1e3 * durations[-1],
        "health_samples": len(durations),
    }


def measure_memory(server: Server, jobs: int) -> dict[str, float]:
    early = 0.0
    for k in range(jobs):
        generate(server, png(draw_picture(50_000 + k, 512)), texture=True, texture_size=512)
        if k == 19:
            early = server.resident_mb()
    late = server.resident_mb()
    return {"rss_20_mb": early, "rss_end_mb": late, "rss_growth": late / early - 1, "jobs": jobs}


def serve_blocking(host: str, port: int) -> None:
    """Serve the same engine and exporter from request handlers, for comparison."""
    engine, _ = pipeline.choose_engine(Settings(model=ModelSettings(engine="preview")))
    pipeline.load(engine, lambda *_: None)
    app = FastAPI()
    cutter = Cutter()

    @app.get("/healthcheck")
    async def healthcheck() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/generate")
    async def generate(request: Request) -> Response:
        fields = await request.json()
        cutout = cutter.cut_out(base64.b64decode(fields.pop("image")))
        options = read_options(fields, Settings())
        *_, glb = pipeline.make_model(engine, cutout, options, Settings().export, lambda *_: None)
        return Response(glb)

    uvicorn.run(app, host=host, port=port, log_level="error")


def measure_blocking() -> dict[str, float]:
    server = Server([sys.executable, str(Path(__file__).resolve()), "--serve-blocking"])
    try:
        server.wait_for_health((200,))
        return {f"blocking_{k}": v for k, v in measure_health(server, 900_000).items()}
    finally:
        server.stop()


# ---- command line ------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--images", type=Path, help="folder of cut-out pictures (PNG, WebP)")
    parser.add_argument(
        "--jobs", type=int, default=200, help="pictures for the memory measurement (200)"
    )
    parser.add_argument("--serve-blocking", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--host", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_blocking:
        serve_blocking(arguments.host, arguments.port)
        return
    record = Record(__file__, arguments)
    shared = ROOT.parent / "shared" / "images"
    folder = arguments.images or (shared if shared.is_dir() else None)
    result: dict[str, Any] = measure_start()
    with serving(PREVIEW) as server:
        server.wait_for_health((200,))
        result |= measure_models(server, read_pictures(folder))
        result |= measure_health(server, 100_000)
    result |= measure_blocking()
    result["health_p99_ratio"] = result["blocking_health_p99_ms"] / result["health_p99_ms"]
    short_lived = {
        **PREVIEW,
        "worker": {"job_max_age_seconds": 0.01, "job_cleanup_interval_seconds": 0.1},
    }
    with serving(short_lived) as server:
        server.wait_for_health((200,))
        result |= measure_memory(server, arguments.jobs)
    for row in result.pop("pictures"):
        record.add("pictures", row)
        print(
            "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v:14}" for k, v in row.items())
        )
    record.add("server", result)
    for key, value in result.items():
        print(f"{key:28} {value:.3f}" if isinstance(value, float) else f"{key:28} {value}")


if __name__ == "__main__":
    main()
