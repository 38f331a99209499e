"""The bytes of a binary glTF 2.0 file.

The only module that writes bytes and the only one that leaves the model frame:
(x, y, z) becomes (x, z, -y), so that the file is Y up with the front toward +Z.

Format: Khronos, "glTF 2.0 Specification", chapters 3 and 4.4 (binary container).

What this module does not know: where the arrays come from.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export.adjacency import corner_lists, is_solid, twins
from trellis2_server.export.chunks import pieces
from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import glb as kernels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trellis2_server.export.encode import Image
    from trellis2_server.mesh import Mesh

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]
Compression = Literal["meshopt", "draco"]

_FLOAT: Final = 5126
_USHORT: Final = 5123
_UINT: Final = 5125
_ARRAY: Final = 34962
_INDICES: Final = 34963
#: So many vertices can be named in 16 bits: 65535 itself would restart a primitive.
SHORT_VERTICES: Final = 0xFFFF
_LINEAR, _MIPMAP, _CLAMP = 9729, 9987, 33071


@dataclass(frozen=True, slots=True)
class Material:
    """What a renderer needs beside the geometry.

    Attributes:
        base_color: the picture, sRGB; none for a plain factor.
        metal_rough: the picture, linear, roughness in G and metallic in B; or none.
        color: linear RGBA factor.
        metallic: factor.
        roughness: factor.
        alpha_mode: as glTF defines it.
    """

    base_color: Image | None = None
    metal_rough: Image | None = None
    color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    metallic: float = 1.0
    roughness: float = 1.0
    alpha_mode: AlphaMode = "OPAQUE"


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """One indexed triangle list, already in glTF's frame.

    Attributes:
        positions: float32 [N, 3].
        normals: float32 [N, 3], unit length; [0, 3] where faces are meant flat.
        uv: float32 [N, 2] in [0, 1], (0, 0) the upper left corner of the picture, or none.
        faces: uint32 [F, 3].
        is_double_sided: the winding says nothing about inside and outside.
    """

    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    uv: NDArray[np.float32] | None
    faces: NDArray[np.uint32]
    is_double_sided: bool


def smooth_normals(mesh: Mesh) -> NDArray[np.float32]:
    """Unit normals, float32 [N, 3]: of the faces at each vertex, weighted by their angle.

    Where they cancel out, the largest face's normal; where there is none, +Z.
    """
    vertices, faces = mesh.vertices, mesh.faces
    first, corners = corner_lists(faces, len(vertices))
    normals = np.empty((len(vertices), 3), np.float32)
    spread(kernels.sum_normals, len(vertices), vertices, faces, first, corners, normals)
    return normals


def geometry(
    mesh: Mesh,
    uv: NDArray[np.float32] | None = None,
    source: NDArray[np.int32] | None = None,
    faces: NDArray[np.int32] | None = None,
) -> Geometry:
    """The mesh in glTF's frame, its vertices repeated where `uv` needs it.

    Args:
        mesh: in the model frame.
        uv: float32 [M, 2] in [0, 1].
        source: int32 [M], the vertex of each row of `uv`.
        faces: int32 [F, 3], rows of `uv`.
    """
    twin = twins(mesh.faces, len(mesh.vertices))
    normals = smooth_normals(mesh)
    positions = mesh.vertices
    if source is not None:
        positions, normals = positions[source], normals[source]
    return Geometry(
        _to_gltf(positions),
        _to_gltf(normals),
        uv,
        np.ascontiguousarray(mesh.faces if faces is None else faces).astype(np.uint32),
        not is_solid(mesh.faces, twin),
    )


def _to_gltf(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    turned = np.empty(rows.shape, np.float32)
    turned[:, 0] = rows[:, 0]
    turned[:, 1] = rows[:, 2]
    np.negative(rows[:, 1], out=turned[:, 2])
    return turned


@dataclass(slots=True, eq=False)
class File:
    """The JSON and the binary chunk of a file as they grow."""

    json: dict[str, Any]
    chunks: list[bytes] = field(default_factory=list)
    buffers: list[dict[str, Any]] = field(default_factory=lambda: [{"byteLength": 0}])

    def add(self, name: str, item: dict[str, Any]) -> int:
        """The index of the item, now the last of its list."""
        items = self.json.setdefault(name, [])
        items.append(item)
        return len(items) - 1

    def append(self, content: bytes | NDArray[Any]) -> int:
        """Where in the binary chunk the bytes, or an array's, start."""
        start = self.buffers[0]["byteLength"]
        chunks = [content] if isinstance(content, bytes) else pieces(content)
        size = sum(map(len, chunks))
        padding = -size % 4
        self.chunks += [*chunks, bytes(padding)]
        self.buffers[0]["byteLength"] = start + size + padding
        return start

    def add_bytes(self, content: bytes | NDArray[Any], **properties: int) -> int:
        """The index of a buffer view of the bytes, or of an array's."""
        size = len(content) if isinstance(content, bytes) else content.nbytes
        view = {"buffer": 0, "byteOffset": self.append(content), "byteLength": size}
        return self.add("bufferViews", view | properties)

    def require(self, extension: str) -> None:
        """Declare an extension without which the file cannot be shown."""
        for name in ("extensionsUsed", "extensionsRequired"):
            if extension not in self.json.setdefault(name, []):
                self.json[name].append(extension)


