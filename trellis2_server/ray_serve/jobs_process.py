"""`JobsProcess`: the process with the jobs, behind all ingresses.

There is one, so that every ingress gives the same answers. When an ingress ends, only the
connections of its clients are lost.

Does not know: HTTP, how a step is done.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray import serve

from trellis2_server import logs
from trellis2_server.api.metrics import Metrics
from trellis2_server.api.responses import job_json
from trellis2_server.errors import ServerError
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import JobManager
from trellis2_server.jobs.service import ExportedModel
from trellis2_server.ray_serve.engine_monitor import EngineMonitor
from trellis2_server.ray_serve.executor import ClusterExecutor
from trellis2_server.ray_serve.remote_calls import RemoteCalls
from trellis2_server.ray_serve.stream import portable
from trellis2_server.storage.content import Content

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.service import Health, JobView
    from trellis2_server.ray_serve.settings import ClusterSettings
    from trellis2_server.settings import Settings


class ClusterJobService(LocalJobService):
    """The job service of a cluster: its health includes that of the engines.

    Args:
        manager: started.
        metrics: renders the metrics.
        monitor: state of the engines.
        notes: notes for the operator.
    """

    def __init__(
        self, manager: JobManager, metrics: Metrics, monitor: EngineMonitor, notes: Sequence[str]
    ) -> None:
        super().__init__(manager, metrics, notes)
        self._monitor = monitor

    async def health(self) -> Health:
        """Return the state of the manager and of the engines."""
        health = await super().health()
        notes = [*health.notes, *self._monitor.notes]
        error = self._monitor.error
        if health.status == "ok" and error is not None:
            health = replace(health, status="error", error=error)
        return replace(health, notes=notes)


class JobsProcess:
    """The only replica of its deployment.

    Args:
        settings: the whole configuration.
        cluster: how the cluster is used.
        engine: name of the engine.
        engines: handle of the engines.
        cutters: handle of the cutters.
        notes: notes for the operator.
    """

    async def __init__(  # noqa: PLR0913, PLR0917 - bound by `build_app`
        self,
        settings: Settings,
        cluster: ClusterSettings,
        engine: str,
        engines: Any,
        cutters: Any,
        notes: Sequence[str],
    ) -> None:
        logs.configure(settings.server)
        self._device_slots = cluster.max_engines
        self._notes = notes
        self._calls = RemoteCalls(engines, cutters, cluster.export_cpus)
        self._monitor = EngineMonitor(serve.get_replica_context().app_name)
        self._monitoring = asyncio.get_running_loop().create_task(self._monitor.run())
        self._start(settings, engine)

    def _start(self, settings: Settings, engine: str) -> None:
        executor = ClusterExecutor(engine, self._device_slots, settings, self._calls, self._monitor)
        self._metrics = Metrics()
        self._manager = JobManager(executor, _manager_settings(settings), self._metrics)
        self._manager.start()
        self._service = ClusterJobService(self._manager, self._metrics, self._monitor, self._notes)
        self._service.render_webhooks(job_json)

    async def call(self, method: str, /, *args: Any, **named: Any) -> Any:
        """Call a method of the service; return its result, or the error that it raised.

        Of a `Content`, the result is its bytes; so is it in the tuple of an `ExportedModel`.
        """
        try:
            result = await getattr(self._service, method)(*args, **named)
            if isinstance(result, ExportedModel):
                return await result.content.read(), result.warnings
            return await result.read() if isinstance(result, Content) else result
        except ServerError as error:
            return portable(error)

    async def answer(self) -> None:
        """Answer: an ingress asks regularly whether this process lives."""

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """See `JobService.watch`."""
        async with aclosing(self._service.watch(job, heartbeat_s=heartbeat_s)) as views:
            async for view in views:
                yield view

    async def note_requests(
        self, requests: Sequence[tuple[str, str, int, float, int, int]]
    ) -> None:
        """Count requests that an ingress has answered."""
        for request in requests:
            self._metrics.note_request(*request)

    async def note_engine(self, node: str, error: str | None) -> None:
        """Note that an engine was loaded on a machine, or why it could not be."""
        self._monitor.note_load(node, error)

    async def check_health(self) -> None:
        """Raise if this process has to be replaced; Serve calls this regularly."""
        fatal_error = self._manager.availability.fatal_error
        if fatal_error is not None:
            raise RuntimeError(fatal_error)

    async def __del__(self) -> None:
        """End all jobs and write their results; Serve calls this when it stops the process."""
        self._monitoring.cancel()
        await self._manager.close()


def _manager_settings(settings: Settings) -> Settings:
    """Return the settings without those that each engine applies to itself."""
    worker = settings.worker.model_copy(
        update={
            "recycle_after_jobs": None,
            "max_vram_growth_mb": None,
            "stage_timeout_seconds": None,
        }
    )
    model = settings.model.model_copy(update={"idle_unload_seconds": None})
    return settings.model_copy(update={"worker": worker, "model": model})
