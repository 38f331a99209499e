"""Reading the triangles and the material of a GLB file (glTF 2.0).

Does not know: compressed geometry, sparse accessors, materials other than the first one.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.drawing.errors import DrawingError
from trellis2_server.drawing.model import DrawnModel, decode_image, make_texture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL.Image import Image

_MAGIC: Final = 0x46546C67
_VERSION: Final = 2
_JSON: Final = 0x4E4F534A
_COMPONENT: Final = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
#: Turns Z, which points up, to Y, and -Y, the front, to Z.
_Y_UP: Final = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
_WIDTH: Final = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def load_glb(glb: bytes, *, texture_px: int | None = None) -> DrawnModel:
    """Read the triangles and the material of a GLB, with its node transforms applied.

    Several primitives are joined and get the material of the first one. A file whose
    `asset.extras.up_axis` is "z", which this server writes for a mesh that was sent so, is turned.

    Args:
        glb: the file.
        texture_px: longest edge of the textures; larger ones are reduced. None: as they are.

    Raises:
        DrawingError: the file is invalid, or cannot be drawn.
    """
    try:
        document, data = split_glb(glb)
        primitives = [
            (primitive.get("material"), _read_primitive(document, data, primitive, matrix))
            for primitive, matrix in _primitives(document)
        ]
        if not primitives:
            raise DrawingError("the GLB has no mesh")
        return _join(document, data, primitives, texture_px)
    except (LookupError, TypeError, ValueError, OSError, struct.error) as error:
        raise DrawingError(f"the GLB cannot be read: {error}") from error


def split_glb(glb: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON document and the binary chunk of a GLB file.

    Raises:
        DrawingError: this is not a GLB 2.0 file.
    """
    magic, version, length = struct.unpack_from("<III", glb, 0)
    if magic != _MAGIC or version != _VERSION or length > len(glb):
        raise DrawingError("not a GLB 2.0 file")
    size, kind = struct.unpack_from("<II", glb, 12)
    if kind != _JSON:
        raise DrawingError("the first chunk of the GLB is not JSON")
    document = json.loads(glb[20 : 20 + size])
    start = 20 + size
    if start >= length:
        return document, b""
    size, _ = struct.unpack_from("<II", glb, start)
    return document, glb[start + 8 : start + 8 + size]


def read_accessor(document: dict[str, Any], data: bytes, index: int) -> NDArray[Any]:
    """Return the values of an accessor, [count, width]; normalized integers as float32.

    Raises:
        DrawingError: the accessor is sparse or compressed.
    """
    accessor = document["accessors"][index]
    if "sparse" in accessor:
        raise DrawingError("sparse accessors are not supported")
    view = document["bufferViews"][accessor["bufferView"]]
    if view.get("extensions"):
        raise DrawingError("compressed buffer views are not supported")
    dtype = np.dtype(_COMPONENT[accessor["componentType"]])
    width = _WIDTH[accessor["type"]]
    stride = view.get("byteStride", dtype.itemsize * width)
    offset = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    values = np.ndarray(
        (accessor["count"], width), dtype, data, offset, (stride, dtype.itemsize)
    ).copy()
    if accessor.get("normalized"):
        return np.maximum(values.astype(np.float32) / np.iinfo(dtype).max, -1.0)
    return values


# ---- nodes and primitives ------------------------------------------------------------------


def _primitives(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], NDArray[np.float64]]]:
    """Yield the primitives of the default scene, each with its transform, float64 [4, 4]."""
    is_z_up = document.get("asset", {}).get("extras", {}).get("up_axis") == "z"
    root = _Y_UP if is_z_up else np.eye(4)
    pending = [(index, root) for index in document["scenes"][document.get("scene", 0)]["nodes"]]
    while pending:
        index, parent = pending.pop(0)
        node = document["nodes"][index]
        matrix = parent @ _node_matrix(node)
        pending += [(child, matrix) for child in node.get("children", [])]
        if "mesh" in node:
            for primitive in document["meshes"][node["mesh"]]["primitives"]:
                yield primitive, matrix


