"""`EngineReplica` and `CutterReplica`: what runs on the machines of a cluster.

An engine's replica is what a process is otherwise: it loads its engine, does one stage at a
time on one thread, looks after the device's memory, and is unhealthy when only a new process
helps: Serve starts one then.

What this module does not know: jobs, HTTP, who asks for a step.
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
from trellis2_server.ray_serve.steps import (
    RemoteShape,
    field_outcome,
    owned,
    shape_outcome,
)
from trellis2_server.ray_serve.stream import Outcome, bare, told

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trellis2_server.inputs.images import Cutout, Cutter
    from trellis2_server.jobs.steps import Step
    from trellis2_server.mesh import Mesh, VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Engine, GivenMesh, Report
    from trellis2_server.settings import Settings

    ChooseEngine = Callable[[Settings], Engine]
    MakeCutter = Callable[[Engine, Settings], Cutter]

#: Of the deployment that has the job table.
JOBS = "desk"


class EngineReplica:
    """One engine on one device.

    Args:
        settings: the whole configuration.
        choose_engine: gives the engine, not loaded.
        make_cutter: gives what cuts out, where the engine does that.
    """

    async def __init__(
        self, settings: Settings, choose_engine: ChooseEngine, make_cutter: MakeCutter
    ) -> None:
        logs.configure(settings.server)
        self._broken: str | None = None
        self._one_step = asyncio.Lock()
        self._node = ray.get_runtime_context().get_node_id()
        app = serve.get_replica_context().app_name
        self._service = serve.get_deployment_handle(JOBS, app)
        try:
            self._engine = choose_engine(settings)
            executor = LocalExecutor(self._engine, make_cutter(self._engine, settings), settings)
            self._threads = ThreadPools(
                1, device_steps(settings), 1, settings.worker.stage_timeout_seconds
            )
            self._lifecycle = ModelLifecycle(executor, self._threads, settings, time.monotonic)
            await self._lifecycle.load()
            if self._lifecycle.error is not None:
                raise EngineError(self._lifecycle.error)
        except ServerError as error:
            await self._service.note_engine.remote(self._address, str(error))
            raise
        self._executor, self._settings = executor, settings
        await self._service.note_engine.remote(self._address, None)

    @property
    def _address(self) -> str:
        return ray.util.get_node_ip_address()

    async def check_health(self) -> None:
        """Serve asks now and then; an error has it replace this process."""
        if self._broken is not None:
            raise RuntimeError(self._broken)

    # ---- stages ------------------------------------------------------------------------

    async def cut_out(self, picture: bytes, remove_background: bool) -> AsyncGenerator[Any]:  # noqa: FBT001 - by wire
        """Streams the cut-out, made with the engine's own remover."""

        def call(_: Report) -> Outcome:
            return Outcome(self._executor.cut_out(picture, remove_background=remove_background))

        async for item in self._stage("cutout", call):
            yield item

    async def shape(self, cutout: Cutout, options: Options) -> AsyncGenerator[Any]:
        """Streams a shape: resolution, warnings and machine; its mesh; its state."""

        def call(report: Report) -> Outcome:
            return shape_outcome(self._executor.make_shape(cutout, options, report))

        async for item in self._stage("shape", call):
            yield item

    async def texture(
        self, resolution: int, mesh: list[Any], state: object, cutout: Cutout, options: Options
    ) -> AsyncGenerator[Any]:
        """Streams a field: its machine and its warnings; itself.

        Args:
            resolution: of the shape.
            mesh: a reference to its mesh.
            state: the engine's.
            cutout: as of the shape.
            options: the job's.
        """
        shape: Any = RemoteShape(resolution, mesh, owned(state))

        def call(report: Report) -> Outcome:
            return field_outcome(self._engine.texture(shape, cutout, options, report))

        async for item in self._stage("texture", call):
            yield item

    async def texture_mesh(
        self, given: GivenMesh, cutout: Cutout, options: Options
    ) -> AsyncGenerator[Any]:
        """Streams the field of a client's mesh."""
        mesh = owned(given.mesh)

        def call(report: Report) -> Outcome:
            return field_outcome(self._engine.texture_mesh(mesh, cutout, options, report))

        async for item in self._stage("texture", call):
            yield item

    async def export_model(  # noqa: PLR0913, PLR0917 - what is joined
        self,
        mesh: list[Any],
        resolution: int,
        original: list[Any],
        state: object,
        field: VoxelField,
        options: Options,
    ) -> AsyncGenerator[Any]:
        """Streams the textured GLB, written by TRELLIS.2's own exporter."""

        def call(report: Report) -> Outcome:
            shape: Any = RemoteShape(resolution, original, owned(state))
            prepared = cast("Mesh", ray.get(mesh[0]))
            geometry = Geometry(shape, owned(prepared))
            return Outcome(
                None, (self._executor.export_model(geometry, owned(field), options, report),)
            )

        async for item in self._stage("texture_export", call):
            yield item

    async def _stage(self, step: Step, call: Callable[[Report], Outcome]) -> AsyncGenerator[Any]:
        async with self._one_step:
            try:
                if self._lifecycle.is_due:
                    await self._lifecycle.reload()
            except ServerError as error:
                self._broken = str(error)
                yield "error", bare(error)
                return

            def begin(report: Report) -> asyncio.Future[Outcome]:
                watched = self._lifecycle.watched(step, partial(call, report))
                work = self._threads.start_step(step, watched)
                work.add_done_callback(self._note_end)
                return work

            async for item in told(begin):
                yield item

    def _note_end(self, work: asyncio.Future[Outcome]) -> None:
        self._lifecycle.note_job()
        error = None if work.cancelled() else work.exception()
        if isinstance(error, EngineBrokenError):
            self._broken = str(error)


class CutterReplica:
    """Cuts pictures out, on threads of Serve's.

    Args:
        settings: the whole configuration.
        cutter: gives what cuts out.
    """

    def __init__(self, settings: Settings, cutter: Callable[[], Cutter]) -> None:
        logs.configure(settings.server)
        self._cutter = cutter()

    def cut_out(self, picture: bytes, remove_background: bool) -> Cutout | ServerError:  # noqa: FBT001 - by wire
        """The cut-out, or why there is none; waits for a model that has to be downloaded."""
        cut_out = partial(self._cutter.cut_out, picture, remove_background=remove_background)
        try:
            return translated("cutout", cut_out)
        except ServerError as error:
            return bare(error)
