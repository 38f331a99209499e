"""The models that find the object in a photograph: rembg's, loaded once and in a bounded time.

What this module does not know: what is done with the mask, jobs. It imports `rembg` when a model
is first loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import sys
import threading
from concurrent.futures import Future, TimeoutError  # noqa: A004 - not the builtin before 3.11
from contextlib import contextmanager
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np

from trellis2_server.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray
    from PIL import Image

logger = logging.getLogger(__name__)

#: How long a background model that could not be had is not asked for again.
RETRY_AFTER_S: Final = 600.0

_INSTALL: Final = 'pip install "rembg[cpu]"'
#: What only rembg's alpha matting needs, which is not used here.
_MATTING: Final = "pymatting"


class Session(Protocol):
    """The part of a session of `rembg` that is used here."""

    def predict(self, img: Image.Image) -> Sequence[Image.Image]:
        """Masks in mode L, of the picture's size."""
        ...


class ModelPending(Exception):  # noqa: N818 - no error: asks to be called again
    """A background model is on its way, and the caller did not want to wait for it.

    Attributes:
        loaded: done when there is no more to wait for, well or badly; its result is None.
        timeout_s: for how long to wait for that at most, before calling again.
    """

    def __init__(self, loaded: Future[None], timeout_s: float) -> None:
        super().__init__("a background model is being loaded")
        self.loaded = loaded
        self.timeout_s = timeout_s


