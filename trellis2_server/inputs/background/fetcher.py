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
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, Final, cast

from trellis2_server.child_processes import import_path
from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background.fetch_state import FetchState
from trellis2_server.inputs.background.model_files import MODEL_VARIABLES, FileProblem

if TYPE_CHECKING:
    from collections.abc import Callable

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


def _ignore(state: FetchState) -> None:
    """Do nothing: nobody follows the fetch."""
    del state


class ModelFetcher:
    """Runs the processes that fetch models, one at a time. Thread-safe.

    Who calls `fetch` while another thread fetches waits for it, and finds its files.

    Args:
        timeout_s: time after which a process is killed, seconds.
        on_state: called with each new state, on the thread that fetches.

    Attributes:
        state: how far the last fetch is; None: there was none.
    """

    def __init__(
        self, timeout_s: float = FETCH_TIMEOUT_S, on_state: Callable[[FetchState], None] = _ignore
    ) -> None:
        self.state: FetchState | None = None
        self._timeout_s = timeout_s
        self._on_state = on_state
        self._turn = threading.Lock()
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
        with self._turn:
            self._run(name, ["--reload"] if reload else [])
            self._note(replace(self.state or FetchState(name, "ready"), state="ready"))

    def inspect(self, name: str) -> FileProblem | None:
        """Return what is wrong with the files of a model, as far as hashes show it.

        Raises:
            MissingPackageError: `rembg` or `onnxruntime` is not installed.
            EngineError: rembg has no such model.
        """
        with self._turn:
            problem = self._run(name, ["--inspect"]).get("problem")
            if not problem:
                self._note(FetchState(name, "ready"))
                return None
        return FileProblem.from_json(problem)

    def note_failure(self, name: str, error: str) -> None:
        """Note that the model is not available."""
        self._note(FetchState(name, "failed", error=error))

    def close(self) -> None:
        """End what runs; every later call fails."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
        for process in running:
            _stop(process)

    def _note(self, state: FetchState) -> None:
        self.state = state
        self._on_state(state)

    def _run(self, name: str, arguments: list[str]) -> dict[str, Any]:
        self._note(FetchState(name, "checking"))
        try:
            return self._answer(name, arguments)
        except EngineError as error:
            self.note_failure(name, str(error))
            raise

    def _answer(self, name: str, arguments: list[str]) -> dict[str, Any]:
        """Run the program; return its last line, and note the progress in the others."""
        failed = f"the background model {name} could not be fetched"
        last: dict[str, Any] | None = None
        process = self._start([name, *arguments], failed)
        has_timed_out = threading.Event()

        def time_out() -> None:
            has_timed_out.set()
            _stop(process)

        timer = threading.Timer(self._timeout_s, time_out)
        timer.daemon = True
        timer.start()
        try:
            for line in cast("IO[bytes]", process.stdout):
                last = _read_line(line)
                if last is not None and "done" in last:
                    done, total = last["done"], last["total"]
                    self._note(FetchState(name, "fetching", last["file"], done, total))
        finally:
            timer.cancel()
            with self._lock:
                self._running.discard(process)
            _stop(process)
            cast("IO[bytes]", process.stdout).close()
        if has_timed_out.is_set():
            raise EngineError(f"{failed} within {self._timeout_s:g} s")
        if last is None or "done" in last:
            raise EngineError(f"{failed}: its process ended early")
        if "error" in last:
            kind = MissingPackageError if last["kind"] == "MissingPackageError" else EngineError
            raise kind(last["error"])
        return last

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


def _read_line(line: bytes) -> dict[str, Any] | None:
    """Return a line of the program; None: it was cut short."""
    try:
        return json.loads(line)
    except ValueError:
        return None


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
