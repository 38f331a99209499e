"""`EngineMaintenance`: loads the engine again and unloads it, between two steps.

Does not know: which step starts next, how the engine is loaded.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from trellis2_server.errors import EngineBrokenError, ServerError
from trellis2_server.jobs.availability import shutting_down, unhealthy
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trellis2_server.jobs.availability import Availability
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.model_lifecycle import ModelLifecycle
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.threads import ThreadPools

logger = logging.getLogger(__name__)


class EngineMaintenance:
    """Decides when the engine is loaded again or unloaded, and does so on the device thread.

    Args:
        lifecycle: loads and unloads.
        threads: the device thread, which takes no step meanwhile.
        availability: whether the process accepts work.
        endings: for fatal errors.
        idle_unload_s: idle time after which the engine is unloaded, seconds; None: never.

    Attributes:
        is_running: whether the engine is being loaded or unloaded here.
        on_change: called when maintenance has started by itself, or has ended.
    """

    def __init__(
        self,
        lifecycle: ModelLifecycle,
        threads: ThreadPools,
        availability: Availability,
        endings: JobEndings,
        idle_unload_s: float | None,
    ) -> None:
        self.is_running = False
        self.on_change: Callable[[], None] = lambda: None
        self._lifecycle = lifecycle
        self._threads = threads
        self._availability = availability
        self._endings = endings
        self._idle_unload_s = idle_unload_s
        self._idle_timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def is_engine_ready(self) -> bool:
        """Whether the engine is on its device."""
        return self._lifecycle.is_resident

    @property
    def is_reloading(self) -> bool:
        """Whether the engine is being loaded again."""
        return self._lifecycle.is_reloading

    def admit(self, active: ActiveJob, step: Step) -> bool:
        """Return whether the step can get the engine that it needs; otherwise it fails."""
        if step not in self._threads.device_steps:
            return True
        fatal_error = self._availability.fatal_error
        if fatal_error is not None:
            self._endings.fail_step(active, step, unhealthy(fatal_error))
            return False
        if self._availability.is_closing and not self._lifecycle.is_resident:
            self._endings.fail_step(active, step, shutting_down())
            return False
        return True

    def reload_if_due(self, *, has_jobs: bool) -> bool:
        """Start to load the engine again, if that is due or jobs need it; return whether.

        Args:
            has_jobs: whether any job runs or waits. Exports and conversions use no engine.
        """
        lifecycle = self._lifecycle
        if lifecycle.status != "ok" or self._threads.device_is_busy:
            return False
        is_needed = not lifecycle.is_resident and has_jobs
        if not self._availability.is_open or not (lifecycle.is_due or is_needed):
            return False
        self._start(lifecycle.reload)
        return True

    def schedule_idle_unload(self) -> None:
        """Unload the engine after the idle time, unless that is cancelled before.

        Does nothing once the process accepts no more work: no timer is left behind.
        """
        self.cancel_idle_unload()
        if self._idle_unload_s is not None and self._availability.is_open:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_unload_s, self._unload)

    def cancel_idle_unload(self) -> None:
        """Keep the engine loaded: there is work."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _unload(self) -> None:
        is_free = self._lifecycle.is_resident and not self._threads.device_is_busy
        if is_free and self._availability.is_open:
            self._start(self._lifecycle.unload)
            self.on_change()

    def _start(self, operation: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._threads.device_is_reserved = self.is_running = True
        task = asyncio.get_running_loop().create_task(self._run(operation))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, operation: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await operation()
        except EngineBrokenError as error:
            self._endings.fail_permanently(str(error))
        except ServerError as error:
            self._endings.fail_permanently(f"the model cannot be loaded again: {error}")
        except StepCancelled:
            logger.info("Loading the engine was stopped: the server is shutting down")
        finally:
            self.is_running = False
        self.on_change()
