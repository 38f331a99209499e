"""Write glTF from a GLB: scaled and moved, or with binary and textures as files of their own.

Format: Khronos, "glTF 2.0 Specification", chapters 3.5 and 3.6.

Does not know: the other formats.
"""

from __future__ import annotations

import copy
import struct
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import InputError
from trellis2_server.export.formats.archive import ArchiveEntry, write_zip
from trellis2_server.export.formats.model import up_axis_of
from trellis2_server.export.formats.placement import scale_and_offset
from trellis2_server.export.gltf import to_json
from trellis2_server.inputs.meshes import Glb, placed_bounds, read_scene
from trellis2_server.parameters import Placement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

_EXTENSIONS: Final[Mapping[str, str]] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
}
#: Bytes compressed at a time.
_CHUNK_BYTES: Final = 1 << 18


def write_glb(glb: bytes, placement: Placement) -> bytes:
    """Return a GLB with a new root that scales and moves the others. Its binary is the same."""
    document, binary = _placed(glb, placement)
    head = to_json(document).encode()
    head += b" " * (-len(head) % 4)
    sizes = struct.pack("<4sII", b"glTF", 2, 28 + len(head) + len(binary))
    return b"".join(
        [
            sizes,
            struct.pack("<I4s", len(head), b"JSON"),
            head,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )


def write_gltf_zip(glb: bytes, placement: Placement) -> bytes:
    """Return a ZIP with `model.gltf`, `model.bin` and the textures.

    Args:
        glb: uncompressed.
        placement: how the model lies in the file.
    """
    document, binary = _placed(glb, placement)
    names = _image_names(document)
    pictures: list[ArchiveEntry] = []
    views: list[dict[str, Any]] = document.get("bufferViews", [])
    taken: set[int] = set()
    for image, name in zip(document.get("images", []), names, strict=True):
        at = image.pop("bufferView")
        taken.add(at)
        start = views[at].get("byteOffset", 0)
        content = bytes(binary[start : start + views[at]["byteLength"]])
        pictures.append(ArchiveEntry(name, [content], zipfile.ZIP_STORED))
        image["uri"] = name
    kept = [at for at in range(len(views)) if at not in taken]
    chunks: list[memoryview | bytes] = []
    size = 0
    for at in kept:
        start, length = views[at].get("byteOffset", 0), views[at]["byteLength"]
        views[at]["byteOffset"] = size
        padding = bytes(-length % 4)
        chunks += [binary[start : start + length], padding]
        size += length + len(padding)
    index = {at: new for new, at in enumerate(kept)}
    for accessor in document["accessors"]:
        accessor["bufferView"] = index[accessor["bufferView"]]
    document["bufferViews"] = [views[at] for at in kept]
    document["buffers"] = [{"uri": "model.bin", "byteLength": size}]
    text = to_json(document).encode()
    entries = [
        ArchiveEntry("model.gltf", _slices(memoryview(text)), zipfile.ZIP_DEFLATED),
        ArchiveEntry(
            "model.bin",
            (part for chunk in chunks for part in _slices(memoryview(chunk))),
            zipfile.ZIP_DEFLATED,
        ),
    ]
    return write_zip([*entries, *pictures])


def _slices(content: memoryview) -> Iterator[bytes]:
    for start in range(0, len(content), _CHUNK_BYTES):
        yield bytes(content[start : start + _CHUNK_BYTES])


def _image_names(document: Mapping[str, Any]) -> list[str]:
    """Return a file name for each image, by what the first material uses it for."""
    images: list[dict[str, Any]] = document.get("images", [])
    names = [f"image_{at}" for at in range(len(images))]
    material = document["materials"][0]
    textures = {**material.get("pbrMetallicRoughness", {}), **material}
    for role, name in (
        ("baseColorTexture", "base_color"),
        ("metallicRoughnessTexture", "metallic_roughness"),
        ("normalTexture", "normal"),
    ):
        if role in textures:
            texture = document["textures"][textures[role]["index"]]
            source = texture.get("extensions", {}).get("EXT_texture_webp", texture)["source"]
            names[source] = name
    kinds = [_EXTENSIONS.get(image.get("mimeType", ""), "png") for image in images]
    return [f"{name}.{kind}" for name, kind in zip(names, kinds, strict=True)]


def _placed(glb: bytes, placement: Placement) -> tuple[dict[str, Any], memoryview]:
    """Return the document of a GLB, with a root for the placement, and its binary."""
    if not glb.startswith(b"glTF"):
        raise InputError("not a GLB")
    content = memoryview(glb)
    (json_size,) = struct.unpack_from("<I", glb, 12)
    (size,) = struct.unpack_from("<I", glb, 20 + json_size)
    document: dict[str, Any] = copy.deepcopy(Glb(glb).json)
    if placement != Placement():
        # glTF is not turned; see `up_axis_of`.
        placement = replace(placement, up_axis=up_axis_of(document))
        scale, offset = scale_and_offset(*placed_bounds(read_scene(glb, is_own=True)), placement)
        if "MSFT_lod" in document.get("extensionsUsed", []):
            # Programs show a coarser level in the place of the first node, below the same parent or
            # as it stands: each node is placed by itself.
            for node in document["nodes"]:
                _place_node(node, scale, offset)
            return document, content[28 + json_size : 28 + json_size + size]
        scene = document["scenes"][document.get("scene", 0)]
        root: dict[str, Any] = {"name": "placed", "children": scene["nodes"]}
        _place_node(root, scale, offset)
        document["nodes"] = [*document["nodes"], root]
        scene["nodes"] = [len(document["nodes"]) - 1]
    return document, content[28 + json_size : 28 + json_size + size]


def _place_node(node: dict[str, Any], scale: float, offset: NDArray[np.float64]) -> None:
    """Scale and move a node that is neither yet."""
    if offset.any():
        node["translation"] = offset.tolist()
    if scale != 1:
        node["scale"] = [scale] * 3
