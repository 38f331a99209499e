"""Snapshots of a job's geometry and material, for exporting again with other parameters.

    shape_snapshot   the shape's mesh, before any decimation
    mesh_snapshot    the uploaded mesh file instead of a shape
    field_snapshot   the material
    export_again     snapshots → GLB, without the engine

Snapshots are exact: an export with the job's own parameters gives the same file.

Does not know: where snapshots are stored, jobs, threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server import pipeline
from trellis2_server.errors import StoreError
from trellis2_server.mesh import Mesh, Shape, VoxelField
from trellis2_server.storage.serialization import deserialize_arrays, serialize_arrays

if TYPE_CHECKING:
    from trellis2_server.decoders import DecoderPool
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Geometry, UploadedMesh
    from trellis2_server.reports import Report
    from trellis2_server.settings import ExportSettings

#: File names of snapshots.
SHAPE_SNAPSHOT: Final = "shape.kept"
FIELD_SNAPSHOT: Final = "field.kept"


@dataclass(frozen=True, slots=True)
class EngineName:
    """The name of the engine that made a shape.

    Attributes:
        name: as in `Engine.name`.
    """

    name: str


def shape_snapshot(shape: Shape) -> bytes:
    """Serialize a shape, without its engine's own state."""
    arrays = {
        "vertices": np.asarray(shape.mesh.vertices, np.float32),
        "faces": np.asarray(shape.mesh.faces, np.int32).reshape(-1),
    }
    return serialize_arrays(arrays, {"resolution": int(shape.resolution)})


def mesh_snapshot(content: bytes) -> bytes:
    """Serialize an uploaded mesh file."""
    return serialize_arrays({"file": np.frombuffer(content, np.uint8)}, {"up_axis": "auto"})


def field_snapshot(field: VoxelField) -> bytes:
    """Serialize a voxel field."""
    arrays = {
        "coords": np.asarray(field.coords, np.int32),
        "attributes": np.asarray(field.attributes, np.float32),
    }
    return serialize_arrays(arrays, {"resolution": int(field.resolution)})


def export_again(  # noqa: PLR0913, PLR0917 - the inputs of an export
    maker: EngineName,
    shape: bytes,
    field: bytes | None,
    options: Options,
    settings: ExportSettings,
    decoders: DecoderPool,
    report: Report,
) -> bytes:
    """Export a GLB from snapshots: textured if there is a field.

    Args:
        maker: the engine that made the shape.
        shape: from `shape_snapshot` or `mesh_snapshot`.
        field: from `field_snapshot`; None for the untextured GLB.
        options: the job's, with other values for the export.
        settings: the operator's settings for exports.
        decoders: read an uploaded mesh.
        report: called with the progress.

    Raises:
        StoreError: the bytes are not snapshots.
        ExportError: the export failed.
    """
    arrays, metadata = deserialize_arrays(shape)
    geometry: Geometry | UploadedMesh
    if "file" in arrays:
        content = arrays["file"].tobytes()
        if options.up_axis == "auto" and "up_axis" not in metadata:
            # Stored before files could have Z up: the field was made of one with Y up.
            options = replace(options, up_axis="y")
        geometry, glb = pipeline.read_mesh(maker, content, options, decoders, report)
        if field is None:
            return glb
    else:
        faces = arrays["faces"].reshape(-1, 3)
        original = Shape(Mesh(arrays["vertices"], faces), int(metadata["resolution"]), state=None)
        if field is None:
            return pipeline.export_shape(maker, original, options, report)[1]
        geometry = pipeline.prepare_shape(original, options, report)
    return pipeline.export_model(maker, geometry, _read_field(field), options, settings, report)


def _read_field(content: bytes) -> VoxelField:
    arrays, metadata = deserialize_arrays(content)
    try:
        return VoxelField(arrays["coords"], arrays["attributes"], int(metadata["resolution"]))
    except KeyError as error:
        raise StoreError("the snapshot is not a voxel field") from error
