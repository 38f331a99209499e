"""References to the results of steps, which stay on the machine that made them.

The mesh of a shape and its engine's state, the prepared mesh of a geometry, and a field lie in
Ray's object store; only references to them travel until a step needs their content.

Does not know: jobs, which engine it is, how a step is called.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import ray

from trellis2_server.ray_serve.stream import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh, Shape, VoxelField
    from trellis2_server.parameters import Options

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class ShapeReference:
    """A shape on another machine; a `ShapeSummary`.

    `Recovery` replaces its parts when they are lost, so that all steps of a job that need the
    shape get the new ones.

    Attributes:
        resolution: see `mesh.Shape`.
        warnings: see `mesh.Shape`.
        mesh: reference to the mesh.
        state: reference to the engine's state.
        node: Ray's id of the machine with both.
        cutout: input of the step, to repeat it when the shape is lost.
        options: input of the step, for the same purpose.
        details: see `mesh.Shape`.
        lock: held while the shape is made again.
    """

    resolution: int
    warnings: tuple[str, ...]
    mesh: Any
    state: Any
    node: str
    cutout: Cutout
    options: Options
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def replace_by(self, shape: ShapeReference) -> None:
        """Take the parts of a shape that was made again."""
        self.resolution, self.warnings = shape.resolution, shape.warnings
        self.details = shape.details
        self.mesh, self.state, self.node = shape.mesh, shape.state, shape.node


@dataclass(slots=True, eq=False)
class GeometryReference:
    """A geometry on another machine; `Recovery` replaces its parts when they are lost.

    Attributes:
        shape: the shape; None: an uploaded mesh.
        mesh: reference to the prepared mesh, or to a `pipeline.UploadedMesh`; None: not made yet.
        options: input of the step `shape_export`.
        content: reference to the uploaded mesh file; None: there is a shape.
    """

    shape: ShapeReference | None
    mesh: Any
    options: Options
    content: Any = None


class FieldReference(NamedTuple):
    """A field on another machine; a `FieldSummary`.

    Attributes:
        field: reference to the field.
        node: Ray's id of the machine with the field.
        warnings: see `mesh.VoxelField`.
        details: see `mesh.VoxelField`.
    """

    field: Any
    node: str
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = MappingProxyType({})


class LazyShape:
    """A `mesh.Shape` whose mesh is fetched when it is accessed.

    TRELLIS.2's texture stage accesses the state only.

    Args:
        resolution: see `mesh.Shape`.
        mesh: list with the reference to the mesh; Ray would fetch a reference outside a list.
        state: the engine's state.
    """

    def __init__(self, resolution: int, mesh: list[Any], state: object) -> None:
        self.resolution = resolution
        self.state = state
        self.warnings: tuple[str, ...] = ()
        self.details: Mapping[str, str] = {}
        self._reference = mesh

    @property
    def mesh(self) -> Mesh:
        """The mesh, fetched from the object store."""
        return fetch(self._reference)


def fetch(reference: list[Any]) -> Mesh:
    """Return a writable mesh, fetched from the object store.

    Args:
        reference: list with the reference to the mesh.
    """
    return writable(cast("Mesh", ray.get(reference[0])))


def writable(value: T) -> T:
    """Return a copy with writable arrays; arrays from the object store are read-only.

    Compiled loops would be compiled again for read-only arrays.
    """
    if isinstance(value, np.ndarray):
        return value.copy()  # pyright: ignore[reportReturnType]
    if is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: writable(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changes)
    if isinstance(value, tuple | list):
        items = [writable(item) for item in value]
        return type(value)(items)  # pyright: ignore[reportReturnType]
    if isinstance(value, dict):
        return {key: writable(item) for key, item in value.items()}  # pyright: ignore[reportReturnType]
    return value


def on_cpu(value: T) -> T:
    """Return the value with NumPy arrays instead of arrays on a device."""
    if hasattr(value, "cpu"):
        return np.asarray(value.cpu())  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]
    if is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: on_cpu(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changes)
    return value


def shape_outcome(shape: Shape) -> Outcome:
    """Return the outcome of the step `shape`; its mesh and its state are large."""
    value = int(shape.resolution), tuple(shape.warnings), current_node(), dict(shape.details)
    return Outcome(value, (on_cpu(shape.mesh), shape.state))


def field_outcome(field: VoxelField) -> Outcome:
    """Return the outcome of the step `texture`; the field is large."""
    return Outcome((current_node(), tuple(field.warnings), dict(field.details)), (on_cpu(field),))


def current_node() -> str:
    """Return Ray's id of this machine."""
    return ray.get_runtime_context().get_node_id()