class _Attempt:
    """One try at loading the model; written by its thread, read after `over` is done."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.over: Future[None] = Future()
        self.session: Session | None = None
        self.error: EngineError | None = None
        self.retry_at = math.inf


class BackgroundModel:
    """A background model that is loaded once, on first use, in a bounded time."""

    def __init__(
        self,
        name: str,
        open_session: Callable[[str], Session],
        *,
        timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._open_session = open_session
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._attempt: _Attempt | None = None
        self._predicting = threading.Lock()

    def mask(self, picture: Image.Image, *, wait: bool) -> NDArray[np.uint8]:
        """Where the model sees the object in an RGB picture, uint8 [H, W].

        Raises:
            ModelPending: not `wait`, and the model is being loaded.
            EngineError: the model cannot be had, or failed on this picture.
        """
        session = self._session(wait=wait)
        try:
            with self._predicting:  # one run takes all cores, and up to 2 GB
                masks = session.predict(picture)
            # A clothes model gives a mask for each garment; their union is the object.
            return np.max([np.asarray(mask.convert("L")) for mask in masks], axis=0)
        except Exception as error:
            logger.exception("Background model failed", extra={"model": self._name})
            raise EngineError(
                f"the background model {self._name} failed ({type(error).__name__})"
            ) from error

    def _session(self, *, wait: bool) -> Session:
        with self._lock:
            attempt = self._attempt
            if attempt is None or (attempt.over.done() and self._clock() >= attempt.retry_at):
                attempt = self._attempt = _Attempt(self._clock() + self._timeout_s)
                # A daemon: a download that hangs must not keep the process from leaving.
                threading.Thread(
                    target=self._load, args=(attempt,), name="background-model", daemon=True
                ).start()
        left_s = max(0.0, attempt.deadline - self._clock())
        if not wait and left_s and not attempt.over.done():
            raise ModelPending(attempt.over, left_s)
        try:
            attempt.over.result(left_s)
        except TimeoutError:
            raise EngineError(
                f"the background model {self._name} was not ready within {self._timeout_s:g} s"
            ) from None
        if attempt.session is not None:
            return attempt.session
        # Raised anew: one exception object must not collect the tracebacks of many threads.
        error = cast("EngineError", attempt.error)
        raise type(error)(str(error)) from error.__cause__

    def _load(self, attempt: _Attempt) -> None:
        started = self._clock()
        try:
            attempt.session = self._open_session(self._name)
        except EngineError as error:
            attempt.error = error
        except BaseException as error:  # noqa: BLE001 - rembg calls sys.exit when it lacks onnxruntime
            attempt.error = EngineError(
                f"the background model {self._name} could not be had ({type(error).__name__})"
            )
            attempt.error.__cause__ = error
        finally:
            now = self._clock()
            if attempt.session is not None:
                logger.info(
                    "Background model loaded",
                    extra={"model": self._name, "seconds": round(now - started, 3)},
                )
            else:
                attempt.retry_at = now + RETRY_AFTER_S
                cause = attempt.error.__cause__ if attempt.error else None
                logger.warning(
                    "Background model cannot be had",
                    extra={
                        "model": self._name,
                        "retry_after_s": RETRY_AFTER_S,
                        "cause": repr(cause or attempt.error),
                    },
                    # Of no network there is nothing more to say; of a broken install there is.
                    exc_info=None if isinstance(cause, OSError) else cause,
                )
            attempt.over.set_result(None)


def open_rembg(name: str, *, offline: bool) -> Session:
    """A session of `rembg`; downloads the model where it is not there and `offline` is not set.

    Raises:
        MissingPackageError: `rembg` or `onnxruntime` is not installed.
        EngineError: no such model, one that runs elsewhere, or offline and not there.
    """
    for package in ("rembg", "onnxruntime"):  # rembg prints and exits where the second is missing
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"{package} is not installed ({_INSTALL})")
    kinds = _import_rembg().sessions_class
    kind = next((kind for kind in kinds if kind.name() == name), None)
    if kind is None:
        raise EngineError(f"rembg has no background model {name!r}")
    if hasattr(kind, "is_local") and not kind.is_local():
        raise EngineError(f"the background model {name} would send the pictures to a service")
    if offline and not _is_downloaded(kind, name):
        raise EngineError(f"the background model {name} is not on this machine, which is offline")
    _silence_pooch()
    options = importlib.import_module("onnxruntime").SessionOptions()
    # Its idle threads would spin on the cores that the engine and the exporter need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        options.intra_op_num_threads = int(threads)
    # `rembg.new_session` takes options only in some versions, its classes in all.
    return cast("Session", kind(name, options))


def _is_downloaded(kind: Any, name: str) -> bool:
    file_name = f"{name}.onnx"
    if hasattr(kind, "resolve_existing"):  # newer versions of rembg keep a folder per model
        return kind.resolve_existing(file_name) is not None
    return Path(kind.u2net_home(), file_name).exists()


def _silence_pooch() -> None:
    """Keep the download's progress bar and banner off stderr: that is where the log goes."""
    importlib.import_module("pooch").get_logger().setLevel(logging.WARNING)
    downloaders: Any = importlib.import_module("pooch.downloaders")
    bar: object = getattr(downloaders, "tqdm", None)
    if callable(bar) and not isinstance(bar, partial):
        downloaders.tqdm = partial(bar, disable=True)


# ---- importing rembg ---------------------------------------------------------------------


def _import_rembg() -> Any:
    """Its sessions. PyMatting, which it imports, is imported when something of it is called.

    PyMatting compiles loops as it is imported: once in each installation, and for most of a
    minute.
    """
    with _put_off(_MATTING):
        return importlib.import_module("rembg.sessions")


@contextmanager
def _put_off(package: str) -> Generator[None]:
    """Modules of that package are imported by those within when something of them is called."""
    if package in sys.modules:
        yield
        return
    finder = _PuttingOff(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _PutOff):
                del sys.modules[name]


class _PutOff(ModuleType):
    """A module of which every name is a function that imports the real one when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(_call, self.__name__, name)


def _call(module: str, function: str, *args: Any, **named: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*args, **named)


class _PuttingOff(MetaPathFinder, Loader):
    """Gives such modules for a package and all in it."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """One of that package's, whether or not there is such a module."""
        del path, target
        if fullname.partition(".")[0] != self._package:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty one."""
        return _PutOff(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""
