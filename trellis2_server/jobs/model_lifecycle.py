"""`ModelLifecycle`: brings the engine onto its device and off it, and knows what it leaves there.

The first load may take long, for what it downloads. Later ones happen between two stages:
when the engine was unloaded because nobody needed it, after so many jobs, or because the
device's memory grew.

What this module does not know: jobs, HTTP, which engine it is.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from trellis2_server.errors import EngineBrokenError, LoadingError, ServerError
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.threads import ThreadPools
    from trellis2_server.settings import Settings

logger = logging.getLogger(__name__)

_MB: Final = 1_000_000


class ModelLifecycle:
    """Where the engine is.

    Attributes:
        status: "loading" at first, then "ok" or "error".
        stage: what is being loaded; empty at the end.
        fraction: 0 … 1 of that.
        error: why it failed.
        seconds: how long it took the last time.
        is_resident: whether the engine is on its device.
        is_reloading: whether it is on its way there once more.
        memory: the device's, as the engine said after its last stage or load.
        is_given_up: set to unwind a load at its next report.
    """

    def __init__(
        self,
        executor: Executor,
        threads: ThreadPools,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self.status: Literal["loading", "ok", "error"] = "loading"
        self.stage = ""
        self.fraction = 0.0
        self.error: str | None = None
        self.seconds: float | None = None
        self.is_resident = False
        self.is_reloading = False
        self.memory: Mapping[str, int] = {}
        self.is_given_up = False
        self._executor = executor
        self._threads = threads
        self._recycle_after = settings.worker.recycle_after_jobs
        max_growth_mb = settings.worker.max_vram_growth_mb
        self._max_growth = None if max_growth_mb is None else max_growth_mb * _MB
        self._clock = clock
        self._began = 0.0
        self._jobs = 0
        self._has_grown = False
        self._levels: dict[str, int] = {}
        self._loaded_level: int | None = None

    def check(self) -> None:
        """Pass where the engine serves.

        Raises:
            LoadingError: it does not yet, or never will.
        """
        if self.status == "loading":
            raise LoadingError("the model is loading", retry_after_s=5)
        if self.status == "error":
            raise LoadingError(f"the model could not be loaded: {self.error}", retry_after_s=60)

    @property
    def is_due(self) -> bool:
        """Whether the engine is to be loaded anew before its next stage."""
        is_old = self._recycle_after is not None and self._jobs >= self._recycle_after
        return self.is_resident and (is_old or self._has_grown)

    @property
    def seconds_left(self) -> float:
        """Until the engine can work, by how long it took the last time; 0: it can."""
        if self.is_resident:
            return 0.0
        seconds = self.seconds or 0.0
        return max(0.0, seconds - (self._clock() - self._began)) if self.is_reloading else seconds

    async def load(self) -> None:
        """Load the engine for the first time; the lane is free from then on, if that worked.

        Raises:
            EngineBrokenError: only a new process helps.
        """
        logger.info("Loading the engine", extra={"engine": self._executor.name})
        try:
            await self._on_device("load", self._load, is_timed=False)
        except (ServerError, StepCancelled) as error:
            self._threads.device_is_held = True  # and stays so: there is nothing to work with
            self.status, self.error = "error", str(error)
            logger.error("The engine could not be loaded: %s", error)  # noqa: TRY400 - logged where it arose
            if isinstance(error, EngineBrokenError):
                raise
            return
        self.status = "ok"

    async def reload(self) -> None:
        """Load the engine again, after unloading it where it is still there.

        Raises:
            EngineError: that failed, or the device's memory is not given back.
        """
        logger.info("Loading the engine again", extra={"engine": self._executor.name})
        was_resident, self.is_resident = self.is_resident, False
        self.is_reloading = True
        try:
            await self._on_device("load", partial(self._reload, was_resident))
        finally:
            self.is_reloading = False
        used, level = self.memory.get("used", 0), self._loaded_level or 0
        if self._max_growth is not None and used > level + self._max_growth:
            raise EngineBrokenError(
                f"the device's memory is not given back: {used // _MB} MB are in use after "
                f"loading again, {level // _MB} MB were after the first load"
            )

    async def unload(self) -> None:
        """Take the engine off its device until it is needed.

        Raises:
            EngineError: that failed.
        """
        self.is_resident = False
        await self._threads.on_device("unload", self._executor.unload)
        self.memory = {}
        logger.info("Unloaded the engine, which is idle", extra={"engine": self._executor.name})

    async def _on_device(
        self, what: str, call: Callable[[], Any], *, is_timed: bool = True
    ) -> None:
        self._began = self._clock()
        memory = await self._threads.on_device(what, call, is_timed=is_timed)
        self.seconds = self._clock() - self._began
        self.stage, self.is_resident = "", True
        self.memory = memory
        self._jobs, self._has_grown = 0, False
        self._levels.clear()
        if self._loaded_level is None:
            self._loaded_level = memory.get("used")
        logger.info(
            "Ready", extra={"engine": self._executor.name, "seconds": round(self.seconds, 2)}
        )

    def _load(self) -> Mapping[str, int]:
        self._executor.load(self._report)
        return self._executor.device_memory()

    def _reload(self, was_resident: bool) -> Mapping[str, int]:  # noqa: FBT001 - for an executor
        if was_resident:
            self._executor.unload()
        return self._load()

    def _report(self, stage: str, step: int, steps: int) -> None:
        self.stage, self.fraction = stage, step / max(steps, 1)
        if self.is_given_up:
            raise StepCancelled

    # ---- what stages leave behind -----------------------------------------------------------

    def note_job(self) -> None:
        """A job that the engine worked on has ended."""
        self._jobs += 1

    def watched(self, step: str, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call of a stage; the device's memory is noted after it, on the event loop.

        A coroutine function's is not: it is elsewhere.
        """
        if inspect.iscoroutinefunction(call):
            return call
        loop = asyncio.get_running_loop()

        def watch() -> Any:
            try:
                return call()
            finally:
                try:
                    memory = self._executor.device_memory()
                except Exception:
                    logger.exception("The device's memory cannot be told")
                else:
                    with suppress(RuntimeError):  # the loop has closed
                        loop.call_soon_threadsafe(partial(self._note, step, memory))

        return watch

    def _note(self, step: str, memory: Mapping[str, int]) -> None:
        self.memory = memory
        used = memory.get("used")
        if used is None:
            return
        # What stays on the device after a stage is another amount for each.
        growth = used - self._levels.setdefault(step, used)
        if self._max_growth is not None and growth > self._max_growth:
            logger.warning(
                "The device's memory has grown", extra={"step": step, "growth_mb": growth // _MB}
            )
            self._has_grown = True
