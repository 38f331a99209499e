"""`Executor`: who does the steps of a job. `LocalExecutor` does them in this process.

Another one may do them elsewhere: its steps are coroutine functions then, which need no
thread to wait in, and the shapes, geometries and fields that it hands on only tell of what
lies where they were made. Nobody but the crew looks into them.

What this module does not know: jobs, threads, the order of the work.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trellis2_server import pipeline
from trellis2_server.storage.snapshots import (
    EngineName,
    export_again,
    field_snapshot,
    shape_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from trellis2_server.inputs.images import Cutout, Cutter
    from trellis2_server.mesh import Shape, VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Engine, Geometry, GivenMesh, Report
    from trellis2_server.settings import Settings


class ShapeSummary(Protocol):
    """What the line has to know of a shape."""

    @property
    def resolution(self) -> int:
        """As of `mesh.Shape`."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """As of `mesh.Shape`."""
        ...


class FieldSummary(Protocol):
    """What the line has to know of a field."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """As of `mesh.VoxelField`."""
        ...


class ExportedShape(NamedTuple):
    """What the export of a shape gives.

    Attributes:
        geometry: what the texture is made from, and the textured file.
        glb: the untextured file.
        md5: of that, 32 hex digits.
    """

    geometry: Any
    glb: bytes
    md5: str


class Executor(Protocol):
    """Whoever does the steps. A step may be a coroutine function."""

    @property
    def name(self) -> str:
        """The engine's."""
        ...

    @property
    def device_slots(self) -> int:
        """How many stages of the engine may run at one time."""
        ...

    @property
    def cpu_workers(self) -> int:
        """How many other steps may."""
        ...

    def load(self, report: Report) -> None:
        """As `pipeline.load`."""
        ...

    def unload(self) -> None:
        """As `Engine.unload`."""
        ...

    def describe(self) -> Mapping[str, object]:
        """As `Engine.describe`."""
        ...

    def device_memory(self) -> Mapping[str, int]:
        """As `Engine.device_memory`."""
        ...

    def cut_out(self, picture: bytes, *, remove_background: bool) -> Cutout | Awaitable[Cutout]:
        """What the model sees of a picture.

        Raises:
            ModelPending: its background model is on its way.
            InputError: no image, or no object in it.
        """
        ...

    def make_shape(
        self, cutout: Cutout, options: Options, report: Report
    ) -> ShapeSummary | Awaitable[ShapeSummary]:
        """As `pipeline.make_shape`."""
        ...

    def export_shape(
        self, shape: Any, options: Options, report: Report
    ) -> ExportedShape | Awaitable[ExportedShape]:
        """As `pipeline.export_shape`."""
        ...

    def read_mesh(
        self, content: bytes, options: Options, report: Report
    ) -> ExportedShape | Awaitable[ExportedShape]:
        """As `pipeline.read_mesh`."""
        ...

    def make_texture(
        self, geometry: Any, cutout: Cutout, options: Options, report: Report
    ) -> FieldSummary | Awaitable[FieldSummary]:
        """As `pipeline.make_texture`."""
        ...

    def export_model(
        self, geometry: Any, field: Any, options: Options, report: Report
    ) -> bytes | Awaitable[bytes]:
        """As `pipeline.export_model`."""
        ...

    def shape_snapshotter(self, geometry: Any) -> Callable[[], bytes] | None:
        """Gives the geometry as `kept.shape_snapshot` does, on any thread; None: it was given."""
        ...

    def field_snapshotter(self, field: Any) -> Callable[[], bytes]:
        """Gives the field as `kept.field_snapshot` does, on any thread."""
        ...

    def export_again(
        self, made_by: str, shape: bytes, field: bytes | None, options: Options, report: Report
    ) -> bytes | Awaitable[bytes]:
        """As `kept.export_again`."""
        ...


class LocalExecutor:
    """This process: one engine, and a few threads.

    Args:
        engine: not loaded.
        cutter: cuts uploads out.
        settings: how files are exported.

    Attributes:
        name: the engine's.
        lanes: one.
        hands: no more than there are jobs in progress, or processors.
    """

    device_slots = 1

    def __init__(self, engine: Engine, cutter: Cutter, settings: Settings) -> None:
        self.name = engine.name
        self.cpu_workers = min(settings.worker.limit_model_concurrency, max(2, os.cpu_count() or 2))
        self._engine = engine
        self._cutter = cutter
        self._export = settings.export

    def load(self, report: Report) -> None:
        """Engine and exporter."""
        pipeline.load(self._engine, report, remesh=self._export.remesh)

    def unload(self) -> None:
        """The engine."""
        self._engine.unload()

    def describe(self) -> Mapping[str, object]:
        """The engine's own."""
        return self._engine.describe()

    def device_memory(self) -> Mapping[str, int]:
        """The engine's."""
        return self._engine.device_memory()

    def cut_out(self, picture: bytes, *, remove_background: bool) -> Cutout:
        """What the model sees; does not wait for the background model."""
        return self._cutter.cut_out(picture, remove_background=remove_background, wait=False)

    def make_shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """The engine's first stage."""
        return pipeline.make_shape(self._engine, cutout, options, report)

    def export_shape(self, shape: Shape, options: Options, report: Report) -> ExportedShape:
        """The untextured file."""
        return exported_shape(*pipeline.export_shape(self._engine, shape, options, report))

    def read_mesh(self, content: bytes, options: Options, report: Report) -> ExportedShape:
        """The same of a mesh that a client gave."""
        return exported_shape(*pipeline.read_mesh(self._engine, content, options, report))

    def make_texture(
        self, geometry: Geometry | GivenMesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """The engine's second stage."""
        return pipeline.make_texture(self._engine, geometry, cutout, options, report)

    def export_model(
        self, geometry: Geometry | GivenMesh, field: VoxelField, options: Options, report: Report
    ) -> bytes:
        """The textured file."""
        return pipeline.export_model(self._engine, geometry, field, options, self._export, report)

    def shape_snapshotter(self, geometry: Geometry | GivenMesh) -> Callable[[], bytes] | None:
        """Packs the shape."""
        if not isinstance(geometry, pipeline.Geometry):
            return None
        shape = replace(geometry.shape, state=None)  # which may hold the device's memory
        return partial(shape_snapshot, shape)

    def field_snapshotter(self, field: VoxelField) -> Callable[[], bytes]:
        """Packs the field."""
        return partial(field_snapshot, field)

    def export_again(
        self, made_by: str, shape: bytes, field: bytes | None, options: Options, report: Report
    ) -> bytes:
        """A kept model as a file."""
        return export_again(EngineName(made_by), shape, field, options, self._export, report)


def exported_shape(geometry: Geometry | GivenMesh, glb: bytes) -> ExportedShape:
    """The export's results, and the digest of the file."""
    return ExportedShape(geometry, glb, md5(glb))


def md5(data: bytes) -> str:
    """32 hex digits."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