def pack(
    shape: Geometry,
    material: Material,
    *,
    extras: Mapping[str, object],
    generator: str,
    compress: Compression | None = None,
) -> bytes:
    """A GLB with one mesh: the same arguments always give the same bytes.

    Args:
        shape: the triangles.
        material: how they look.
        extras: what the file says about itself, JSON values, written at the asset.
        generator: the program's name and version.
        compress: how to compress the triangles; none leaves them plain.

    Raises:
        ExportError: `extras` is not JSON, or the file would reach 4 GiB.
        MissingPackageError: the package for `compress` is not installed.
    """
    file = File({"asset": {"version": "2.0", "generator": generator}})
    if extras:
        file.json["asset"]["extras"] = dict(extras)
    file.json |= {"scene": 0, "scenes": [{"nodes": [0]}]}
    file.add("nodes", {"name": "model", "mesh": 0})
    if compress is None:
        primitive = _plain(file, shape)
    else:
        from trellis2_server.export import compress as compression

        primitive = compression.add(file, shape, compress)
    primitive["material"] = _add_material(file, material, is_double_sided=shape.is_double_sided)
    file.add("meshes", {"name": "model", "primitives": [primitive]})
    return _container(file)


def pack_tree(  # noqa: PLR0913
    shapes: Sequence[tuple[int, Geometry]],
    material: Material,
    *,
    nodes: Sequence[Mapping[str, Any]],
    roots: Sequence[int],
    meshes: Sequence[str | None],
    extras: Mapping[str, object],
    generator: str,
) -> bytes:
    """A GLB with a tree of nodes, everything in it of one material.

    Args:
        shapes: the triangles, each with the mesh it belongs to; every mesh has some.
        material: how all of them look.
        nodes: glTF nodes.
        roots: which of them hang in no other.
        meshes: their names.
        extras: what the file says about itself, JSON values, written at the asset.
        generator: the program's name and version.

    Raises:
        ExportError: `extras` or a node is not JSON, or the file would reach 4 GiB.
    """
    file = File({"asset": {"version": "2.0", "generator": generator}})
    if extras:
        file.json["asset"]["extras"] = dict(extras)
    file.json |= {"scene": 0, "scenes": [{"nodes": list(roots)}]}
    file.json["nodes"] = [dict(node) for node in nodes]
    is_double_sided = any(shape.is_double_sided for _, shape in shapes)
    number = _add_material(file, material, is_double_sided=is_double_sided)
    for at, name in enumerate(meshes):
        primitives = [
            _plain(file, shape) | {"material": number} for mesh, shape in shapes if mesh == at
        ]
        file.add("meshes", ({"name": name} if name else {}) | {"primitives": primitives})
    return _container(file)


