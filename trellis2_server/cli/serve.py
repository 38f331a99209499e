"""Serving: the app in uvicorn, signals, reload, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from trellis2_server import logs, pipeline
from trellis2_server.api.app import create_app
from trellis2_server.api.connections import uvicorn_config
from trellis2_server.cli.access import access_warnings
from trellis2_server.cli.listening import open_listeners
from trellis2_server.cli.process import (
    allow_descriptors,
    leave_out_of_collections,
    limit_malloc_arenas,
)
from trellis2_server.errors import ServerError, StoreError
from trellis2_server.storage import make_store

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from fastapi import FastAPI

    from trellis2_server.api.api_keys import KeyRing
    from trellis2_server.jobs.manager import JobManager
    from trellis2_server.pipeline import Engine
    from trellis2_server.settings import Settings

    ChooseEngine = Callable[[Settings], tuple[Engine, tuple[str, ...]]]

logger = logging.getLogger(__name__)

#: sysexits.h's EX_SOFTWARE: only a new process helps, and a supervisor should start one.
EXIT_UNHEALTHY: Final = 70
_EXIT_NOT_STARTED: Final = 3


def serve(
    settings: Settings, read_settings: Callable[[], Settings], choose_engine: ChooseEngine | None
) -> int:
    """Serve until the process is told to stop; return the exit code.

    Args:
        settings: the server's settings.
        read_settings: reads them again, at a reload.
        choose_engine: returns the engine, and warnings; None: as configured.
    """
    server = settings.server
    logs.configure(server)
    limit_malloc_arenas()
    engine, warnings = (choose_engine or pipeline.choose_engine)(settings)
    settings = pipeline.with_engine_defaults(settings, engine.name)
    for warning in (*warnings, *access_warnings(server)):
        logger.warning(warning)
    store = make_store(settings.worker.result_dir)
    with contextlib.suppress(StoreError):  # the manager logs it, and works without the folder
        store.claim()
    decoders = pipeline.make_decoders(settings)
    cutter = pipeline.make_cutter(engine, settings, decoders)
    app = create_app(settings, engine, cutter, warnings, store, decoders=decoders)
    allow_descriptors(server.max_connections)
    try:
        listeners = open_listeners(server.host, server.port)
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        hint = "; choose another with --port" if is_taken else ""
        logger.error("Cannot listen on %s%s", error.strerror or error, hint)  # noqa: TRY400 - theirs
        return _EXIT_NOT_STARTED
    if settings.model.prefetches_background:
        cutter.prefetch()
    http_server = _Server(uvicorn_config(app, server), app)
    _handle_hangup(http_server, lambda: _reload(read_settings, app.state.keys))
    with contextlib.suppress(SystemExit):  # it could not start, and has logged why
        http_server.run(listeners)
    manager = _manager(app)
    code = 0 if http_server.started else _EXIT_NOT_STARTED
    if manager is not None and manager.availability.fatal_error is not None:
        code = EXIT_UNHEALTHY
    if manager is not None and not manager.is_idle:
        # A thread is in a call that cannot be interrupted; the interpreter would wait for it.
        logging.shutdown()
        os._exit(code)
    return code


def _manager(app: FastAPI) -> JobManager | None:
    """Return the app's job manager; None before its startup."""
    return getattr(app.state, "manager", None)


class _Server(uvicorn.Server):
    """uvicorn's server, which stops jobs before it waits for the requests that wait for them.

    A second signal does not wait. Unlike its base class it exits with 0: a requested stop is no
    failure.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._has_loaded = False

    def handle_exit(self, sig: int, frame: Any) -> None:
        del sig, frame
        if self.should_exit:
            logging.shutdown()
            os._exit(0)
        self.should_exit = True
        manager = _manager(self._app)
        if manager is not None:
            manager.close_soon()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._exit_when_drained = asyncio.ensure_future(self._wait_until_drained())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.connections:
            limit_s = self.config.timeout_graceful_shutdown
            logger.info("Open requests have at most %s s to end", limit_s)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Is called every 0.1 s; returns whether the server stops."""
        manager = _manager(self._app)
        if not self._has_loaded and manager and manager.lifecycle.status != "loading":
            self._has_loaded = True
            leave_out_of_collections()
        return await super().on_tick(counter)

    async def _wait_until_drained(self) -> None:
        await self._app.state.manager.is_drained.wait()
        self.should_exit = True


def _handle_hangup(server: uvicorn.Server, reload: Callable[[], None]) -> None:
    """Make SIGHUP stop a server that runs in a terminal, and reload any other."""
    if sys.platform == "win32" or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return  # Windows has none; `nohup` has it ignored
    has_terminal = sys.stdin.isatty()

    def handle(number: int, frame: Any) -> None:
        if has_terminal:  # the terminal was closed
            server.handle_exit(number, frame)
        else:  # not on the event loop, which this handler interrupts
            threading.Thread(target=reload, name="reload", daemon=True).start()

    signal.signal(signal.SIGHUP, handle)


def _reload(read_settings: Callable[[], Settings], ring: KeyRing) -> None:
    """Read the API keys and the log level again; other settings need a restart."""
    try:
        server = read_settings().server
    except ServerError as error:
        logger.error("Not reloaded: %s", error)  # noqa: TRY400 - the operator's error, not ours
        return
    logging.getLogger().setLevel(server.log_level.upper())
    if bool(server.api_keys) != bool(len(ring)):
        logger.error("Keys not reloaded: a restart is needed to begin or end the use of API keys")
        return
    ring.replace(key.get_secret_value() for key in server.api_keys)
    logger.info("Reloaded", extra={"keys": len(ring), "log_level": server.log_level})
