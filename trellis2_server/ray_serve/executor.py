"""`ClusterExecutor`: does the steps of jobs on a Ray cluster.

    cut_out                     on a cutter
    make_shape, make_texture    on an engine, which does one step at a time
    export_shape, export_model  as a Ray task, on the machine with the input

Does not know: jobs, HTTP, what a step does.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from trellis2_server.decoders import decoder_limits
from trellis2_server.errors import EngineError
from trellis2_server.jobs.executor import ExportedShape
from trellis2_server.jobs.threads import describe_error
from trellis2_server.ray_serve import tasks
from trellis2_server.ray_serve.recovery import Recovery
from trellis2_server.ray_serve.references import FieldReference, GeometryReference, ShapeReference
from trellis2_server.storage.snapshots import EngineName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import DerivedForm, Options
    from trellis2_server.ray_serve.engine_monitor import EngineMonitor
    from trellis2_server.ray_serve.remote_calls import RemoteCalls
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import RemoveBackground
    from trellis2_server.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: CPU steps that may run for each engine, so that no engine waits for its next input.
_CPU_STEPS_PER_ENGINE: Final = 4


def _translate_ray_errors(step: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return the step with exceptions of Ray's, whose texts hold tracebacks, as `EngineError`."""

    @functools.wraps(step)
    async def step_with_translated_errors(*args: P.args, **named: P.kwargs) -> T:
        try:
            return await step(*args, **named)
        except ObjectLostError as error:
            raise EngineError(
                "an intermediate result was lost with its machine; send the picture again"
            ) from error
        except RayTaskError as error:
            logger.exception("A step failed in another process")
            reason = describe_error(error.cause or error)
            raise EngineError(f"{step.__name__} failed: {reason}") from error
        except (RayError, RayServeException) as error:
            raise EngineError(f"the cluster failed: {type(error).__name__}") from error

    return step_with_translated_errors


