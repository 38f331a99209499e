"""The command line: serve, check, or turn one picture into two GLBs.

What this module does not know: how any of it is done.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import importlib.metadata
import logging
import os
import platform
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server import __version__, logs
from trellis2_server.api import api_keys
from trellis2_server.errors import ServerError, StoreError
from trellis2_server.parameters import Options, read_options
from trellis2_server.settings import ServerSettings, Settings, load_settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    import uvicorn

    from trellis2_server.api.api_keys import KeyRing
    from trellis2_server.pipeline import Engine

    ChooseEngine = Callable[[Settings], tuple[Engine, tuple[str, ...]]]

logger = logging.getLogger(__name__)

#: sysexits.h's EX_SOFTWARE: only a new process helps, which a supervisor is to start.
EXIT_UNHEALTHY: Final = 70
DEFAULT_CONFIG: Final = "api_server_config_default.json"
_PACKAGES: Final = ("fastapi", "uvicorn", "numpy", "numba", "pillow", "rembg", "onnxruntime")
_BAR_WIDTH: Final = 30
#: Beside connections: libraries, models, files of jobs.
_OTHER_DESCRIPTORS: Final = 512
#: `mallopt`'s parameter, from glibc's malloc.h.
_M_ARENA_MAX: Final = -8


def main(
    arguments: Sequence[str] | None = None,
    *,
    config_folder: Path,
    choose_engine: ChooseEngine | None = None,
) -> int:
    """Do what the command line says; returns the exit code.

    Args:
        arguments: without the program's name; None takes the process' own.
        config_folder: where the configuration files lie that come with the server.
        choose_engine: gives the engine to serve with, and warnings; None: the settings' own.
    """
    asked = _parse(arguments, config_folder)
    try:
        settings = _settings(asked)
        if asked.check:
            return _check(settings, asked.config)
        if asked.image is not None:
            return _make(settings, asked.image, asked.output)
        return _serve(settings, lambda: _settings(asked), choose_engine)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the answer to a command
        return 2


def _parse(arguments: Sequence[str] | None, config_folder: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="api_server_trellis2.py",
        description="Serves TRELLIS.2's image-to-3D over HTTP: one picture in, two GLBs out.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=config_folder / DEFAULT_CONFIG,
        metavar="FILE",
        help=f"configuration file (default: {DEFAULT_CONFIG} beside the server)",
    )
    parser.add_argument("--host", help="address to listen on, over the file's server.host")
    parser.add_argument("--port", type=int, help="TCP port, over the file's server.port")
    parser.add_argument("--check", action="store_true", help="print what would be loaded, and exit")
    parser.add_argument(
        "--image", type=Path, metavar="PICTURE", help="make the models of one picture, and exit"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out"), metavar="FOLDER", help="of --image (out)"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(arguments)


def _settings(asked: argparse.Namespace) -> Settings:
    given = {"host": asked.host, "port": asked.port}
    server = {key: value for key, value in given.items() if value is not None}
    settings = load_settings(asked.config, {"server": server} if server else None)
    return api_keys.with_all_keys(settings, os.environ)


def _access_warnings(server: ServerSettings) -> list[str]:
    """What the operator should know of who can use the server."""
    warnings: list[str] = []
    if not server.api_keys and server.host not in {"127.0.0.1", "localhost", "::1"}:
        warnings.append(
            f"anybody who reaches {server.host}:{server.port} can use this server: "
            "no API keys are set"
        )
    if server.api_keys_file is not None and api_keys.is_readable_by_all(server.api_keys_file):
        warnings.append(
            f"every user of this machine can read the keys in {server.api_keys_file}: chmod 600"
        )
    return warnings


# ---- serving ---------------------------------------------------------------------------


def _serve(
    settings: Settings, read_again: Callable[[], Settings], choose_engine: ChooseEngine | None
) -> int:
    import uvicorn

    from trellis2_server import pipeline
    from trellis2_server.api.app import create_app
    from trellis2_server.api.connections import uvicorn_config
    from trellis2_server.storage import make_store

    server = settings.server
    logs.configure(server)
    _share_arenas()
    engine, warnings = (choose_engine or pipeline.choose_engine)(settings)
    for warning in (*warnings, *_access_warnings(server)):
        logger.warning(warning)
    store = make_store(settings.worker.result_dir)
    with contextlib.suppress(StoreError):  # the worker says so, and goes on without it
        store.claim()
    app = create_app(settings, engine, pipeline.make_cutter(engine, settings), warnings, store)

    class Server(uvicorn.Server):
        """Tells the worker of a stop before it waits for open requests, which wait for jobs.

        A second signal does not wait. Unlike its base it leaves with 0: a stop that was
        asked for is no failure.
        """

        def handle_exit(self, sig: int, frame: Any) -> None:
            del sig, frame
            if self.should_exit:
                logging.shutdown()
                os._exit(0)
            self.should_exit = True
            manager = getattr(app.state, "manager", None)
            if manager is not None:
                manager.close_soon()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self._leaving = asyncio.ensure_future(self._leave_when_drained())

        async def _leave_when_drained(self) -> None:
            await app.state.manager.is_drained.wait()
            self.should_exit = True

    _allow_descriptors(server.max_connections)
    http_server = Server(uvicorn_config(app, server))
    _handle_hangup(http_server, lambda: _take_again(read_again, app.state.keys))
    with contextlib.suppress(SystemExit):  # it could not listen, and has logged why
        http_server.run()
    code = 0 if http_server.started else 3
    manager = getattr(app.state, "manager", None)
    if manager is not None and manager.fault is not None:
        code = EXIT_UNHEALTHY
    if manager is not None and not manager.is_idle:
        # A thread is inside a call that cannot be interrupted; the interpreter would wait for it.
        logging.shutdown()
        os._exit(code)
    return code


def _handle_hangup(server: uvicorn.Server, reload: Callable[[], None]) -> None:
    """Have SIGHUP stop a server that somebody started in a terminal, and reload any other."""
    if sys.platform == "win32" or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return  # there is none; or `nohup` has said that it is to be ignored
    has_terminal = sys.stdin.isatty()

    def handle(number: int, frame: Any) -> None:
        if has_terminal:  # it is gone
            server.handle_exit(number, frame)
        else:  # off the event loop, which this handler interrupts
            threading.Thread(target=reload, name="reload", daemon=True).start()

    signal.signal(signal.SIGHUP, handle)


def _take_again(read_again: Callable[[], Settings], ring: KeyRing) -> None:
    """Take the keys and the log's level from where they came from; the rest needs a restart."""
    try:
        server = read_again().server
    except ServerError as error:
        logger.error("Not reloaded: %s", error)  # noqa: TRY400 - the operator's, no bug
        return
    logging.getLogger().setLevel(server.log_level.upper())
    if bool(server.api_keys) != bool(len(ring)):
        logger.error("Keys not reloaded: from none to some, or to none, takes a restart")
        return
    ring.replace(key.get_secret_value() for key in server.api_keys)
    logger.info("Reloaded", extra={"keys": len(ring), "log_level": server.log_level})


