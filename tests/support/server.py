"""A real server: uvicorn on a socket that is bound beforehand, in a thread of this process."""

from __future__ import annotations

import base64
import functools
import io
import os
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from PIL import Image, ImageDraw

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.faults import Faults
from trellis2_server.api.app import create_app
from trellis2_server.api.connections import uvicorn_config
from trellis2_server.inputs.images import Cutter
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.jobs.manager import JobManager
    from trellis2_server.pipeline import Engine

#: Whether the tests' servers run on a Ray cluster: `tests/support/ray_server.py`.
ON_RAY = os.environ.get("TRELLIS2_SERVER_TESTS_ON") == "ray"
#: Fields of a request for something small.
SMALL = {"texture_size": 256, "decimation_target": 2000}
#: Longer than the first server on a machine compiles for, beside another that does.
COMPILING_S = 240.0


@functools.cache
def picture(shade: int = 0, size: int = 64, file_format: str = "PNG") -> bytes:
    """A disc on transparency; another colour for each shade."""
    image = Image.new("RGBA", (size, size))
    colour = (shade % 256, shade // 256 % 256, 200, 255)
    ImageDraw.Draw(image).ellipse((4, 8, size - 5, size - 9), fill=colour)
    file = io.BytesIO()
    image.save(file, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    return file.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def fields(shade: int = 0, **more: Any) -> dict[str, Any]:
    """A small request's JSON."""
    return {"image": encoded(picture(shade)), "seed": 1, **SMALL, **more}


def until(is_so: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Look until something is so that no event tells of."""
    pause, end = threading.Event(), time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, f"never: {what}"
        pause.wait(0.005)


def settings(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate(sections)


class Server:
    """A server that runs.

    Attributes:
        url: without a slash at the end.
        address: host and port.
        client: without a timeout to speak of.
        faults: what goes wrong between it and its clients; nothing, by itself.
    """

    def __init__(
        self, configured: Settings, engine: Engine, cutter: Cutter | None = None, port: int = 0
    ) -> None:
        self.app = create_app(configured, engine, cutter or Cutter(background="none"), ("a note",))
        self.faults = Faults(self.app)
        # asyncio sets TCP_NODELAY only where the protocol is named: 40 ms less for each reply.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # on Windows it lets two listen at one port
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(100)
        self.address: tuple[str, int] = self._socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        config = uvicorn_config(self.faults, configured.server)
        config.lifespan, config.timeout_graceful_shutdown = "on", 5
        self.uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="server")
        self.client = httpx.Client(base_url=self.url, timeout=COMPILING_S)

    def _run(self) -> None:
        self.uvicorn.run(sockets=[self._socket])

    @property
    def manager(self) -> JobManager:
        return self.app.state.manager

    # ---- what a test waits for inside ------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self.manager.is_idle

    @property
    def subscriptions(self) -> int:
        return len(self.manager.subscriptions)

    @property
    def waiters(self) -> int:
        return sum(active.waiters for active in self.manager.active_jobs)

    @property
    def queue_length(self) -> int:
        return self.manager.scheduler.length

    def close_soon(self) -> None:
        self.manager.close_soon()

    # ---- life ------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def wait_until_loaded(self) -> None:
        def is_loaded() -> bool:
            return self.client.get("/healthcheck").is_success

        until(is_loaded, "loaded", patience_s=COMPILING_S)

    def stop(self) -> None:
        if self._thread.is_alive():
            until(lambda: hasattr(self.app.state, "manager"), "started")
            self.manager.close_soon()
            self.uvicorn.should_exit = True
            self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the server did not leave"
        self.client.close()

    # ---- what most tests ask ---------------------------------------------------------

    def generate(self, body: dict[str, Any] | None = None) -> httpx.Response:
        return self.client.post("/generate", json=fields() if body is None else body)

    def texture(self, **named: Any) -> httpx.Response:
        return self.client.post("/generate_texture", json=named)

    def status(self, name: str) -> dict[str, Any]:
        return self.client.get(f"/status/{name}").json()

    def wait_for_status(self, name: str, wanted: str) -> dict[str, Any]:
        until(lambda: self.status(name)["status"] == wanted, wanted)
        return self.status(name)


@contextmanager
def serving(
    engine: Engine,
    configured: Settings | None = None,
    cutter: Cutter | None = None,
    port: int = 0,
) -> Generator[Server]:
    """A server with that engine, not necessarily loaded; stopped at the end."""
    if ON_RAY:
        from tests.support import ray_server

        with ray_server.serving(engine, configured or Settings()) as on_ray:
            yield on_ray
        return
    server = Server(configured or Settings(), engine, cutter, port)
    server.start()
    try:
        yield server
    finally:
        if isinstance(engine, GatedEngine):
            engine.open_all()
        server.stop()
