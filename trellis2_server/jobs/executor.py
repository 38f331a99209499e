"""`Executor`: does the steps of a job. `LocalExecutor` does them in this process.

An executor of a cluster does them elsewhere: its steps are coroutine functions, which need no
thread, and the shapes, geometries and fields that it returns are references. No other module
looks into them.

Does not know: jobs, threads, the order of steps.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trellis2_server import pipeline
from trellis2_server.digests import md5
from trellis2_server.mesh import Shape
from trellis2_server.pipeline import convert
from trellis2_server.storage.snapshots import (
    EngineName,
    export_again,
    field_snapshot,
    shape_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from trellis2_server.decoders import DecoderPool
    from trellis2_server.inputs.background import FetchState
    from trellis2_server.inputs.images import Cutout, Cutter
    from trellis2_server.mesh import VoxelField
    from trellis2_server.parameters import DerivedForm, Options
    from trellis2_server.pipeline import Engine, Geometry, UploadedMesh
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import RemoveBackground
    from trellis2_server.settings import Settings


class ShapeSummary(Protocol):
    """What the scheduler needs to know of a shape."""

    @property
    def resolution(self) -> int:
        """See `mesh.Shape`."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `mesh.Shape`."""
        ...

    @property
    def details(self) -> Mapping[str, str]:
        """See `mesh.Shape`."""
        ...


class FieldSummary(Protocol):
    """What the scheduler needs to know of a field."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `mesh.VoxelField`."""
        ...

    @property
    def details(self) -> Mapping[str, str]:
        """See `mesh.VoxelField`."""
        ...


class ExportedShape(NamedTuple):
    """Result of the export of a shape.

    Attributes:
        geometry: input of the textured file and, for an uploaded mesh, of the texture step.
        glb: the untextured file.
        md5: of the file, 32 hex digits.
        warnings: sentences for the client.
    """

    geometry: Any
    glb: bytes
    md5: str
    warnings: tuple[str, ...] = ()


class Executor(Protocol):
    """Does the steps; each of them may be a coroutine function."""

    @property
    def name(self) -> str:
        """Name of the engine."""
        ...

    @property
    def device_slots(self) -> int:
        """Number of device steps that may run at one time."""
        ...

    @property
    def cpu_workers(self) -> int:
        """Number of other steps that may run at one time."""
        ...

    def load(self, report: Report) -> None:
        """Load the engine; see `pipeline.load`."""
        ...

    def unload(self) -> None:
        """Unload the engine; see `Engine.unload`."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Return the engine's details; see `Engine.describe`."""
        ...

    def device_memory(self) -> Mapping[str, int]:
        """Return the device memory; see `Engine.device_memory`."""
        ...

    def background_model(self) -> FetchState | None:
        """Return how far the background model is; None: nothing was done for it here."""
        ...

    def cut_out(
        self, picture: bytes, *, remove_background: RemoveBackground, report: Report
    ) -> Cutout | Awaitable[Cutout]:
        """Do the step `cutout`: return what the model sees of a picture.

        Raises:
            ModelPending: the background model is being loaded.
            InputError: the file is no picture, or there is no object in it.
        """
        ...

    def make_shape(
        self, cutout: Cutout, options: Options, report: Report
    ) -> ShapeSummary | Awaitable[ShapeSummary]:
        """Do the step `shape`; see `pipeline.make_shape`."""
        ...

    def export_shape(
        self, shape: Any, options: Options, report: Report
    ) -> ExportedShape | Awaitable[ExportedShape]:
        """Do the step `shape_export`; see `pipeline.export_shape`."""
        ...

    def read_mesh(
        self, content: bytes, options: Options, report: Report
    ) -> ExportedShape | Awaitable[ExportedShape]:
        """Do the step `shape_export` of an uploaded mesh; see `pipeline.read_mesh`."""
        ...

    def make_texture(
        self, source: Any, cutout: Cutout, options: Options, report: Report
    ) -> FieldSummary | Awaitable[FieldSummary]:
        """Do the step `texture`; see `pipeline.make_texture`.

        It may run beside `export_shape` of the same shape.
        """
        ...

    def export_model(
        self, geometry: Any, field: Any, options: Options, report: Report
    ) -> bytes | Awaitable[bytes]:
        """Do the step `texture_export`; see `pipeline.export_model`.

        Instead of a geometry it may get the shape, whose export failed.
        """
        ...

    def shape_snapshotter(self, shape: Any) -> Callable[[], bytes]:
        """Return a call, for any thread, that serializes the shape."""
        ...

    def field_snapshotter(self, field: Any) -> Callable[[], bytes]:
        """Return a call, for any thread, that serializes the field."""
        ...

    def export_again(
        self, made_by: str, shape: bytes, field: bytes | None, options: Options, report: Report
    ) -> bytes | Awaitable[bytes]:
        """Export stored snapshots; see `snapshots.export_again`."""
        ...

    def convert(
        self, glb: bytes, file_type: DerivedForm, report: Report
    ) -> bytes | Awaitable[bytes]:
        """Return a model in another file type than "glb", or a picture; see `pipeline.convert`."""
        ...

    def close(self) -> None:
        """Kill processes that decode for this executor; no step is started any more."""
        ...


