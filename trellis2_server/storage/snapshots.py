"""What is kept of a job, so that its files can be made again with other parameters.

    kept_shape    the shape's mesh, before any decimation
    kept_mesh     the file that the client gave instead
    kept_field    the material
    export_again  → a GLB, without the engine

Everything is kept bit for bit: with the job's own parameters the same file comes out.

What this module does not know: where it is kept, jobs, threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server import pipeline
from trellis2_server.errors import StoreError
from trellis2_server.mesh import Mesh, Shape, VoxelField
from trellis2_server.storage.serialization import pack, unpack

if TYPE_CHECKING:
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Geometry, GivenMesh, Report
    from trellis2_server.settings import ExportSettings

#: Names under which it is kept.
SHAPE_SNAPSHOT: Final = "shape.kept"
FIELD_SNAPSHOT: Final = "field.kept"


@dataclass(frozen=True, slots=True)
class EngineName:
    """The engine that made something, as far as a file tells.

    Attributes:
        name: the engine's.
    """

    name: str


def shape_snapshot(shape: Shape) -> bytes:
    """The shape, without what only its engine knows."""
    arrays = {
        "vertices": np.asarray(shape.mesh.vertices, np.float32),
        "faces": np.asarray(shape.mesh.faces, np.int32).reshape(-1),
    }
    return pack(arrays, {"resolution": int(shape.resolution)})


def mesh_snapshot(content: bytes) -> bytes:
    """A client's mesh file."""
    return pack({"file": np.frombuffer(content, np.uint8)})


def field_snapshot(field: VoxelField) -> bytes:
    """The field."""
    arrays = {
        "coords": np.asarray(field.coords, np.int32),
        "attributes": np.asarray(field.attributes, np.float32),
    }
    return pack(arrays, {"resolution": int(field.resolution)})


def export_again(  # noqa: PLR0913, PLR0917 - one argument per thing that is joined here
    maker: EngineName,
    shape: bytes,
    field: bytes | None,
    options: Options,
    settings: ExportSettings,
    report: Report,
) -> bytes:
    """The GLB: textured where there is a field.

    Args:
        maker: of the shape.
        shape: from `shape_snapshot` or `mesh_snapshot`.
        field: from `field_snapshot`; None for the untextured GLB.
        options: the job's, with others for the export.
        settings: as of any export.
        report: stages as of any export.

    Raises:
        StoreError: the bytes are not what was kept.
        ExportError: as of any export.
    """
    arrays, says = unpack(shape)
    geometry: Geometry | GivenMesh
    if "file" in arrays:
        geometry, glb = pipeline.read_mesh(maker, arrays["file"].tobytes(), options, report)
        if field is None:
            return glb
    else:
        faces = arrays["faces"].reshape(-1, 3)
        whole = Shape(Mesh(arrays["vertices"], faces), int(says["resolution"]), state=None)
        if field is None:
            return pipeline.export_shape(maker, whole, options, report)[1]
        geometry = pipeline.prepare_shape(whole, options, report)
    return pipeline.export_model(maker, geometry, _field(field), options, settings, report)


def _field(content: bytes) -> VoxelField:
    arrays, says = unpack(content)
    try:
        return VoxelField(arrays["coords"], arrays["attributes"], int(says["resolution"]))
    except KeyError as error:
        raise StoreError("what was kept is no field") from error
