"""Compressed triangles of a scene with many parts in a GLB.

    meshopt   positions and texture coordinates stay as they are, and faces in their order; normals
              have 8 bits. No node changes. All parts share a few buffer views.
    draco     positions and texture coordinates have 16 bits over the extent of their part, normals
              10 bits. Faces get another order, and those whose corners coincide are left out. A
              part that Draco cannot compress is stored as it is.

Formats: Khronos, EXT_meshopt_compression with KHR_mesh_quantization, KHR_draco_mesh_compression.

Does not know: nodes, textures, materials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export import subprocess_call
from trellis2_server.export.cancellation import check
from trellis2_server.export.compression import (
    DRACO_DEADLINE_S,
    add_draco_primitive,
    add_meshopt_bytes,
    import_meshopt,
)
from trellis2_server.export.geometry import GltfParts
from trellis2_server.export.gltf import (
    ARRAY_BUFFER,
    BYTE,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    MAX_SHORT_VERTICES,
    UINT,
    USHORT,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.export.gltf import GltfBuilder
    from trellis2_server.request_fields import Compression

    #: Adds parts that are not compressed; returns their primitives.
    AddParts = Callable[[GltfBuilder, GltfParts], list[dict[str, Any]]]

#: Rows of normals that are filtered at a time.
_ROWS_AT_ONCE: Final = 1 << 18


def add_compressed_parts(
    builder: GltfBuilder, parts: GltfParts, compress: Compression, add_plain: AddParts
) -> list[dict[str, Any]]:
    """Add compressed triangles to the file and return the primitives of the parts.

    Args:
        builder: of the file.
        parts: the triangles.
        compress: the method.
        add_plain: for parts that cannot be compressed.

    Raises:
        ExportError: the encoder failed.
        MissingPackageError: the encoder is not installed.
    """
    if compress == "meshopt":
        return _add_meshopt(builder, parts)
    return _add_draco(builder, parts, add_plain)


# ---- meshopt ---------------------------------------------------------------------------------


def _add_meshopt(builder: GltfBuilder, parts: GltfParts) -> list[dict[str, Any]]:
    meshopt = import_meshopt()
    builder.require("EXT_meshopt_compression")
    try:
        first = np.cumsum(parts.vertices) - parts.vertices
        low, high = (
            extreme.reduceat(parts.positions, first).tolist()
            for extreme in (np.minimum, np.maximum)
        )
        positions = _add_rows(builder, parts.positions, parts.vertices, FLOAT)
        for at, least, most in zip(positions, low, high, strict=True):
            builder.json["accessors"][at] |= {"min": least, "max": most}
        primitives: list[dict[str, Any]] = [{"attributes": {"POSITION": at}} for at in positions]
        smooth = np.flatnonzero(parts.has_normals).tolist()
        if smooth:
            builder.require("KHR_mesh_quantization")
            octahedra = _octahedra(meshopt, parts.normals)
            normals = _add_rows(
                builder, octahedra, parts.vertices[smooth], BYTE, view_filter="OCTAHEDRAL"
            )
            for part, at in zip(smooth, normals, strict=True):
                primitives[part]["attributes"]["NORMAL"] = at
        if parts.uv is not None:
            uvs = _add_rows(builder, parts.uv, parts.vertices, FLOAT)
            for primitive, at in zip(primitives, uvs, strict=True):
                primitive["attributes"]["TEXCOORD_0"] = at
        for primitive, at in zip(primitives, _add_faces(builder, parts), strict=True):
            primitive |= {"indices": at, "mode": 4}
    except (ValueError, RuntimeError) as error:
        raise ExportError("meshopt could not compress this mesh.") from error
    return primitives


def _octahedra(meshopt: Any, normals: NDArray[np.float32]) -> NDArray[Any]:
    """Return normals as the extension's filter decodes them, int8 [N, 4]."""
    found: list[NDArray[Any]] = []
    for start in range(0, len(normals), _ROWS_AT_ONCE):
        check()
        rows = np.zeros((len(normals[start : start + _ROWS_AT_ONCE]), 4), np.float32)
        rows[:, :3] = normals[start : start + _ROWS_AT_ONCE]
        found.append(np.asarray(meshopt.encode_filter_oct(rows, 4, 8)).view(np.int8).reshape(-1, 4))
    return np.concatenate(found)


