"""`ModelFetcher`: fetches the files of background models, each time in a process of its own.

The process sees nothing that a client sent. It ends with the server, and at the latest after an
hour.

Does not know: which files a model has, how they are downloaded (`fetch`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any, Final, cast

from trellis2_server.child_processes import import_path
from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background.model_files import MODEL_VARIABLES, FileProblem

_PROGRAM: Final = "trellis2_server.inputs.background.fetch"
#: Time after which a process is killed, seconds: 180 MB at 50 kB/s.
FETCH_TIMEOUT_S: Final = 3600.0
#: Time that a process has to remove what it has not finished, seconds.
_STOP_TIMEOUT_S: Final = 2.0
_VARIABLES: Final = (
    *MODEL_VARIABLES, "PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP",
    "SYSTEMROOT", "LOCALAPPDATA", "APPDATA",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy",
)  # fmt: skip


class ModelFetcher:
    """Runs the processes that fetch models. Thread-safe.

    Args:
        timeout_s: time after which a process is killed, seconds.
    """

    def __init__(self, timeout_s: float = FETCH_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False

    def fetch(self, name: str, *, reload: bool = False) -> None:
        """Fetch the files of a model that are missing or damaged.

        Args:
            name: the model's name.
            reload: whether to fetch files, too, that are there but whose hashes are not known.

        Raises:
            MissingPackageError: `rembg` or `onnxruntime` is not installed.
            EngineError: a file cannot be downloaded or written.
        """
        self._run(name, ["--reload"] if reload else [])

    def inspect(self, name: str) -> FileProblem | None:
        """Return what is wrong with the files of a model, as far as hashes show it.

        Raises:
            MissingPackageError: `rembg` or `onnxruntime` is not installed.
            EngineError: rembg has no such model.
        """
        problem = self._run(name, ["--inspect"]).get("problem")
        return FileProblem.from_json(problem) if problem else None

    def close(self) -> None:
        """End what runs; every later call fails."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
        for process in running:
            _stop(process)

    def _run(self, name: str, arguments: list[str]) -> dict[str, Any]:
        failed = f"the background model {name} could not be fetched"
        process = self._start([name, *arguments], failed)
        has_timed_out = threading.Event()

        def time_out() -> None:
            has_timed_out.set()
            _stop(process)

        timer = threading.Timer(self._timeout_s, time_out)
        timer.daemon = True
        timer.start()
        try:
            output = cast("IO[bytes]", process.stdout).read()
        finally:
            timer.cancel()
            with self._lock:
                self._running.discard(process)
            _stop(process)
            cast("IO[bytes]", process.stdout).close()
        if has_timed_out.is_set():
            raise EngineError(f"{failed} within {self._timeout_s:g} s")
        try:
            answer: dict[str, Any] = json.loads(output)
        except ValueError as error:
            raise EngineError(f"{failed}: its process ended early") from error
        if "error" in answer:
            kind = MissingPackageError if answer["kind"] == "MissingPackageError" else EngineError
            raise kind(answer["error"])
        return answer

    def _start(self, arguments: list[str], failed: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_closed:
                raise EngineError(failed)
            try:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-m", _PROGRAM, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment(),
                )
            except OSError as error:
                raise EngineError(f"{failed}: no process could be started") from error
            self._running.add(process)
            return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process: ask it first, so that it removes what it has not finished."""
    with suppress(OSError):
        cast("IO[bytes]", process.stdin).close()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """Return the variables of a process: those that say where things are, and no secrets."""
    kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return kept | import_path()
