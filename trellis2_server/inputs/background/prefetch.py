"""`Prefetch`: has the files of a background model fetched before a picture needs them.

On a thread of its own. Where it fails it is tried again at intervals: a server may start before
its network does.

Does not know: how files are fetched, when the model is loaded.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background.opening import fetch_ahead

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.background.fetch_state import FetchState
    from trellis2_server.inputs.background.fetcher import ModelFetcher

logger = logging.getLogger(__name__)


class Prefetch:
    """Fetches the files of a model in the background. Thread-safe.

    Args:
        name: the model's name.
        fetcher: fetches its files; also for those who load the model.
        offline: whether files that are missing or damaged are an error instead of a download.
        retry_s: time until a failed fetch is tried again, seconds.
    """

    def __init__(
        self, name: str, fetcher: ModelFetcher, *, offline: bool, retry_s: float = 600.0
    ) -> None:
        self._name = name
        self._fetcher = fetcher
        self._offline = offline
        self._retry_s = retry_s
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = threading.Event()

    @property
    def state(self) -> FetchState | None:
        """How far the fetcher is; None: nothing was fetched or looked at."""
        return self._fetcher.state

    def start(self, on_ready: Callable[[], None]) -> None:
        """Begin, unless it has begun.

        Args:
            on_ready: called on the thread when the files are there.
        """
        with self._lock:
            if self._thread is not None or self._is_closed.is_set():
                return
            # A daemon thread, because a hanging download must not keep the process alive.
            self._thread = threading.Thread(
                target=self._run, args=(on_ready,), name="background-prefetch", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Try no more. A fetch that runs ends with its fetcher."""
        self._is_closed.set()

    def _run(self, on_ready: Callable[[], None]) -> None:
        while not self._is_closed.is_set():
            error = self._try()
            if error is None:
                on_ready()
                return
            if self._offline or isinstance(error, MissingPackageError):
                return
            self._is_closed.wait(self._retry_s)

    def _try(self) -> EngineError | None:
        """Fetch the files; return why that failed."""
        try:
            fetch_ahead(self._name, self._fetcher, offline=self._offline)
        except EngineError as error:
            if not self._is_closed.is_set():
                logger.warning(
                    "Background model not fetched: %s", error, extra={"model": self._name}
                )
            return error
        logger.info("Background model is on this machine", extra={"model": self._name})
        return None
