"""Compressed triangles in a GLB, by two glTF extensions.

Formats: Khronos, EXT_meshopt_compression with KHR_mesh_quantization, KHR_draco_mesh_compression.

Does not know: textures, materials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export import subprocess_call
from trellis2_server.export.gltf import (
    ARRAY_BUFFER,
    BYTE,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    MAX_SHORT_VERTICES,
    SHORT,
    UINT,
    USHORT,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.geometry import GltfGeometry
    from trellis2_server.export.gltf import GltfBuilder
    from trellis2_server.request_fields import Compression

#: Largest value of a normalised 16-bit integer.
_MAX_SHORT: Final = 32767
#: Time after which Draco is stopped, seconds.
DRACO_DEADLINE_S: Final = 120.0


def add_compressed(
    builder: GltfBuilder, geometry: GltfGeometry, compress: Compression
) -> dict[str, Any]:
    """Add compressed triangles to the file and return the mesh primitive that uses them.

    Raises:
        ExportError: the encoder failed.
        MissingPackageError: the encoder is not installed.
    """
    return (_add_meshopt if compress == "meshopt" else _add_draco)(builder, geometry)


def import_meshopt() -> Any:
    """Return the package `meshopt`.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import meshopt
    except ImportError as error:
        raise MissingPackageError(
            "meshopt compression needs a package: run `pip install meshopt` (Python 3.11 or later)."
        ) from error
    return meshopt


