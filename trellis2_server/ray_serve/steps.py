"""What a step takes and gives when it runs on another machine, and the steps that need no engine.

A shape's mesh and its engine's state, a geometry's prepared mesh, a field: each lies in Ray's
object store on the machine that made it, and only references to it travel until somebody
needs what is in it. The exports run as Ray tasks on the machine where most of their input lies.

What this module does not know: jobs, which engine it is, who waits for a step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import ray

from trellis2_server import pipeline
from trellis2_server.jobs.executor import md5
from trellis2_server.mesh import Shape
from trellis2_server.pipeline import Geometry
from trellis2_server.ray_serve.stream import Outcome, tell
from trellis2_server.storage.snapshots import (
    EngineName,
    export_again,
    field_snapshot,
    shape_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh, VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import GivenMesh, Report
    from trellis2_server.settings import ExportSettings

T = TypeVar("T")


class ShapeParts(NamedTuple):
    """A shape that lies elsewhere.

    Attributes:
        resolution: as of `mesh.Shape`.
        warnings: as of `mesh.Shape`.
        mesh: refers to the mesh.
        state: refers to the engine's state.
        node: Ray's id of the machine where both lie.
        cutout: what it was made of, to make it once more should it get lost.
        options: likewise.
    """

    resolution: int
    warnings: tuple[str, ...]
    mesh: Any
    state: Any
    node: str
    cutout: Cutout
    options: Options


@dataclass(slots=True, eq=False)
class GeometryParts:
    """A geometry that lies elsewhere; where it gets lost, its parts are made anew.

    Attributes:
        shape: it was made of; None: of a client's mesh.
        mesh: refers to the prepared mesh, or to a `pipeline.GivenMesh`.
        given: refers to the client's file; None: there was a shape.
        options: with which it was exported.
    """

    shape: ShapeParts | None
    mesh: Any
    options: Options
    given: Any = None


class FieldParts(NamedTuple):
    """A field that lies elsewhere.

    Attributes:
        field: refers to it.
        node: Ray's id of the machine where it lies.
        warnings: as of `mesh.VoxelField`.
    """

    field: Any
    node: str
    warnings: tuple[str, ...] = ()


class RemoteShape:
    """A shape in an engine's hands; its mesh is fetched when it is looked at.

    TRELLIS.2's texture stage looks at the state alone.
    """

    def __init__(self, resolution: int, mesh: list[Any], state: object) -> None:
        self.resolution = resolution
        self.state = state
        self.warnings: tuple[str, ...] = ()
        self._reference = mesh

    @property
    def mesh(self) -> Mesh:
        """The mesh, from wherever it lies."""
        return owned(cast("Mesh", ray.get(self._reference[0])))


def owned(value: T) -> T:
    """The same, with arrays that may be written to; those from the object store may not.

    Compiled loops would be compiled once more for arrays that may only be read.
    """
    if isinstance(value, np.ndarray):
        return value.copy()  # pyright: ignore[reportReturnType]
    if is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: owned(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changes)
    if isinstance(value, tuple | list):
        items = [owned(item) for item in value]
        return type(value)(items)  # pyright: ignore[reportReturnType]
    if isinstance(value, dict):
        return {key: owned(item) for key, item in value.items()}  # pyright: ignore[reportReturnType]
    return value


def on_cpu(value: T) -> T:
    """The same, with arrays that lie on a device as numpy's, so that they can travel."""
    if hasattr(value, "cpu"):
        return np.asarray(value.cpu())  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]
    if is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: on_cpu(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changes)
    return value


def shape_outcome(shape: Shape) -> Outcome:
    """A shape, to be told of: its mesh and its state are large."""
    small = int(shape.resolution), tuple(shape.warnings), _node()
    return Outcome(small, (on_cpu(shape.mesh), shape.state))


def field_outcome(field: VoxelField) -> Outcome:
    """A field, likewise."""
    return Outcome((_node(), tuple(field.warnings)), (on_cpu(field),))


def _node() -> str:
    return ray.get_runtime_context().get_node_id()


# ---- tasks -------------------------------------------------------------------------------


def as_stream(what: str, step: Callable[..., Outcome], *parts: Any) -> Generator[Any]:
    """The stream of one of the steps below, which gets its parts and a report."""
    yield from tell(what, partial(step, *parts))


def export_shape(
    engine: EngineName, mesh: Mesh, resolution: int, options: Options, report: Report
) -> Outcome:
    """The untextured GLB's digest; the prepared mesh and the GLB."""
    shape = Shape(owned(mesh), resolution, state=None)
    geometry, glb = pipeline.export_shape(engine, shape, options, report)
    return Outcome(md5(glb), (geometry.mesh, glb))


def read_mesh(engine: EngineName, content: bytes, options: Options, report: Report) -> Outcome:
    """The same of a client's file: instead of the mesh, a `pipeline.GivenMesh`."""
    given, glb = pipeline.read_mesh(engine, content, options, report)
    return Outcome(md5(glb), (given, glb))


def prepare_mesh(mesh: Mesh, resolution: int, options: Options, report: Report) -> Outcome:
    """The prepared mesh alone: it was lost."""
    shape = Shape(owned(mesh), resolution, state=None)
    return Outcome(None, (pipeline.prepare_shape(shape, options, report).mesh,))


def export_model(  # noqa: PLR0913, PLR0917 - one argument per thing that is joined here
    engine: EngineName,
    mesh: Mesh | GivenMesh,
    original: Mesh | None,
    resolution: int,
    field: VoxelField,
    options: Options,
    settings: ExportSettings,
    report: Report,
) -> Outcome:
    """The textured GLB.

    Args:
        engine: who made it.
        mesh: prepared, or a client's.
        original: before it was prepared; None: it is a client's.
        resolution: of the shape.
        field: the material.
        options: the job's.
        settings: as of any export.
        report: as of any export.
    """
    geometry: Geometry | GivenMesh
    if isinstance(mesh, pipeline.GivenMesh):
        geometry = owned(mesh)
    else:
        whole = Shape(owned(original or mesh), resolution, state=None)
        geometry = Geometry(whole, owned(mesh))
    glb = pipeline.export_model(engine, geometry, owned(field), options, settings, report)
    return Outcome(None, (glb,))


def export_snapshot(  # noqa: PLR0913, PLR0917 - as of `kept.export_again`
    made_by: str,
    shape: bytes,
    field: bytes | None,
    options: Options,
    settings: ExportSettings,
    report: Report,
) -> Outcome:
    """A kept model as a GLB."""
    return Outcome(
        None, (export_again(EngineName(made_by), shape, field, options, settings, report),)
    )


def snapshot_shape(mesh: Mesh, resolution: int) -> bytes:
    """As `kept.shape_snapshot`."""
    return shape_snapshot(Shape(mesh, resolution, state=None))


def snapshot_field(field: VoxelField) -> bytes:
    """As `kept.field_snapshot`."""
    return field_snapshot(field)