def _add_rows(
    builder: GltfBuilder,
    rows: NDArray[Any],
    counts: NDArray[np.int64],
    kind: int,
    view_filter: str | None = None,
) -> list[int]:
    """Add accessors of rows, one after the other in one view, and return their indices."""
    rows = np.ascontiguousarray(rows)
    stride = rows.shape[1] * rows.itemsize
    view = _add_view(builder, rows, len(rows), stride, "ATTRIBUTES", view_filter)
    shape = "VEC2" if rows.shape[1] == 2 else "VEC3"  # noqa: PLR2004 - normals have a fourth byte
    more = {"normalized": True} if kind == BYTE else {}
    starts = stride * (np.cumsum(counts) - counts)
    return [
        builder.add(
            "accessors",
            {
                "bufferView": view,
                **({"byteOffset": start} if start else {}),
                "componentType": kind,
                "count": count,
                "type": shape,
                **more,
            },
        )
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
    ]


def _add_faces(builder: GltfBuilder, parts: GltfParts) -> list[int]:
    """Add the accessors of the parts' faces and return their indices."""
    found = np.empty(len(parts.vertices), np.int64)
    is_short = parts.vertices <= MAX_SHORT_VERTICES
    for dtype, kind, chosen in (("<u2", USHORT, is_short), ("<u4", UINT, ~is_short)):
        if not chosen.any():
            continue
        faces = parts.faces
        if not chosen.all():
            faces = faces[np.repeat(chosen, parts.triangles)]
        indices = faces.astype(dtype).reshape(-1)
        size = indices.itemsize
        view = _add_view(builder, indices, len(indices), size, "TRIANGLES", None)
        counts = 3 * parts.triangles[chosen]
        starts = size * (np.cumsum(counts) - counts)
        found[chosen] = [
            builder.add(
                "accessors",
                {
                    "bufferView": view,
                    **({"byteOffset": start} if start else {}),
                    "componentType": kind,
                    "count": count,
                    "type": "SCALAR",
                },
            )
            for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
        ]
    return found.tolist()


def _add_view(  # noqa: PLR0913, PLR0917 - what the extension says of a view
    builder: GltfBuilder,
    rows: NDArray[Any],
    count: int,
    stride: int,
    mode: str,
    view_filter: str | None,
) -> int:
    check()
    content = import_meshopt().encode_gltf_buffer(rows, mode)
    target = ARRAY_BUFFER if mode == "ATTRIBUTES" else ELEMENT_ARRAY_BUFFER
    return add_meshopt_bytes(
        builder, content, count, stride, mode=mode, view_filter=view_filter, target=target
    )


# ---- Draco -----------------------------------------------------------------------------------


def _add_draco(builder: GltfBuilder, parts: GltfParts, add_plain: AddParts) -> list[dict[str, Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "positions": parts.positions,
        "normals": parts.normals,
        "faces": parts.faces,
        "vertices": parts.vertices,
        "triangles": parts.triangles,
        "has_normals": parts.has_normals,
    }
    if parts.uv is not None:
        arrays["uv"] = parts.uv
    # All parts in one process: there may be 10,000.
    packed = subprocess_call.call("draco_parts", arrays, DRACO_DEADLINE_S)
    sizes = packed["sizes"]
    if sizes.any():
        builder.require("KHR_draco_mesh_compression")
    is_plain = sizes == 0
    plain = iter(add_plain(builder, _chosen(parts, is_plain)) if is_plain.any() else ())
    ends = np.cumsum(sizes)
    primitives: list[dict[str, Any]] = []
    for part, end in enumerate(ends.tolist()):
        if is_plain[part]:
            primitives.append(next(plain))
            continue
        check()
        names = ["POSITION"]
        names += ["NORMAL"] if parts.has_normals[part] else []
        names += ["TEXCOORD_0"] if parts.uv is not None else []
        ids = [at for at in packed["ids"][part].tolist() if at >= 0]
        primitives.append(
            add_draco_primitive(
                builder,
                packed["content"][end - int(sizes[part]) : end],
                dict(zip(names, ids, strict=True)),
                points=int(packed["points"][part]),
                faces=int(packed["face_counts"][part]),
                bounds=packed["bounds"][part],
            )
        )
    return primitives


def _chosen(parts: GltfParts, is_chosen: NDArray[np.bool_]) -> GltfParts:
    """Return some of the parts."""
    rows = np.repeat(is_chosen, parts.vertices)
    smooth = parts.has_normals
    return GltfParts(
        parts.mesh[is_chosen],
        parts.vertices[is_chosen],
        parts.triangles[is_chosen],
        smooth[is_chosen],
        parts.positions[rows],
        parts.normals[np.repeat(is_chosen[smooth], parts.vertices[smooth])],
        None if parts.uv is None else parts.uv[rows],
        parts.faces[np.repeat(is_chosen, parts.triangles)],
        parts.is_double_sided,
    )