def _node_matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1.0, 1.0, 1.0)))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _read_primitive(
    document: dict[str, Any], data: bytes, primitive: dict[str, Any], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Return positions [N, 3], faces [F, 3], normals [N, 3] and texture coordinates [N, 2]."""
    if primitive.get("extensions"):
        raise DrawingError("compressed primitives are not supported")
    names = primitive["attributes"]
    local = read_accessor(document, data, names["POSITION"]).astype(np.float64)
    positions = (local @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
    if "indices" in primitive:
        faces = read_accessor(document, data, primitive["indices"]).reshape(-1, 3)
    else:
        faces = np.arange(len(positions)).reshape(-1, 3)
    faces = faces.astype(np.int32)
    linear = matrix[:3, :3]
    # The cofactors are the inverse transpose, but for a factor, and exist for every matrix.
    cofactors = np.cross(linear[[1, 2, 0]], linear[[2, 0, 1]])
    if np.linalg.det(linear) < 0:
        # A mirror turns faces inside out (glTF 2.0, 3.7.4), and the sign of the cofactors.
        faces, cofactors = faces[:, ::-1], -cofactors
    if "NORMAL" in names:
        raw = read_accessor(document, data, names["NORMAL"]).astype(np.float64)
        normals = _unit(raw @ cofactors.T)
    else:
        normals = _smooth_normals(positions, faces)
    uvs = np.zeros((len(positions), 2), np.float32)
    if "TEXCOORD_0" in names:
        uvs = read_accessor(document, data, names["TEXCOORD_0"]).astype(np.float32)
    return positions, faces, normals, uvs


def _smooth_normals(
    positions: NDArray[np.float32], faces: NDArray[np.int32]
) -> NDArray[np.float32]:
    corners = positions[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(area[:, i], 3), len(positions)) for i in range(3)],
        axis=1,
    )
    return _unit(normals)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-20)).astype(np.float32)


def _join(
    document: dict[str, Any],
    data: bytes,
    primitives: list[tuple[int | None, tuple[Any, ...]]],
    texture_px: int | None,
) -> DrawnModel:
    parts = [part for _, part in primitives]
    starts = np.cumsum([0, *(len(positions) for positions, *_ in parts)])
    positions, faces, normals, uvs = (np.concatenate(column) for column in zip(*parts, strict=True))
    faces += np.repeat(starts[:-1], [len(faces) for _, faces, *_ in parts])[:, None]
    faces = np.ascontiguousarray(faces, np.int32)
    index = primitives[0][0]
    material = document["materials"][index] if index is not None else {}
    pbr = material.get("pbrMetallicRoughness", {})
    metal_rough = _read_image(
        document, data, pbr.get("metallicRoughnessTexture"), "RGB", texture_px
    )
    occlusion = material.get("occlusionTexture", {})
    is_shared = "index" in occlusion and (
        occlusion["index"] == pbr.get("metallicRoughnessTexture", {}).get("index")
    )
    return DrawnModel(
        positions=positions,
        faces=faces,
        normals=normals,
        normal_faces=faces,
        uvs=uvs,
        uv_faces=faces,
        texture=make_texture(
            _read_image(document, data, pbr.get("baseColorTexture"), "RGBA", texture_px),
            metal_rough,
            pbr.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0)),
            pbr.get("metallicFactor", 1.0),
            pbr.get("roughnessFactor", 1.0),
            metal_rough
            if is_shared
            else _read_image(document, data, occlusion or None, "RGB", texture_px),
            occlusion.get("strength", 1.0),
            _read_image(document, data, material.get("normalTexture"), "RGB", texture_px),
            material.get("normalTexture", {}).get("scale", 1.0),
        ),
        is_textured="baseColorTexture" in pbr,
        alpha_mode=material.get("alphaMode", "OPAQUE"),
        alpha_cutoff=material.get("alphaCutoff", 0.5),
        double_sided=material.get("doubleSided", False),
    )


def _read_image(
    document: dict[str, Any],
    data: bytes,
    info: dict[str, Any] | None,
    mode: str,
    texture_px: int | None,
) -> Image | None:
    """Return the pixels of a texture; None without one."""
    if info is None:
        return None
    texture = document["textures"][info["index"]]
    webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
    image = document["images"][webp.get("source", texture.get("source"))]
    view = document["bufferViews"][image["bufferView"]]
    start = view.get("byteOffset", 0)
    return decode_image(data[start : start + view["byteLength"]], mode, texture_px)
