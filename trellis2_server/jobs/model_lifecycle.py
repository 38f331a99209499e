"""`ModelLifecycle`: loads the engine onto its device, unloads it, and watches its memory.

The first load may take long, because weights are downloaded. The engine is loaded again between
two steps: after it was unloaded, after a number of jobs, or because the device's memory grew.

Does not know: jobs, HTTP, which engine it is.
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
#: Kinds of device memory that may grow, and where that memory is.
_WATCHED: Final = {"used": " besides weights", "outside": " outside of the engine's allocator"}


class ModelLifecycle:
    """State of the engine.

    Args:
        executor: loads and unloads.
        threads: the device thread.
        settings: when the engine is loaded again.
        clock: monotonic seconds.

    Attributes:
        status: "loading" at first, then "ok" or "error".
        stage: what is being loaded; empty: nothing.
        fraction: loaded part of that, 0 … 1.
        error: why the first load failed; None: it did not.
        seconds: duration of the last load, seconds.
        is_resident: whether the engine is on its device.
        is_reloading: whether it is being loaded again.
        memory: of the device after the last step or load, bytes by kind.
        is_stopped: set at shutdown; a load stops at its next report.
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
        self.is_stopped = False
        self._executor = executor
        self._threads = threads
        self._recycle_after = settings.worker.recycle_after_jobs
        max_growth_mb = settings.worker.max_vram_growth_mb
        self._max_growth = None if max_growth_mb is None else max_growth_mb * _MB
        self._clock = clock
        self._began = 0.0
        self._jobs = 0
        self._has_grown = False
        self._levels: dict[tuple[str, str], int] = {}
        self._loaded_levels: dict[str, int] | None = None

    def check(self) -> None:
        """Return if the engine has been loaded once.

        Raises:
            LoadingError: it is being loaded, or that failed.
        """
        if self.status == "loading":
            raise LoadingError("the model is loading", retry_after_s=5)
        if self.status == "error":
            raise LoadingError(f"the model could not be loaded: {self.error}", retry_after_s=60)

    @property
    def is_due(self) -> bool:
        """Whether the engine is to be loaded again before the next step."""
        is_old = self._recycle_after is not None and self._jobs >= self._recycle_after
        return self.is_resident and (is_old or self._has_grown)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds until the engine is loaded, by the last load; 0: it is."""
        if self.is_resident:
            return 0.0
        seconds = self.seconds or 0.0
        return max(0.0, seconds - (self._clock() - self._began)) if self.is_reloading else seconds

    async def load(self) -> None:
        """Load the engine for the first time; the device thread takes steps from then on.

        Raises:
            EngineBrokenError: only a new process helps.
        """
        logger.info("Loading the engine", extra={"engine": self._executor.name})
        try:
            await self._on_device("load", self._load, is_timed=False)
        except (ServerError, StepCancelled) as error:
            self._threads.device_is_reserved = True  # for good: there is no engine
            self.status, self.error = "error", str(error)
            logger.error("The engine could not be loaded: %s", error)  # noqa: TRY400 - logged where it arose
            if isinstance(error, EngineBrokenError):
                raise
            return
        self.status = "ok"

    async def reload(self) -> None:
        """Load the engine again; unload it before if it is loaded.

        Raises:
            EngineError: that failed, or device memory is still in use afterwards.
        """
        logger.info("Loading the engine again", extra={"engine": self._executor.name})
        was_resident, self.is_resident = self.is_resident, False
        self.is_reloading = True
        try:
            await self._on_device("load", partial(self._reload, was_resident))
        finally:
            self.is_reloading = False
        memory = _watched(self.memory)
        for kind, where in _WATCHED.items():
            used, level = memory.get(kind, 0), (self._loaded_levels or {}).get(kind, 0)
            if self._max_growth is not None and used > level + self._max_growth:
                raise EngineBrokenError(
                    f"the device's memory is not freed: {used // _MB} MB are in use{where} after "
                    f"loading again, {level // _MB} MB were after the first load"
                )

    async def unload(self) -> None:
        """Unload the engine until it is needed.

        Raises:
            EngineError: that failed.
        """
        self.is_resident = False
        await self._threads.run_on_device("unload", self._executor.unload)
        self.memory = {}
        logger.info("Unloaded the engine, which is idle", extra={"engine": self._executor.name})

    async def _on_device(
        self, what: str, call: Callable[[], Any], *, is_timed: bool = True
    ) -> None:
        self._began = self._clock()
        memory = await self._threads.run_on_device(what, call, is_timed=is_timed)
        self.seconds = self._clock() - self._began
        self.stage, self.is_resident = "", True
        self.memory = memory
        self._jobs, self._has_grown = 0, False
        self._levels.clear()
        if self._loaded_levels is None:
            self._loaded_levels = _watched(memory)
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
        if self.is_stopped:
            raise StepCancelled

    # ---- device memory ----------------------------------------------------------------------

    def note_job(self) -> None:
        """Count a job that the engine has worked on."""
        self._jobs += 1

    def watched(self, step: str, call: Callable[[], Any]) -> Callable[[], Any]:
        """Wrap the call of a device step, so that the memory after it is recorded.

        A coroutine function is returned as it is: its device is elsewhere.
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
                    logger.exception("The device memory cannot be read")
                else:
                    with suppress(RuntimeError):  # the loop is closed
                        loop.call_soon_threadsafe(partial(self._note, step, memory))

        return watch

    def _note(self, step: str, memory: Mapping[str, int]) -> None:
        self.memory = memory
        for kind, size in _watched(memory).items():
            # Each step leaves a different amount on the device.
            growth = size - self._levels.setdefault((step, kind), size)
            if self._max_growth is not None and growth > self._max_growth:
                logger.warning(
                    "The device memory has grown",
                    extra={"step": step, "kind": kind, "growth_mb": growth // _MB},
                )
                self._has_grown = True


def _watched(memory: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each kind that may not grow.

    Weights do not count: an engine may move them, and return them when memory allows.
    """
    watched = {kind: memory[kind] for kind in _WATCHED if kind in memory}
    if "used" in watched:
        watched["used"] -= memory.get("weights", 0)
    return watched
