"""Smaller triangles: quantised and compressed, as two glTF extensions define it.

What this module does not know: textures, materials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export import subprocess_call
from trellis2_server.export.glb import SHORT_VERTICES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.glb import Compression, File, Geometry

_BYTE, _SHORT, _USHORT, _UINT, _FLOAT = 5120, 5122, 5123, 5125, 5126
_ARRAY, _INDICES = 34962, 34963
_SHORT_MAX: Final = 32767
_DRACO_DEADLINE_S: Final = 120.0


def add(file: File, shape: Geometry, compress: Compression) -> dict[str, Any]:
    """Add the compressed triangles to `file`, and return the primitive that uses them.

    Raises:
        ExportError: the encoder failed.
        MissingPackageError: the encoder is not installed.
    """
    return (_add_meshopt if compress == "meshopt" else _add_draco)(file, shape)


def _add_meshopt(file: File, shape: Geometry) -> dict[str, Any]:
    """EXT_meshopt_compression over KHR_mesh_quantization.

    Positions become 16-bit, normals 8-bit, texture coordinates 16-bit integers, all
    normalised; a mesh that leaves [-1, 1] gets the scale of its node.
    """
    try:
        import meshopt
    except ImportError as error:
        raise MissingPackageError(
            "meshopt compression needs a package: run `pip install meshopt` (Python 3.11 or later)."
        ) from error
    file.require("KHR_mesh_quantization")
    file.require("EXT_meshopt_compression")
    try:
        indices, place, used = meshopt.reorder_mesh(
            shape.faces.reshape(-1), triangles=True, optsize=False
        )
        rows = np.empty(used, np.int64)
        is_used = place < used
        rows[place[is_used]] = np.flatnonzero(is_used)
        reach = float(np.abs(shape.positions).max())
        scale = max(1.0, reach)
        if scale > 1.0:
            file.json["nodes"][0]["scale"] = [scale] * 3
        positions = np.zeros((used, 4), "<i2")
        positions[:, :3] = np.rint(shape.positions[rows] * (_SHORT_MAX / scale))
        normals = np.zeros((used, 4), np.float32)
        normals[:, :3] = shape.normals[rows]
        octahedra = meshopt.encode_filter_oct(normals, 4, 8)
        attributes = {
            "POSITION": _add_view(
                file, meshopt.encode_gltf_buffer(positions, "ATTRIBUTES"), used, 8,
                componentType=_SHORT, type="VEC3", normalized=True,
                min=positions[:, :3].min(axis=0).tolist(),
                max=positions[:, :3].max(axis=0).tolist(),
            ),
            "NORMAL": _add_view(
                file, meshopt.encode_gltf_buffer(octahedra, "ATTRIBUTES"), used, 4,
                view_filter="OCTAHEDRAL", componentType=_BYTE, type="VEC3", normalized=True,
            ),
        }  # fmt: skip
        if shape.uv is not None:
            uv = np.rint(shape.uv[rows] * 65535).astype("<u2")
            attributes["TEXCOORD_0"] = _add_view(
                file, meshopt.encode_gltf_buffer(uv, "ATTRIBUTES"), used, 4,
                componentType=_USHORT, type="VEC2", normalized=True,
            )  # fmt: skip
        is_short = used <= SHORT_VERTICES
        triangles = indices.astype("<u2" if is_short else "<u4")
        accessor = _add_view(
            file, meshopt.encode_gltf_buffer(triangles, "TRIANGLES"), int(indices.size),
            2 if is_short else 4, mode="TRIANGLES",
            componentType=_USHORT if is_short else _UINT, type="SCALAR",
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise ExportError("meshopt could not compress this mesh.") from error
    return {"attributes": attributes, "indices": accessor, "mode": 4}


def _add_view(  # noqa: PLR0913
    file: File,
    content: bytes,
    count: int,
    stride: int,
    *,
    mode: str = "ATTRIBUTES",
    view_filter: str | None = None,
    **accessor: object,
) -> int:
    """An accessor over a compressed view: its bytes stand in the file, its size in a fallback."""
    fallback = 1
    if len(file.buffers) <= fallback:
        file.buffers.append(
            {"byteLength": 0, "extensions": {"EXT_meshopt_compression": {"fallback": True}}}
        )
    plain = file.buffers[fallback]
    start = plain["byteLength"]
    plain["byteLength"] = start + count * stride + (-count * stride) % 4
    packed: dict[str, Any] = {
        "buffer": 0,
        "byteOffset": file.append(content),
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
        "target": _ARRAY if mode == "ATTRIBUTES" else _INDICES,
        "extensions": {"EXT_meshopt_compression": packed},
    }
    if mode == "ATTRIBUTES":
        view["byteStride"] = stride
    item = {"bufferView": file.add("bufferViews", view), "count": count, **accessor}
    return file.add("accessors", item)


def _add_draco(file: File, shape: Geometry) -> dict[str, Any]:
    """KHR_draco_mesh_compression: 16 bits for positions and texture coordinates."""
    arrays: dict[str, NDArray[Any]] = {
        "positions": shape.positions,
        "normals": shape.normals,
        "faces": shape.faces,
    }
    if shape.uv is not None:
        arrays["uv"] = shape.uv
    packed = subprocess_call.call("draco", arrays, _DRACO_DEADLINE_S)
    file.require("KHR_draco_mesh_compression")
    points, ids = packed["positions"], packed["ids"].tolist()
    accessors: dict[str, dict[str, Any]] = {
        "POSITION": {
            "type": "VEC3",
            "min": points.min(axis=0).tolist(),
            "max": points.max(axis=0).tolist(),
        },
        "NORMAL": {"type": "VEC3"},
        "TEXCOORD_0": {"type": "VEC2"},
    }
    names = ["POSITION", "NORMAL"] + (["TEXCOORD_0"] if shape.uv is not None else [])
    attributes = {
        name: file.add(
            "accessors", {"componentType": _FLOAT, "count": len(points), **accessors[name]}
        )
        for name in names
    }
    indices = {
        "componentType": _USHORT if len(points) <= SHORT_VERTICES else _UINT,
        "count": 3 * int(packed["face_count"]),
        "type": "SCALAR",
    }
    return {
        "attributes": attributes,
        "indices": file.add("accessors", indices),
        "mode": 4,
        "extensions": {
            "KHR_draco_mesh_compression": {
                "bufferView": file.add_bytes(packed["content"]),
                "attributes": dict(zip(names, ids, strict=False)),
            }
        },
    }
