"""`BackgroundModel`: a model that finds the object in a photograph.

Loaded once, on first use, on a thread of its own; callers wait for it in a bounded time.

Does not know: how the mask is used, jobs, how models are opened, in which process they run.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future, TimeoutError  # noqa: A004 - not the builtin before 3.11
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, cast

from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.fetch_state import FetchState
from trellis2_server.inputs.background.fetcher import ModelFetcher
from trellis2_server.inputs.background.opening import open_model
from trellis2_server.inputs.background.rembg_session import configured_threads, load_rembg
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from trellis2_server.inputs.background.prefetch import Prefetch
    from trellis2_server.reports import Check

logger = logging.getLogger(__name__)

#: Time until a failed load is tried again, in seconds.
RETRY_AFTER_S: Final = 600.0
#: Maximum time between two calls of a check, in seconds.
_CHECK_INTERVAL_S: Final = 0.05


class Session(Protocol):
    """A model that is loaded. Called by one thread at a time, except for `close`."""

    def mask(self, rgb: NDArray[np.uint8], check: Check) -> NDArray[np.uint8]:
        """Find the object in a picture.

        Args:
            rgb: uint8 [H, W, 3].
            check: ends the call by raising.

        Returns:
            uint8 [H, W].

        Raises:
            SessionLostError: the model is not loaded any more.
            EngineError: the model failed on this picture.
        """
        ...

    def close(self) -> None:
        """Free the model; a call that runs fails."""
        ...


class SessionLostError(EngineError):
    """A model is not loaded any more, and could not be loaded again. The next call tries anew."""


def open_here(name: str, *, offline: bool = False) -> Session:
    """Open a model of rembg in this process, which imports rembg and onnxruntime.

    Args:
        name: the model's name.
        offline: whether files that are missing or damaged are an error instead of a download.

    Raises:
        MissingPackageError: `rembg` or `onnxruntime` is not installed.
        EngineError: the model cannot be loaded or fetched.
    """
    load = partial(load_rembg, threads=configured_threads())
    return open_model(name, load, ModelFetcher().fetch, offline=offline)


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
        timeout_s: how long callers wait for the load, download included, in seconds after the
            first call. The load continues after that, and later calls use the model.
        clock: monotonic time, in seconds.
        open_session: opens a model by its name; by default in this process.
        stop_opening: makes an `open_session` that runs fail soon.
        prefetch: fetches its files before a picture needs them; None: nothing does.
    """

    def __init__(  # noqa: PLR0913 - the parts of a model that others own
        self,
        name: str = "isnet-general-use",
        *,
        timeout_s: float = 120,
        clock: Callable[[], float] = time.monotonic,
        open_session: Callable[[str], Session] = open_here,
        stop_opening: Callable[[], None] = no_check,
        prefetch: Prefetch | None = None,
    ) -> None:
        self._name = name
        self._open_session = open_session
        self._stop_opening = stop_opening
        self._prefetch = prefetch
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._attempt: _LoadAttempt | None = None
        self._is_closed = False
        self._predicting = threading.Lock()

    def mask(
        self, rgb: NDArray[np.uint8], *, wait: bool, check: Check = no_check
    ) -> NDArray[np.uint8]:
        """Find the object in a picture.

        Args:
            rgb: uint8 [H, W, 3].
            wait: whether to wait for a model that is loading.
            check: ends the call by raising, also while another picture has its turn.

        Returns:
            uint8 [H, W], 255 where the model is sure of the object.

        Raises:
            ModelPending: the model is loading, and `wait` is false.
            EngineError: the model is not available, or failed on this picture.
        """
        attempt, session = self._session(wait=wait, check=check)
        # One run uses all cores, and up to 2 GB.
        while not self._predicting.acquire(timeout=_CHECK_INTERVAL_S):
            check()
        try:
            return session.mask(rgb, check)
        except SessionLostError:
            with self._lock:
                if self._attempt is attempt:
                    self._attempt = None
            raise
        finally:
            self._predicting.release()

    def prefetch(self) -> None:
        """Begin to fetch the files of the model in the background, without loading it."""
        if self._prefetch is not None:
            self._prefetch.start(self._forget_failure)

    def state(self) -> FetchState | None:
        """Return how far the model is; None: nothing was done for it."""
        attempt = self._attempt
        if attempt is not None and attempt.done.done():
            if attempt.session is not None:
                return FetchState(self._name, "loaded")
            if attempt.error is not None:
                return FetchState(self._name, "failed", error=str(attempt.error))
        return self._prefetch.state if self._prefetch is not None else None

    def _forget_failure(self) -> None:
        """Load the model at the next picture: what was missing before may be there now."""
        with self._lock:
            if self._attempt is not None and self._attempt.error is not None:
                self._attempt = None

    def close(self) -> None:
        """Free the model. What loads or runs fails soon, as does every later call."""
        with self._lock:
            self._is_closed = True
            attempt = self._attempt
        if self._prefetch is not None:
            self._prefetch.close()
        self._stop_opening()
        if attempt is not None and attempt.session is not None:
            attempt.session.close()

    def _session(self, *, wait: bool, check: Check) -> tuple[_LoadAttempt, Session]:
        with self._lock:
            if self._is_closed:
                raise EngineError(f"the background model {self._name} is closed")
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
        until = time.monotonic() + left_s
        while not attempt.done.done():
            check()
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise EngineError(
                    f"the background model {self._name} was not ready within {self._timeout_s:g} s"
                )
            with suppress(TimeoutError):
                attempt.done.result(min(left_s, _CHECK_INTERVAL_S))
        if attempt.session is not None:
            return attempt, attempt.session
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
            with self._lock:
                is_closed = self._is_closed
            if is_closed:
                if attempt.session is not None:
                    attempt.session.close()
            elif attempt.session is not None:
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
