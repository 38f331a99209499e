"""`EngineReplica` and `CutterReplica`: the processes that do steps on a cluster.

An engine's replica works like the single process: it loads its engine, does one step at a time
on the device thread, and watches the device's memory. When only a new process helps, its health
check fails, and Serve replaces it.

Does not know: jobs, HTTP, who calls a step.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import ray
from ray import serve

from trellis2_server import logs
from trellis2_server.errors import EngineBrokenError, EngineError, ServerError
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.model_lifecycle import ModelLifecycle
from trellis2_server.jobs.steps import device_steps
from trellis2_server.jobs.threads import ThreadPools, translated
from trellis2_server.pipeline import Geometry
from trellis2_server.ray_serve.deployments import JOBS
from trellis2_server.ray_serve.references import (
    LazyShape,
    fetch,
    field_outcome,
    shape_outcome,
    writable,
)
from trellis2_server.ray_serve.stream import Outcome, portable, stream_future
from trellis2_server.thread_priority import device_niceness

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trellis2_server.inputs.images import Cutout, Cutter, Pictures
    from trellis2_server.jobs.steps import Step
    from trellis2_server.mesh import PreparedMesh, VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Engine, UploadedMesh
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import RemoveBackground
    from trellis2_server.settings import Settings

    ChooseEngine = Callable[[Settings], Engine]
    MakeCutter = Callable[[Engine, Settings], Cutter]


class EngineReplica:
    """One engine on one device.

    Args:
        settings: the whole configuration.
        choose_engine: returns the engine, not loaded.
        make_cutter: returns the cutter, for settings where the engine cuts pictures out.
    """

    async def __init__(
        self, settings: Settings, choose_engine: ChooseEngine, make_cutter: MakeCutter
    ) -> None:
        logs.configure(settings.server)
        self._fatal_error: str | None = None
        self._step_lock = asyncio.Lock()
        app = serve.get_replica_context().app_name
        jobs_process = serve.get_deployment_handle(JOBS, app)
        address = ray.util.get_node_ip_address()
        try:
            self._engine = choose_engine(settings)
            executor = LocalExecutor(self._engine, make_cutter(self._engine, settings), settings)
            self._threads = ThreadPools(
                1,
                device_steps(settings),
                1,
                settings.worker.stage_timeout_seconds,
                device_niceness=device_niceness(executor.describe()),
            )
            self._lifecycle = ModelLifecycle(executor, self._threads, settings, time.monotonic)
            await self._lifecycle.load()
            if self._lifecycle.error is not None:
                raise EngineError(self._lifecycle.error)
        except ServerError as error:
            await jobs_process.note_engine.remote(address, str(error))
            raise
        self._executor = executor
        await jobs_process.note_engine.remote(address, None)

    async def check_health(self) -> None:
        """Raise if this process has to be replaced; Serve calls this regularly."""
        if self._fatal_error is not None:
            raise RuntimeError(self._fatal_error)

    # ---- steps: each method yields a stream, see stream.py -------------------------------

    async def cut_out(
        self, picture: Pictures, remove_background: RemoveBackground
    ) -> AsyncGenerator[Any]:
        """Cut a picture out with the engine's own remover; the value is the cut-out."""

        def call(report: Report) -> Outcome:
            return Outcome(
                self._executor.cut_out(picture, remove_background=remove_background, report=report)
            )

        async for item in self._step("cutout", call):
            yield item

    async def shape(self, cutout: Cutout, options: Options) -> AsyncGenerator[Any]:
        """Make a shape; see `references.shape_outcome`."""

        def call(report: Report) -> Outcome:
            return shape_outcome(self._executor.make_shape(cutout, options, report))

        async for item in self._step("shape", call):
            yield item

    async def texture(
        self, resolution: int, mesh: list[Any], state: object, cutout: Cutout, options: Options
    ) -> AsyncGenerator[Any]:
        """Make a field; see `references.field_outcome`.

        Args:
            resolution: of the shape.
            mesh: list with a reference to the shape's mesh.
            state: the engine's state.
            cutout: input of the step `shape`.
            options: the job's options.
        """
        shape: Any = LazyShape(resolution, mesh, writable(state))

        def call(report: Report) -> Outcome:
            return field_outcome(self._engine.texture(shape, cutout, options, report))

        async for item in self._step("texture", call):
            yield item

    async def texture_mesh(
        self, mesh: UploadedMesh, cutout: Cutout, options: Options
    ) -> AsyncGenerator[Any]:
        """Make a field for an uploaded mesh; see `references.field_outcome`."""
        copy = writable(mesh.mesh)

        def call(report: Report) -> Outcome:
            return field_outcome(self._engine.texture_mesh(copy, cutout, options, report))

        async for item in self._step("texture", call):
            yield item

    async def export_model(  # noqa: PLR0913, PLR0917 - one argument for each object
        self,
        mesh: list[Any],
        resolution: int,
        original: list[Any],
        state: object,
        field: VoxelField,
        options: Options,
    ) -> AsyncGenerator[Any]:
        """Export the textured GLB, which is large, with TRELLIS.2's own exporter.

        Args:
            mesh: list with a reference to the prepared mesh.
            resolution: of the shape.
            original: list with a reference to the shape's mesh before it was prepared.
            state: the engine's state.
            field: the material.
            options: the job's options.
        """

        def call(report: Report) -> Outcome:
            shape: Any = LazyShape(resolution, original, writable(state))
            geometry = Geometry(shape, cast("PreparedMesh", fetch(mesh)))
            glb = self._executor.export_model(geometry, writable(field), options, report)
            return Outcome(None, (glb,))

        async for item in self._step("texture_export", call):
            yield item

    async def _step(self, step: Step, call: Callable[[Report], Outcome]) -> AsyncGenerator[Any]:
        async with self._step_lock:
            try:
                if self._lifecycle.is_due:
                    await self._lifecycle.reload()
            except ServerError as error:
                self._fatal_error = str(error)
                yield "error", portable(error)
                return

            def start(report: Report) -> asyncio.Future[Outcome]:
                watched = self._lifecycle.watched(step, partial(call, report))
                future = self._threads.start_step(step, watched)
                future.add_done_callback(self._note_end)
                return future

            async for item in stream_future(start):
                yield item

    def _note_end(self, future: asyncio.Future[Outcome]) -> None:
        self._lifecycle.note_job()
        error = None if future.cancelled() else future.exception()
        if isinstance(error, EngineBrokenError):
            self._fatal_error = str(error)


class CutterReplica:
    """Cuts pictures out, on Serve's threads.

    Args:
        settings: the whole configuration.
        make_cutter: returns the cutter.
    """

    def __init__(self, settings: Settings, make_cutter: Callable[[], Cutter]) -> None:
        logs.configure(settings.server)
        self._cutter = make_cutter()
        if settings.model.prefetches_background:
            self._cutter.prefetch()

    def cut_out(
        self, picture: Pictures, remove_background: RemoveBackground
    ) -> Cutout | ServerError:
        """Return the cut-out, or the error; wait while a background model is downloaded."""
        cut_out = partial(self._cutter.cut_out, picture, remove_background=remove_background)
        try:
            return translated("cutout", cut_out)
        except ServerError as error:
            return portable(error)