class LocalExecutor:
    """Does the steps in this process, with one engine.

    Args:
        engine: not loaded.
        cutter: cuts pictures out.
        settings: export settings, and the limit of jobs in progress.
        decoders: decode meshes; None: new ones.

    Attributes:
        name: of the engine.
        device_slots: one.
        cpu_workers: see `pipeline.cpu_workers`.
        decoders: processes that decode meshes and usually, for the cutter, pictures.
    """

    device_slots = 1

    def __init__(
        self,
        engine: Engine,
        cutter: Cutter,
        settings: Settings,
        decoders: DecoderPool | None = None,
    ) -> None:
        self.name = engine.name
        self.cpu_workers = pipeline.cpu_workers(settings)
        self.decoders = decoders or pipeline.make_decoders(settings)
        self._engine = engine
        self._cutter = cutter
        self._export = settings.export

    def load(self, report: Report) -> None:
        """Load the engine and the exporter; then compile what only some requests need."""
        pipeline.load(self._engine, report, remesh=self._export.remesh)
        pipeline.compile_rest()

    def unload(self) -> None:
        """Unload the engine."""
        self._engine.unload()

    def describe(self) -> Mapping[str, object]:
        """Return the engine's details."""
        return self._engine.describe()

    def device_memory(self) -> Mapping[str, int]:
        """Return the memory of the engine's device, bytes by kind."""
        return self._engine.device_memory()

    def background_model(self) -> FetchState | None:
        """Return how far the cutter's background model is."""
        return self._cutter.model_state()

    def cut_out(
        self, picture: bytes, *, remove_background: RemoveBackground, report: Report
    ) -> Cutout:
        """Cut the picture out; do not wait for the background model.

        It ends at once, and the process that decodes the picture is killed, when `report` raises.
        """
        check = partial(report, "cut out", 0, 1)
        return self._cutter.cut_out(
            picture, remove_background=remove_background, wait=False, check=check
        )

    def make_shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """Run the engine's shape stages."""
        return pipeline.make_shape(self._engine, cutout, options, report)

    def export_shape(self, shape: Shape, options: Options, report: Report) -> ExportedShape:
        """Export the untextured GLB."""
        return exported_shape(*pipeline.export_shape(self._engine, shape, options, report))

    def read_mesh(self, content: bytes, options: Options, report: Report) -> ExportedShape:
        """Read an uploaded mesh, and export it as an untextured GLB."""
        return exported_shape(
            *pipeline.read_mesh(self._engine, content, options, self.decoders, report)
        )

    def make_texture(
        self, source: Shape | UploadedMesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """Run the engine's texture stages."""
        return pipeline.make_texture(self._engine, source, cutout, options, report)

    def export_model(
        self,
        geometry: Geometry | UploadedMesh | Shape,
        field: VoxelField,
        options: Options,
        report: Report,
    ) -> bytes:
        """Export the textured GLB."""
        if isinstance(geometry, Shape):
            geometry = pipeline.prepare_shape(geometry, options, report)
        return pipeline.export_model(self._engine, geometry, field, options, self._export, report)

    def shape_snapshotter(self, shape: Shape) -> Callable[[], bytes]:
        """Return a call that serializes the shape."""
        return partial(shape_snapshot, replace(shape, state=None))  # it may hold device memory

    def field_snapshotter(self, field: VoxelField) -> Callable[[], bytes]:
        """Return a call that serializes the field."""
        return partial(field_snapshot, field)

    def export_again(
        self, made_by: str, shape: bytes, field: bytes | None, options: Options, report: Report
    ) -> bytes:
        """Export stored snapshots as a GLB."""
        return export_again(
            EngineName(made_by), shape, field, options, self._export, self.decoders, report
        )

    def convert(self, glb: bytes, file_type: DerivedForm, report: Report) -> bytes:
        """Return a model in another file type, or a picture of it."""
        return convert(glb, file_type, report)

    def close(self) -> None:
        """Kill the decoders, and the process of the background model."""
        self.decoders.close()
        self._cutter.close()


def exported_shape(geometry: Geometry | UploadedMesh, glb: bytes) -> ExportedShape:
    """Return the results of an export with the MD5 of the file."""
    return ExportedShape(geometry, glb, md5(glb), geometry.warnings)