def _add_meshopt(builder: GltfBuilder, geometry: GltfGeometry) -> dict[str, Any]:
    """EXT_meshopt_compression over KHR_mesh_quantization.

    Positions and texture coordinates become normalised 16-bit integers, normals 8-bit ones. A mesh
    that exceeds [-1, 1] is scaled down, and its node scales it up again.
    """
    meshopt = import_meshopt()
    builder.require("KHR_mesh_quantization")
    builder.require("EXT_meshopt_compression")
    try:
        indices, new_index, used = meshopt.reorder_mesh(
            geometry.faces.reshape(-1), triangles=True, optsize=False
        )
        rows = np.empty(used, np.int64)
        is_used = new_index < used
        rows[new_index[is_used]] = np.flatnonzero(is_used)
        largest = float(np.abs(geometry.positions).max())
        scale = max(1.0, largest)
        if scale > 1.0:
            builder.json["nodes"][0]["scale"] = [scale] * 3
        positions = np.zeros((used, 4), "<i2")
        positions[:, :3] = np.rint(geometry.positions[rows] * (_MAX_SHORT / scale))
        normals = np.zeros((used, 4), np.float32)
        normals[:, :3] = geometry.normals[rows]
        octahedra = meshopt.encode_filter_oct(normals, 4, 8)
        attributes = {
            "POSITION": _add_view(
                builder, meshopt.encode_gltf_buffer(positions, "ATTRIBUTES"), used, 8,
                componentType=SHORT, type="VEC3", normalized=True,
                min=positions[:, :3].min(axis=0).tolist(),
                max=positions[:, :3].max(axis=0).tolist(),
            ),
            "NORMAL": _add_view(
                builder, meshopt.encode_gltf_buffer(octahedra, "ATTRIBUTES"), used, 4,
                view_filter="OCTAHEDRAL", componentType=BYTE, type="VEC3", normalized=True,
            ),
        }  # fmt: skip
        if geometry.tangents is not None:
            octahedra = meshopt.encode_filter_oct(geometry.tangents[rows], 4, 8)
            attributes["TANGENT"] = _add_view(
                builder, meshopt.encode_gltf_buffer(octahedra, "ATTRIBUTES"), used, 4,
                view_filter="OCTAHEDRAL", componentType=BYTE, type="VEC4", normalized=True,
            )  # fmt: skip
        if geometry.uv is not None:
            uv = np.rint(geometry.uv[rows] * 65535).astype("<u2")
            attributes["TEXCOORD_0"] = _add_view(
                builder, meshopt.encode_gltf_buffer(uv, "ATTRIBUTES"), used, 4,
                componentType=USHORT, type="VEC2", normalized=True,
            )  # fmt: skip
        is_short = used <= MAX_SHORT_VERTICES
        triangles = indices.astype("<u2" if is_short else "<u4")
        accessor = _add_view(
            builder, meshopt.encode_gltf_buffer(triangles, "TRIANGLES"), int(indices.size),
            2 if is_short else 4, mode="TRIANGLES",
            componentType=USHORT if is_short else UINT, type="SCALAR",
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise ExportError("meshopt could not compress this mesh.") from error
    return {"attributes": attributes, "indices": accessor, "mode": 4}


def _add_view(  # noqa: PLR0913
    builder: GltfBuilder,
    content: bytes,
    count: int,
    stride: int,
    *,
    mode: str = "ATTRIBUTES",
    view_filter: str | None = None,
    **accessor: object,
) -> int:
    """Add an accessor over a compressed buffer view and return its index."""
    target = ARRAY_BUFFER if mode == "ATTRIBUTES" else ELEMENT_ARRAY_BUFFER
    view = add_meshopt_bytes(
        builder, content, count, stride, mode=mode, view_filter=view_filter, target=target
    )
    return builder.add("accessors", {"bufferView": view, "count": count, **accessor})


def add_meshopt_bytes(  # noqa: PLR0913 - what the extension says of a view
    builder: GltfBuilder,
    content: bytes,
    count: int,
    stride: int,
    *,
    mode: str,
    view_filter: str | None,
    target: int,
) -> int:
    """Add a compressed buffer view and return its index.

    The compressed bytes are in the binary chunk. A fallback buffer without content has the size of
    the uncompressed view, as the extension requires.

    Args:
        builder: of the file.
        content: compressed bytes.
        count: number of rows, or of indices.
        stride: size of one, bytes.
        mode: "ATTRIBUTES" or "TRIANGLES".
        view_filter: of the extension; None: no filter.
        target: of the view.
    """
    fallback = 1
    if len(builder.buffers) <= fallback:
        builder.buffers.append(
            {"byteLength": 0, "extensions": {"EXT_meshopt_compression": {"fallback": True}}}
        )
    fallback_buffer = builder.buffers[fallback]
    start = fallback_buffer["byteLength"]
    fallback_buffer["byteLength"] = start + count * stride + (-count * stride) % 4
    packed: dict[str, Any] = {
        "buffer": 0,
        "byteOffset": builder.append(content),
        "byteLength": len(content),
        "byteStride": stride,
        "count": count,
        "mode": mode,
    }
    if view_filter:
        packed["filter"] = view_filter
    view: dict[str, Any] = {
        "buffer": fallback,
        "byteOffset": start,
        "byteLength": count * stride,
        "target": target,
        "extensions": {"EXT_meshopt_compression": packed},
    }
    if mode == "ATTRIBUTES":
        view["byteStride"] = stride
    return builder.add("bufferViews", view)


def _add_draco(builder: GltfBuilder, geometry: GltfGeometry) -> dict[str, Any]:
    """KHR_draco_mesh_compression, with 16 bits for positions and texture coordinates."""
    arrays: dict[str, NDArray[Any]] = {
        "positions": geometry.positions,
        "normals": geometry.normals,
        "faces": geometry.faces,
    }
    if geometry.uv is not None:
        arrays["uv"] = geometry.uv
    packed = subprocess_call.call("draco", arrays, DRACO_DEADLINE_S)
    builder.require("KHR_draco_mesh_compression")
    points, ids = packed["positions"], packed["ids"].tolist()
    names = ["POSITION", "NORMAL"] + (["TEXCOORD_0"] if geometry.uv is not None else [])
    return add_draco_primitive(
        builder,
        packed["content"],
        dict(zip(names, ids, strict=False)),
        points=len(points),
        faces=int(packed["face_count"]),
        bounds=np.array([points.min(axis=0), points.max(axis=0)]),
    )


def add_draco_primitive(  # noqa: PLR0913 - what the extension says of a primitive
    builder: GltfBuilder,
    content: NDArray[np.uint8],
    ids: dict[str, int],
    *,
    points: int,
    faces: int,
    bounds: NDArray[np.float32],
) -> dict[str, Any]:
    """Add triangles that Draco has compressed and return their primitive.

    Args:
        builder: of the file.
        content: compressed bytes.
        ids: Draco's id of each attribute.
        points: number of vertices after decompression.
        faces: number of faces after decompression.
        bounds: float32 [2, 3], least and greatest position after decompression.
    """
    accessors: dict[str, dict[str, Any]] = {
        "POSITION": {"type": "VEC3", "min": bounds[0].tolist(), "max": bounds[1].tolist()},
        "NORMAL": {"type": "VEC3"},
        "TEXCOORD_0": {"type": "VEC2"},
    }
    attributes = {
        name: builder.add("accessors", {"componentType": FLOAT, "count": points, **accessors[name]})
        for name in ids
    }
    indices = {
        "componentType": USHORT if points <= MAX_SHORT_VERTICES else UINT,
        "count": 3 * faces,
        "type": "SCALAR",
    }
    return {
        "attributes": attributes,
        "indices": builder.add("accessors", indices),
        "mode": 4,
        "extensions": {
            "KHR_draco_mesh_compression": {
                "bufferView": builder.add_bytes(content),
                "attributes": ids,
            }
        },
    }