def _plain(file: File, shape: Geometry) -> dict[str, Any]:
    attributes = {"POSITION": _add_rows(file, shape.positions)}
    # glTF asks for the bounds of positions.
    file.json["accessors"][attributes["POSITION"]] |= {
        "min": shape.positions.min(axis=0).tolist(),
        "max": shape.positions.max(axis=0).tolist(),
    }
    if len(shape.normals):
        attributes["NORMAL"] = _add_rows(file, shape.normals)
    if shape.uv is not None:
        attributes["TEXCOORD_0"] = _add_rows(file, shape.uv)
    is_short = len(shape.positions) <= SHORT_VERTICES
    indices = shape.faces.astype("<u2" if is_short else "<u4").reshape(-1)
    accessor = {
        "bufferView": file.add_bytes(indices, target=_INDICES),
        "componentType": _USHORT if is_short else _UINT,
        "count": int(indices.size),
        "type": "SCALAR",
    }
    return {"attributes": attributes, "indices": file.add("accessors", accessor), "mode": 4}


def _add_rows(file: File, rows: NDArray[np.float32]) -> int:
    view = file.add_bytes(rows.astype("<f4", copy=False), target=_ARRAY)
    return file.add(
        "accessors",
        {
            "bufferView": view,
            "componentType": _FLOAT,
            "count": len(rows),
            "type": f"VEC{rows.shape[1]}",
        },
    )


def _add_material(file: File, material: Material, *, is_double_sided: bool) -> int:
    pbr: dict[str, Any] = {}
    if material.color != (1.0, 1.0, 1.0, 1.0):
        pbr["baseColorFactor"] = list(material.color)
    if material.base_color is not None:
        pbr["baseColorTexture"] = {"index": _add_texture(file, material.base_color)}
    if material.metallic != 1.0:
        pbr["metallicFactor"] = material.metallic
    if material.roughness != 1.0:
        pbr["roughnessFactor"] = material.roughness
    if material.metal_rough is not None:
        pbr["metallicRoughnessTexture"] = {"index": _add_texture(file, material.metal_rough)}
    item: dict[str, Any] = {"name": "model", "pbrMetallicRoughness": pbr}
    if material.alpha_mode != "OPAQUE":
        item["alphaMode"] = material.alpha_mode
    if is_double_sided:
        item["doubleSided"] = True
    return file.add("materials", item)


def _add_texture(file: File, image: Image) -> int:
    source = file.add(
        "images", {"mimeType": image.mime_type, "bufferView": file.add_bytes(image.content)}
    )
    if "samplers" not in file.json:
        file.add(
            "samplers",
            {"magFilter": _LINEAR, "minFilter": _MIPMAP, "wrapS": _CLAMP, "wrapT": _CLAMP},
        )
    texture: dict[str, Any] = {"sampler": 0}
    if image.mime_type == "image/webp":
        file.require("EXT_texture_webp")
        texture["extensions"] = {"EXT_texture_webp": {"source": source}}
    else:
        texture["source"] = source
    return file.add("textures", texture)


def labelled(content: bytes, *, extras: Mapping[str, object], generator: str) -> bytes:
    """A GLB that somebody else wrote, which says how it came about as ours do.

    Raises:
        ExportError: it is no GLB.
    """
    try:
        magic, _, _, size, _ = struct.unpack_from("<4sIII4s", content)
        head = json.loads(content[20 : 20 + size])
        head["asset"] |= {"generator": generator, "extras": dict(extras)}
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ExportError("the exporter wrote no GLB") from error
    if magic != b"glTF":
        raise ExportError("the exporter wrote no GLB")
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + size :]
    start = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON")
    return start + text + rest


def _container(file: File) -> bytes:
    file.json["buffers"] = file.buffers
    size = file.buffers[0]["byteLength"]
    try:
        text = json.dumps(file.json, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ExportError("What the file should say about itself is not JSON.") from error
    head = text.encode()
    head += b" " * (-len(head) % 4)
    total = 12 + 8 + len(head) + 8 + size
    if total >= 1 << 32:
        raise ExportError("The file would be larger than the 4 GiB that a GLB can hold.")
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(head), b"JSON"),
            head,
            struct.pack("<I4s", size, b"BIN\0"),
            *file.chunks,
        ]
    )