class ClusterExecutor:
    """Does steps on a cluster; an `Executor`. Its steps belong to the event loop's thread.

    Args:
        name: name of the engine.
        device_slots: maximum number of engines.
        settings: the whole configuration.
        calls: runs steps in other processes.
        monitor: state of the engines.

    Attributes:
        name: name of the engine.
        device_slots: number of device steps that may run at one time.
        cpu_workers: number of other steps that may run at one time.
    """

    def __init__(
        self,
        name: str,
        device_slots: int,
        settings: Settings,
        calls: RemoteCalls,
        monitor: EngineMonitor,
    ) -> None:
        self.name = name
        self.device_slots = device_slots
        self.cpu_workers = _CPU_STEPS_PER_ENGINE * device_slots
        self._engine = EngineName(name)
        self._export = settings.export
        self._limits = decoder_limits(settings)
        self._engine_cuts_out = settings.model.background == "upstream"
        self._engine_exports = settings.export.backend == "upstream"
        self._calls = calls
        self._monitor = monitor
        self._recovery = Recovery(name, calls, self.make_shape, self._limits)

    # ---- the engine ----------------------------------------------------------------------

    def load(self, report: Report) -> None:
        """Wait until an engine runs.

        Raises:
            EngineError: no engine could be started.
        """
        self._monitor.wait(report)

    def unload(self) -> None:
        """Do nothing: Serve decides how many engines run."""

    def describe(self) -> Mapping[str, object]:
        """Return the number of engines, by state."""
        return {"engines": {**self._monitor.replicas, "at_most": self.device_slots}}

    def device_memory(self) -> Mapping[str, int]:
        """Return nothing: each engine watches its own device."""
        return {}

    def background_model(self) -> None:
        """Return nothing: each cutter has a model of its own."""

    # ---- steps ---------------------------------------------------------------------------

    @_translate_ray_errors
    async def cut_out(
        self, picture: bytes, *, remove_background: RemoveBackground, report: Report
    ) -> Cutout:
        """Cut the picture out, on a cutter or with the engine's own remover."""
        if not self._engine_cuts_out:
            return await self._calls.on_cutter(picture, remove_background=remove_background)
        outcome = await self._calls.on_engine("cut_out", picture, remove_background, report=report)
        return outcome.value

    @_translate_ray_errors
    async def make_shape(self, cutout: Cutout, options: Options, report: Report) -> ShapeReference:
        """Make the shape; it stays on the engine's machine."""
        outcome = await self._calls.on_engine("shape", cutout, options, report=report)
        resolution, warnings, node, details = outcome.value
        mesh, state = outcome.large
        return ShapeReference(resolution, warnings, mesh, state, node, cutout, options, details)

    @_translate_ray_errors
    async def export_shape(
        self, shape: ShapeReference, options: Options, report: Report
    ) -> ExportedShape:
        """Export the untextured GLB on the shape's machine."""

        async def export() -> ExportedShape:
            outcome = await self._calls.as_task(
                tasks.export_shape,
                self._engine, shape.mesh, shape.resolution, options,
                node=shape.node, report=report,
            )  # fmt: skip
            mesh, glb = outcome.large
            geometry = GeometryReference(shape, mesh, options)
            digest, warnings = outcome.value
            return ExportedShape(geometry, await glb, digest, warnings)

        return await self._recovery.retry(export, shape, report)

    @_translate_ray_errors
    async def read_mesh(self, content: bytes, options: Options, report: Report) -> ExportedShape:
        """Read an uploaded mesh, and export it as an untextured GLB."""
        reference = ray.put(content)
        outcome = await self._calls.as_task(
            tasks.read_mesh, self._engine, reference, options, self._limits,
            node=None, report=report,
        )  # fmt: skip
        mesh, glb = outcome.large
        geometry = GeometryReference(None, mesh, options, reference)
        digest, warnings = outcome.value
        return ExportedShape(geometry, await glb, digest, warnings)

    @_translate_ray_errors
    async def make_texture(
        self,
        source: ShapeReference | GeometryReference,
        cutout: Cutout,
        options: Options,
        report: Report,
    ) -> FieldReference:
        """Make the field; it stays on the engine's machine."""

        async def make() -> FieldReference:
            if isinstance(source, GeometryReference):
                method, *inputs = "texture_mesh", source.mesh
            else:
                # In a list, the mesh stays a reference: most engines do not need it.
                method, *inputs = "texture", source.resolution, [source.mesh], source.state
            outcome = await self._calls.on_engine(method, *inputs, cutout, options, report=report)
            node, warnings, details = outcome.value
            (field,) = outcome.large
            return FieldReference(field, node, warnings, details)

        return await self._recovery.retry(make, source, report)

    @_translate_ray_errors
    async def export_model(
        self,
        geometry: GeometryReference | ShapeReference,
        field: FieldReference,
        options: Options,
        report: Report,
    ) -> bytes:
        """Export the textured GLB, on the field's machine or with the engine's own exporter."""
        if isinstance(geometry, ShapeReference):
            geometry = await self._prepare(geometry, options, report)
        shape = geometry.shape
        seen = shape and shape.mesh
        try:
            return await self._export_model(geometry, field, options, report)
        except ObjectLostError:
            if shape is None:
                raise
            await self._recovery.restore(geometry, seen, report)
            field = await self.make_texture(shape, shape.cutout, options, report)
            return await self._export_model(geometry, field, options, report)

    async def _prepare(
        self, shape: ShapeReference, options: Options, report: Report
    ) -> GeometryReference:
        async def prepare() -> GeometryReference:
            mesh = await self._recovery.prepare_mesh(shape, options, report)
            return GeometryReference(shape, mesh, options)

        return await self._recovery.retry(prepare, shape, report)

    async def _export_model(
        self, geometry: GeometryReference, field: FieldReference, options: Options, report: Report
    ) -> bytes:
        shape = geometry.shape
        original, resolution = (shape.mesh, shape.resolution) if shape else (None, 0)
        if self._engine_exports and shape is not None and not options.solid:
            outcome = await self._calls.on_engine(
                "export_model",
                [geometry.mesh], resolution, [original], shape.state, field.field, options,
                report=report,
            )  # fmt: skip
        else:
            outcome = await self._calls.as_task(
                tasks.export_model,
                self._engine, geometry.mesh, original, resolution, field.field, options,
                self._export,
                node=field.node, report=report,
            )  # fmt: skip
        (glb,) = outcome.large
        return await glb

    # ---- snapshots -----------------------------------------------------------------------

    def shape_snapshotter(self, shape: ShapeReference) -> Callable[[], bytes]:
        """Return a call that serializes the shape on its machine."""
        return self._calls.snapshotter(
            tasks.snapshot_shape, shape.mesh, shape.resolution, node=shape.node
        )

    def field_snapshotter(self, field: FieldReference) -> Callable[[], bytes]:
        """Return a call that serializes the field on its machine."""
        return self._calls.snapshotter(tasks.snapshot_field, field.field, node=field.node)

    @_translate_ray_errors
    async def export_again(
        self, made_by: str, shape: bytes, field: bytes | None, options: Options, report: Report
    ) -> bytes:
        """Export stored snapshots as a GLB."""
        outcome = await self._calls.as_task(
            tasks.export_snapshots,
            made_by, ray.put(shape), field and ray.put(field), options, self._export,
            self._limits,
            node=None, report=report,
        )  # fmt: skip
        (glb,) = outcome.large
        return await glb

    def close(self) -> None:
        """Do nothing: decoders belong to the processes of the steps."""

    @_translate_ray_errors
    async def convert(self, glb: bytes, file_type: DerivedForm, report: Report) -> bytes:
        """Return a model in another file type, or a picture of it."""
        outcome = await self._calls.as_task(
            tasks.convert_model, ray.put(glb), file_type, node=None, report=report
        )
        (converted,) = outcome.large
        return await converted
