"""The steps that need no engine, as Ray tasks.

They run on the machine with most of their input.

Does not know: jobs, in which process a task runs.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from trellis2_server import pipeline
from trellis2_server.decoders import DecoderLimits, DecoderPool
from trellis2_server.digests import md5
from trellis2_server.mesh import Shape
from trellis2_server.pipeline import Geometry
from trellis2_server.ray_serve.references import current_node, writable
from trellis2_server.ray_serve.stream import Outcome, stream_call
from trellis2_server.storage import snapshots
from trellis2_server.storage.snapshots import EngineName

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.mesh import Mesh, PreparedMesh, VoxelField
    from trellis2_server.parameters import DerivedForm, Options
    from trellis2_server.pipeline import UploadedMesh
    from trellis2_server.reports import Report
    from trellis2_server.settings import ExportSettings


def run_task(what: str, task: Callable[..., Outcome], *args: Any) -> Generator[Any]:
    """Yield the stream of one of the functions below, called with the arguments and a report."""
    yield "machine", current_node()
    yield from stream_call(what, partial(task, *args))


def export_shape(
    engine: EngineName, mesh: Mesh, resolution: int, options: Options, report: Report
) -> Outcome:
    """Export a shape; see `pipeline.export_shape`.

    Returns:
        MD5 of the untextured GLB, and warnings; the prepared mesh and the GLB are large.
    """
    shape = Shape(writable(mesh), resolution, state=None)
    geometry, glb = pipeline.export_shape(engine, shape, options, report)
    return Outcome((md5(glb), geometry.warnings), (geometry.mesh, glb))


@cache
def _decoders(limits: DecoderLimits) -> DecoderPool:
    """Return the decoder of this process, which does one task at a time."""
    return DecoderPool(limits, 1)


def read_mesh(
    engine: EngineName, content: bytes, options: Options, limits: DecoderLimits, report: Report
) -> Outcome:
    """Read an uploaded mesh file, and export it; see `pipeline.read_mesh`.

    Args:
        engine: name of the engine.
        content: the file.
        options: the job's options.
        limits: of the process that reads the file.
        report: called with the progress.

    Returns:
        MD5 of the untextured GLB, and warnings; a `pipeline.UploadedMesh` and the GLB are large.
    """
    mesh, glb = pipeline.read_mesh(engine, content, options, _decoders(limits), report)
    return Outcome((md5(glb), mesh.warnings), (mesh, glb))


def prepare_mesh(mesh: Mesh, resolution: int, options: Options, report: Report) -> Outcome:
    """Prepare a shape's mesh again; the prepared mesh is large."""
    shape = Shape(writable(mesh), resolution, state=None)
    return Outcome(None, (pipeline.prepare_shape(shape, options, report).mesh,))


def export_model(  # noqa: PLR0913, PLR0917 - one argument for each object
    engine: EngineName,
    mesh: PreparedMesh | UploadedMesh,
    original: Mesh | None,
    resolution: int,
    field: VoxelField,
    options: Options,
    settings: ExportSettings,
    report: Report,
) -> Outcome:
    """Export the textured GLB, which is large; see `pipeline.export_model`.

    Args:
        engine: name of the engine that made the shape and the field.
        mesh: the prepared mesh, or an uploaded mesh.
        original: the shape's mesh before it was prepared; None: an uploaded mesh.
        resolution: of the shape.
        field: the material.
        options: the job's options.
        settings: the export settings.
        report: called with the progress.
    """
    geometry: Geometry | UploadedMesh
    if isinstance(mesh, pipeline.UploadedMesh):
        geometry = writable(mesh)
    else:
        shape = Shape(writable(original or mesh), resolution, state=None)
        geometry = Geometry(shape, writable(mesh))
    glb = pipeline.export_model(engine, geometry, writable(field), options, settings, report)
    return Outcome(None, (glb,))


def export_snapshots(  # noqa: PLR0913, PLR0917 - see `snapshots.export_again`
    engine: str,
    shape: bytes,
    field: bytes | None,
    options: Options,
    settings: ExportSettings,
    limits: DecoderLimits,
    report: Report,
) -> Outcome:
    """Export stored snapshots as a GLB, which is large; see `snapshots.export_again`."""
    glb = snapshots.export_again(
        EngineName(engine), shape, field, options, settings, _decoders(limits), report
    )
    return Outcome(None, (glb,))


def convert_model(glb: bytes, file_type: DerivedForm, report: Report) -> Outcome:
    """Convert or draw a GLB, the result is large; see `pipeline.convert`."""
    return Outcome(None, (pipeline.convert(glb, file_type, report),))


def snapshot_shape(mesh: Mesh, resolution: int) -> bytes:
    """Serialize a shape; see `snapshots.shape_snapshot`."""
    return snapshots.shape_snapshot(Shape(mesh, resolution, state=None))


def snapshot_field(field: VoxelField) -> bytes:
    """Serialize a field; see `snapshots.field_snapshot`."""
    return snapshots.field_snapshot(field)
