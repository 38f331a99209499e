"""`BackgroundModel`: a model that finds the object in a photograph.

Loaded once, on first use, on a thread of its own; callers wait for it in a bounded time.

Does not know: how the mask is used, jobs, how models are opened.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future, TimeoutError  # noqa: A004 - not the builtin before 3.11
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.rembg_session import open_rembg

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from PIL import Image

    from trellis2_server.inputs.background.rembg_session import Session

logger = logging.getLogger(__name__)

#: Time until a failed load is tried again, in seconds.
RETRY_AFTER_S: Final = 600.0


class ModelPending(Exception):  # noqa: N818 - not an error: asks the caller to call again
    """A background model is loading, and the caller did not want to wait.

    Attributes:
        loaded: done when the load ended, in success or failure; the result is None.
        timeout_s: maximum time to wait for `loaded` before calling again, in seconds.
    """

    def __init__(self, loaded: Future[None], timeout_s: float) -> None:
        super().__init__("a background model is being loaded")
        self.loaded = loaded
        self.timeout_s = timeout_s


class _LoadAttempt:
    """One attempt to load the model; written by its thread, read after `done` is set."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.done: Future[None] = Future()
        self.session: Session | None = None
        self.error: EngineError | None = None
        self.retry_at = math.inf


class BackgroundModel:
    """A background model, loaded once on first use. Thread-safe.

    Args:
        name: a model name of rembg.
        offline: whether a model that is not on this machine is an error. Otherwise it is
            downloaded.
        timeout_s: how long callers wait for the load, download included, in seconds after the
            first call. The load continues after that, and later calls use the model.
        clock: monotonic time, in seconds.
        open_session: opens a model by its name; None for rembg's models.
    """

    def __init__(
        self,
        name: str = "isnet-general-use",
        *,
        offline: bool = False,
        timeout_s: float = 120,
        clock: Callable[[], float] = time.monotonic,
        open_session: Callable[[str], Session] | None = None,
    ) -> None:
        self._name = name
        self._open_session = open_session or partial(open_rembg, offline=offline)
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._attempt: _LoadAttempt | None = None
        self._predicting = threading.Lock()

    def mask(self, picture: Image.Image, *, wait: bool) -> NDArray[np.uint8]:
        """Find the object in an RGB picture.

        Args:
            picture: mode RGB.
            wait: whether to wait for a model that is loading.

        Returns:
            uint8 [H, W], 255 where the model is sure of the object.

        Raises:
            ModelPending: the model is loading, and `wait` is false.
            EngineError: the model is not available, or failed on this picture.
        """
        session = self._session(wait=wait)
        try:
            with self._predicting:  # one run uses all cores, and up to 2 GB
                masks = session.predict(picture)
            # A model for clothes returns a mask for each garment; their union is the object.
            return np.max([np.asarray(mask.convert("L")) for mask in masks], axis=0)
        except Exception as error:
            logger.exception("Background model failed", extra={"model": self._name})
            raise EngineError(
                f"the background model {self._name} failed ({type(error).__name__})"
            ) from error

    def _session(self, *, wait: bool) -> Session:
        with self._lock:
            attempt = self._attempt
            if attempt is None or (attempt.done.done() and self._clock() >= attempt.retry_at):
                attempt = self._attempt = _LoadAttempt(self._clock() + self._timeout_s)
                # A daemon thread, because a hanging download must not keep the process alive.
                threading.Thread(
                    target=self._load, args=(attempt,), name="background-model", daemon=True
                ).start()
        left_s = max(0.0, attempt.deadline - self._clock())
        if not wait and left_s and not attempt.done.done():
            raise ModelPending(attempt.done, left_s)
        try:
            attempt.done.result(left_s)
        except TimeoutError:
            raise EngineError(
                f"the background model {self._name} was not ready within {self._timeout_s:g} s"
            ) from None
        if attempt.session is not None:
            return attempt.session
        # A copy: one exception object would collect the tracebacks of many threads.
        error = cast("EngineError", attempt.error)
        raise type(error)(str(error)) from error.__cause__

    def _load(self, attempt: _LoadAttempt) -> None:
        started = self._clock()
        try:
            attempt.session = self._open_session(self._name)
        except EngineError as error:
            attempt.error = error
        except BaseException as error:  # noqa: BLE001 - rembg calls sys.exit without onnxruntime
            attempt.error = EngineError(
                f"the background model {self._name} could not be loaded ({type(error).__name__})"
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
                self._log_failure(attempt.error)
            attempt.done.set_result(None)

    def _log_failure(self, error: EngineError | None) -> None:
        cause = error.__cause__ if error else None
        logger.warning(
            "Background model not available",
            extra={
                "model": self._name,
                "retry_after_s": RETRY_AFTER_S,
                "cause": repr(cause or error),
            },
            # A broken install needs its traceback; a missing network does not.
            exc_info=None if isinstance(cause, OSError) else cause,
        )
