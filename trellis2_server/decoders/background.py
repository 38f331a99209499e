"""A background model in a process of its own: rembg and onnxruntime do not run in the server's.

`background_model` makes the `BackgroundModel` of a server.

Does not know: how a model is loaded, how its masks are used.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.decoders.limits import DecoderLimits
from trellis2_server.decoders.objects import pixels
from trellis2_server.decoders.process import DecoderEndedError, DecoderProcess
from trellis2_server.decoders.transport import CHECK_INTERVAL_S
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.fetcher import ModelFetcher
from trellis2_server.inputs.background.model import BackgroundModel, SessionLostError
from trellis2_server.inputs.background.model_files import FileProblem, model_folders
from trellis2_server.inputs.background.opening import open_model, problem_error
from trellis2_server.inputs.background.prefetch import Prefetch
from trellis2_server.inputs.background.rembg_session import configured_threads
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray
    from typing_extensions import Self

    from trellis2_server.decoders.pool import DecoderPool
    from trellis2_server.decoders.process import Decoded, Reason
    from trellis2_server.reports import Check
    from trellis2_server.settings import ModelSettings

    NoteEnd = Callable[[Reason, str, str], None]

#: The table of tasks of a process that holds a model.
TASKS: Final = "trellis2_server.decoders.background_tasks:TASKS"
#: Time to import packages, and to check and load a model of up to 1 GB, seconds.
LOAD_TIMEOUT_S: Final = 600.0
#: Time for one picture, seconds. It does not depend on the picture.
PREDICTION_TIMEOUT_S: Final = 180.0
#: Address space until a model is loaded, bytes; then the process lowers it.
_MEMORY_BYTES: Final = 2**36
#: How often something is tried whose process ends, which may have other reasons than the picture.
_ATTEMPTS: Final = 2
#: How long `close` waits for a call that it ended, seconds.
_CLOSE_TIMEOUT_S: Final = 5.0


def background_model(settings: ModelSettings, decoders: DecoderPool) -> BackgroundModel:
    """Return the background model of a server; its process starts on first use.

    Args:
        settings: name of the model, and whether the machine is offline.
        decoders: count the ends of the process among those of decoders.
    """
    fetcher = ModelFetcher()
    name, offline = settings.background_model, settings.offline
    process = ModelProcess(offline=offline, fetcher=fetcher, note_end=decoders.note_end)
    return BackgroundModel(
        name,
        open_session=process.open,
        stop_opening=process.close,
        prefetch=Prefetch(name, fetcher, offline=offline),
    )


def start_model_process(tasks: str = TASKS) -> DecoderProcess:
    """Start a process that can hold a model.

    Args:
        tasks: table of its tasks.

    Raises:
        OSError: it cannot be started.
    """
    cores = os.cpu_count() or 1
    limits = DecoderLimits(
        _MEMORY_BYTES,
        PREDICTION_TIMEOUT_S,
        threads=cores,
        folders=tuple(model_folders()),
        is_kept=True,
    )
    return DecoderProcess(limits, tasks=tasks)


def _ignore_end(reason: Reason, task: str, text: str) -> None:
    del reason, task, text


class ModelProcess:
    """A background model in a process; the `Session` of a `BackgroundModel`. Thread-safe.

    When the process ends, the picture that it worked on is tried once more, in a new process.

    Args:
        offline: whether files that are missing or damaged are an error instead of a download.
        start: starts a process, whose tasks are those of `background_tasks`.
        fetcher: fetches the files of the model.
        note_end: called with the reason, the task and a text when the process ends in a call.
    """

    def __init__(
        self,
        *,
        offline: bool,
        start: Callable[[], DecoderProcess] = start_model_process,
        fetcher: ModelFetcher | None = None,
        note_end: NoteEnd = _ignore_end,
    ) -> None:
        self._offline = offline
        self._start = start
        self._fetcher = fetcher or ModelFetcher()
        self._note_end = note_end
        self._name = ""
        self._turn = threading.Lock()
        self._changing = threading.Lock()
        self._process: DecoderProcess | None = None
        self._is_loaded = False
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Process ID; None while there is no process."""
        process = self._process
        return None if process is None else process.pid

    def open(self, name: str) -> Self:
        """Load a model, and have its files fetched before if they are missing or damaged.

        Raises:
            MissingPackageError: `rembg` or `onnxruntime` is not installed.
            EngineError: the model cannot be loaded or fetched.
        """
        self._name = name
        with self._take_turn(no_check):
            return open_model(name, self._load, self._fetcher.fetch, offline=self._offline)

    def mask(self, rgb: NDArray[np.uint8], check: Check) -> NDArray[np.uint8]:
        """Find the object in a picture.

        If the check raises, a prediction that runs ends nevertheless: loading the model again for
        the next picture takes longer than a prediction, which is the same work for any picture.

        Raises:
            SessionLostError: the process had ended, and the model cannot be loaded again.
            EngineError: the model failed on this picture, or ended its process twice.
        """
        height, width = rgb.shape[:2]
        arguments: dict[str, object] = {"height": height, "width": width}
        with self._take_turn(check):
            for is_last in (False, True):
                check()
                process = self._loaded_process()
                try:
                    found = self._call(
                        process, "find_object", pixels(rgb), arguments, PREDICTION_TIMEOUT_S
                    )
                except DecoderEndedError as error:
                    if is_last or error.reason != "crash" or self._is_closed:
                        raise EngineError(f"the background model {self._name} {error}") from error
                else:
                    mask = found.arrays.get("mask")
                    if mask is None or mask.dtype != np.uint8 or mask.shape != (height, width):
                        raise EngineError(f"the background model {self._name} gave no mask")
                    check()
                    return mask
        raise AssertionError  # not reached

    def close(self) -> None:
        """End the process and a download; calls that run fail, as do later ones."""
        self._fetcher.close()
        with self._changing:
            self._is_closed = True
            if self._process is not None:
                self._process.stop()  # the thread of its call frees the rest
        if self._turn.acquire(timeout=_CLOSE_TIMEOUT_S):
            self._drop()
            self._turn.release()

    @contextmanager
    def _take_turn(self, check: Check) -> Generator[None]:
        while not self._turn.acquire(timeout=CHECK_INTERVAL_S):
            check()
        try:
            yield
        finally:
            self._turn.release()

    def _loaded_process(self) -> DecoderProcess:
        """Return the process with its model; load the model again if the process has ended."""
        process = self._process
        if process is None or not self._is_loaded or not process.is_alive:
            try:
                loaded = self._load(self._name)
            except EngineError as error:
                raise SessionLostError(str(error)) from error
            if isinstance(loaded, FileProblem):
                error = problem_error(self._name, loaded, offline=self._offline)
                raise SessionLostError(str(error))
            process = self._process
        if process is None:
            raise SessionLostError(f"the background model {self._name} is closed")
        return process

    def _load(self, name: str) -> Self | FileProblem:
        arguments: dict[str, object] = {"name": name, "threads": configured_threads()}
        for attempt in range(1, _ATTEMPTS + 1):
            process = self._start_process()
            try:
                done = self._call(process, "load_model", b"", arguments, LOAD_TIMEOUT_S)
            except DecoderEndedError as error:
                if attempt == _ATTEMPTS or error.reason != "crash" or self._is_closed:
                    raise EngineError(f"loading the background model {name} {error}") from error
                continue
            except BaseException:
                self._drop()
                raise
            problem = done.meta.get("problem")
            if problem is None:
                self._is_loaded = True
                return self
            self._drop()
            try:
                return FileProblem.from_json(problem)
            except ValueError as error:
                raise EngineError(f"loading the background model {name} failed") from error
        raise AssertionError  # not reached

    def _call(
        self,
        process: DecoderProcess,
        task: str,
        content: bytes | memoryview,
        arguments: dict[str, object],
        timeout_s: float,
    ) -> Decoded:
        try:
            return process.call(
                task,
                content,
                arguments,
                timeout_s=timeout_s,
                result_bytes=len(content),  # a mask is smaller than its picture
            )
        except DecoderEndedError as error:
            if not self._is_closed:
                self._note_end(error.reason, task, str(error))
            raise
        finally:
            if process.is_spent:
                self._drop()

    def _start_process(self) -> DecoderProcess:
        self._drop()
        with self._changing:
            if self._is_closed:
                raise EngineError(f"the background model {self._name} is closed")
            try:
                self._process = self._start()
            except OSError as error:
                raise EngineError(
                    f"no process could be started for the background model {self._name}"
                ) from error
            return self._process

    def _drop(self) -> None:
        """End the process, if there is one."""
        with self._changing:
            process, self._process, self._is_loaded = self._process, None, False
        if process is not None:
            process.kill()
