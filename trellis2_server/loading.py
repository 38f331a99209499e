"""`Loading`: brings the engine onto its device, and says how that goes.

What this module does not know: jobs, HTTP, which engine it is.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Literal

from trellis2_server import pipeline
from trellis2_server.errors import LoadingError, ServerError
from trellis2_server.threads import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.pipeline import Engine
    from trellis2_server.threads import Threads

logger = logging.getLogger(__name__)


class Loading:
    """How loading the engine goes.

    Attributes:
        status: "loading", "ok" or "error".
        stage: what is being loaded; empty at the end.
        fraction: 0 … 1 of that.
        error: why it failed.
        seconds: how long it took.
        is_given_up: set to unwind it at its next report.
    """

    def __init__(self, engine: Engine, threads: Threads, clock: Callable[[], float]) -> None:
        self.status: Literal["loading", "ok", "error"] = "loading"
        self.stage = ""
        self.fraction = 0.0
        self.error: str | None = None
        self.seconds: float | None = None
        self.is_given_up = False
        self._engine = engine
        self._threads = threads
        self._clock = clock

    def check(self) -> None:
        """Pass where the engine serves.

        Raises:
            LoadingError: it does not yet, or never will.
        """
        if self.status == "loading":
            raise LoadingError("the model is loading", retry_after_s=5)
        if self.status == "error":
            raise LoadingError(f"the model could not be loaded: {self.error}", retry_after_s=60)

    async def load(self) -> None:
        """Load the engine; the lane is free from then on, unless that failed."""
        begin = self._clock()
        logger.info("Loading the engine", extra={"engine": self._engine.name})
        try:
            await self._threads.on_lane("load", partial(pipeline.load, self._engine, self._report))
        except (ServerError, Stopped) as error:
            self.status, self.error = "error", str(error)
            logger.error("The engine could not be loaded: %s", error)  # noqa: TRY400 - logged where it arose
            return
        self.seconds = self._clock() - begin
        self.status, self.stage = "ok", ""
        logger.info("Ready", extra={"engine": self._engine.name, "seconds": round(self.seconds, 2)})
        self._threads.lane_is_busy = False

    def _report(self, stage: str, step: int, steps: int) -> None:
        self.stage, self.fraction = stage, step / max(steps, 1)
        if self.is_given_up:
            raise Stopped
