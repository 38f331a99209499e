"""The server over HTTP on the device: three jobs at once, and `/healthcheck` meanwhile.

Another process asks, so that the client takes no time of the server's interpreter.

Does not know: how models are made.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from PIL import Image, ImageDraw

from trellis2_server.api.app import create_app
from trellis2_server.api.connections import uvicorn_config
from trellis2_server.engines.trellis2 import Trellis2Engine
from trellis2_server.inputs.images import Cutter
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from trellis2_server.settings import ModelSettings

KINDS: Final = ("512", "1024_cascade", "1024")
_LOADED_WITHIN_S: Final = 120.0
_ENDED_WITHIN_S: Final = 120.0
#: Less than the time that a part which is cut off has to end.
_LEFT_WITHIN_S: Final = 5.0
_CLIENT: Final = Path(__file__).resolve().parent.parent / "health_client.py"


def measure(model: ModelSettings, steps: int) -> dict[str, Any]:
    """Serve the checkpoint of the settings; return the latencies and the jobs' seconds.

    Args:
        model: names the checkpoint.
        steps: of each sampler.

    Raises:
        RuntimeError: the server does not load, or a job fails.
    """
    settings = Settings(model=model)
    app = create_app(settings, Trellis2Engine(model), Cutter(background="none"))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    port = listener.getsockname()[1]
    config = uvicorn_config(app, settings.server)
    config.lifespan, config.timeout_graceful_shutdown = "on", 5
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="server", daemon=True)
    thread.start()
    try:
        _wait_until_loaded(port)
        return _load(port, steps)
    finally:
        server.should_exit = True
        thread.join(_LEFT_WITHIN_S)


def _load(port: int, steps: int) -> dict[str, Any]:
    _generate(port, "512", 100, steps)  # the first job warms up
    idle_ms = _latencies(port, lambda: threading.Event().wait(1.0))
    seconds: dict[str, float] = {}
    errors: list[str] = []

    def one(number: int, kind: str) -> None:
        began = time.perf_counter()
        try:
            _generate(port, kind, number, steps)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            errors.append(f"{kind}: {error}")
        seconds[kind] = time.perf_counter() - began

    def all_at_once() -> None:
        jobs = [threading.Thread(target=one, args=job) for job in enumerate(KINDS)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()

    busy_ms = _latencies(port, all_at_once)
    if errors:
        raise RuntimeError("; ".join(errors))
    return {
        "jobs_s": max(seconds.values()),
        "replies": len(busy_ms),
        "healthcheck_p50_ms": quantile(busy_ms, 0.5),
        "healthcheck_p99_ms": quantile(busy_ms, 0.99),
        "healthcheck_max_ms": max(busy_ms),
        "idle_p99_ms": quantile(idle_ms, 0.99),
    }


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _latencies(port: int, work: Any) -> list[float]:
    """Milliseconds of each reply of `/healthcheck` while some work runs."""
    client = subprocess.Popen(
        [sys.executable, str(_CLIENT), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    client.stdout.readline()  # it has begun
    try:
        work()
    finally:
        output, _ = client.communicate("")
    found = json.loads(output)
    if not found:
        raise RuntimeError("no reply of /healthcheck")
    return found


def _generate(port: int, kind: str, shade: int, steps: int) -> None:
    """Make a textured model and wait for it."""
    image = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(image).ellipse((8, 12, 118, 112), fill=(shade * 2, 90, 200, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    fields = {
        "image": base64.b64encode(file.getvalue()).decode(),
        "pipeline_type": kind,
        "seed": 1,
        "texture": True,
        "texture_size": 512,
        "decimation_target": 20_000,
        **{f"{stage}_sampling_steps": steps for stage in ("ss", "shape", "tex")},
    }
    status, body = _request(port, "POST", "/generate", fields, _ENDED_WITHIN_S)
    if status != http.HTTPStatus.OK:
        raise RuntimeError(f"/generate: {status}: {body[:200]!r}")


def _request(
    port: int, method: str, path: str, fields: dict[str, Any] | None, timeout_s: float
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        body = None if fields is None else json.dumps(fields)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _wait_until_loaded(port: int) -> None:
    pause, end = threading.Event(), time.monotonic() + _LOADED_WITHIN_S
    body = b""
    while time.monotonic() < end:
        status, body = _request(port, "GET", "/healthcheck", None, 10)
        if status == http.HTTPStatus.OK:
            return
        pause.wait(0.05)
    raise RuntimeError(f"the server does not load: {body[:200]!r}")