def _allow_descriptors(connections: int) -> None:
    """Let the process open what so many connections need, as far as it may allow itself."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = connections + _OTHER_DESCRIPTORS
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        if wanted < connections + _OTHER_DESCRIPTORS:
            logger.warning(
                "This process may open %d files, too few for server.max_connections", wanted
            )


def _share_arenas() -> None:
    """Keep memory flat: glibc gives every thread an arena, and each keeps what was freed in it.

    From the 20th to the 200th job the process grew by 12 % without this, by 0.1 % with.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 2)


# ---- checking ----------------------------------------------------------------------------


def _check(settings: Settings, config: Path) -> int:
    from trellis2_server.engines.trellis2 import inspect_trellis2
    from trellis2_server.pipeline import choose_engine

    # What would be logged is on the screen.
    logs.configure(settings.server.model_copy(update={"log_level": "error"}))
    engine, warnings = choose_engine(settings)
    server = settings.server
    rows = [
        ("trellis2-server", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("configuration", str(config)),
        ("engine", f"{engine.name} (asked for: {settings.model.engine})"),
        ("address", f"{server.host}:{server.port}, {len(server.api_keys)} API keys"),
        ("background", f"{settings.model.background}, model {settings.model.background_model}"),
        ("pipeline type", settings.generation.pipeline_type),
        ("faces at most", str(settings.export.glb_decimation_target)),
        ("texture size", f"{settings.export.glb_texture_size} px"),
        ("results", settings.worker.result_dir or "in memory, gone after a restart"),
        *((name, _version(name)) for name in _PACKAGES),
        *(("warning", warning) for warning in (*warnings, *_access_warnings(server))),
    ]
    for name, value in rows:
        print(f"{name:16} {value}")  # noqa: T201 - the answer to a command
    if settings.model.engine == "preview":
        return 0
    print("\nTRELLIS.2, without loading it:")  # noqa: T201
    findings = inspect_trellis2(
        settings.model,
        pipeline_type=settings.generation.pipeline_type,
        exports=settings.export.backend == "upstream",
        ask_network=not settings.model.offline,
    )
    for finding in findings:
        print(f"  {finding.level:8} {finding.what:12} {finding.text}")  # noqa: T201
    errors = sum(finding.level == "error" for finding in findings)
    verdict = f"it will not start: {errors} error(s) above" if errors else "it can be started"
    print(f"  {'=':8} {verdict}")  # noqa: T201
    return int(settings.model.engine == "trellis2" and errors > 0)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# ---- one picture -------------------------------------------------------------------------


def _make(settings: Settings, image: Path, output: Path) -> int:
    from trellis2_server import pipeline

    logs.configure(settings.server.model_copy(update={"log_level": "warning"}))
    engine, warnings = pipeline.choose_engine(settings)
    for warning in warnings:
        logger.warning(warning)
    try:
        picture = image.read_bytes()
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    options: Options = read_options({}, settings)
    bar = _Bar()
    pipeline.load(engine, bar.report, remesh=options.remesh)
    bar.report("cut out", 0, 1)
    cutter = pipeline.make_cutter(engine, settings)
    cutout = cutter.cut_out(picture, remove_background=options.remove_background)
    glbs = pipeline.make_model(engine, cutout, options, settings.export, bar.report)
    files: list[Path] = []
    for kind, glb in zip(("shape", "textured"), glbs, strict=True):
        files.append(output / f"{image.stem}_{kind}.glb")
        try:
            files[-1].write_bytes(glb)
        except OSError as error:
            bar.end()
            print(f"error: {files[-1]}: {error.strerror}", file=sys.stderr)  # noqa: T201
            return 2
    bar.end()
    for file in files:
        print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")  # noqa: T201
    print(f"engine {engine.name}, background {cutout.background}, seed {options.seed}")  # noqa: T201
    return 0


class _Bar:
    """A progress bar on a terminal's last line; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()

    def report(self, stage: str, step: int, steps: int) -> None:
        """Show how far a stage is."""
        if self._is_shown:
            done = _BAR_WIDTH * step // max(steps, 1)
            bar = "#" * done + "." * (_BAR_WIDTH - done)
            sys.stderr.write(f"\r[{bar}] {stage:20.20}")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line to what comes next."""
        if self._is_shown:
            sys.stderr.write("\r" + " " * (_BAR_WIDTH + 24) + "\r")
            sys.stderr.flush()
