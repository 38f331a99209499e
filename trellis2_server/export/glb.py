"""Models as binary glTF 2.0 files.

Does not know: where the geometry and the material come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.export.compression import add_compressed
from trellis2_server.export.geometry import single_part
from trellis2_server.export.gltf import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    new_document,
)
from trellis2_server.export.part_accessors import add_accessors, add_indices
from trellis2_server.export.scene_compression import add_compressed_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trellis2_server.export.compression import Compression
    from trellis2_server.export.geometry import GltfGeometry, GltfParts
    from trellis2_server.export.gltf import GltfBuilder
    from trellis2_server.export.material import Image, Material

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def pack(  # noqa: PLR0913
    geometry: GltfGeometry,
    material: Material,
    *,
    extras: Mapping[str, object],
    generator: str,
    compress: Compression | None = None,
    coarser: Sequence[GltfGeometry] = (),
) -> bytes:
    """Return a GLB with one mesh, and with its levels of detail. Equal arguments give equal bytes.

    Levels are those of the extension MSFT_lod, which is not required.

    Args:
        geometry: triangles of the mesh.
        material: of all levels.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        compress: compression of the triangles; None: uncompressed.
        coarser: triangles of further levels of detail, finest first.

    Raises:
        ExportError: `extras` is not JSON, or the file would reach 4 GiB.
        MissingPackageError: the package for `compress` is not installed.
    """
    builder = new_document(extras, generator)
    builder.json |= {"scene": 0, "scenes": [{"nodes": [0]}]}
    node: dict[str, Any] = {"name": "model", "mesh": 0}
    if coarser:
        builder.json["extensionsUsed"] = ["MSFT_lod"]
        # Each level until its faces are as large on the screen as the first one's at half of it.
        coverage = [
            round(0.5 * (len(level.faces) / len(geometry.faces)) ** 0.5, 4) for level in coarser
        ]
        node["extensions"] = {"MSFT_lod": {"ids": list(range(1, len(coarser) + 1))}}
        node["extras"] = {"MSFT_screencoverage": [*coverage, 0.0]}
    builder.add("nodes", node)
    material_index: int | None = None
    for number, level in enumerate((geometry, *coarser)):
        name = f"model_lod{number}" if number else "model"
        if number:
            builder.add("nodes", {"name": name, "mesh": number})
        if compress is None:
            (primitive,) = _add_parts(builder, single_part(level))
        else:
            primitive = add_compressed(builder, level, compress)
        if material_index is None:
            material_index = _add_material(
                builder, material, is_double_sided=geometry.is_double_sided
            )
        primitive["material"] = material_index
        builder.add("meshes", {"name": name, "primitives": [primitive]})
    return builder.to_glb()


def pack_tree(  # noqa: PLR0913
    parts: GltfParts,
    material: Material,
    *,
    nodes: Sequence[Mapping[str, Any]],
    roots: Sequence[int],
    meshes: Sequence[str | None],
    extras: Mapping[str, object],
    generator: str,
    compress: Compression | None = None,
) -> bytes:
    """Return a GLB with a tree of nodes and one material.

    Args:
        parts: triangles; every mesh has at least one part.
        material: of all meshes.
        nodes: glTF nodes.
        roots: indices of the nodes without a parent.
        meshes: names of the meshes; None: no name.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        compress: compression of the triangles; None: uncompressed.

    Raises:
        ExportError: `extras` or a node is not JSON, or the file would reach 4 GiB.
        MissingPackageError: the package for `compress` is not installed.
    """
    builder = new_document(extras, generator)
    builder.json |= {"scene": 0, "scenes": [{"nodes": list(roots)}]}
    builder.json["nodes"] = list(nodes)
    material_index = _add_material(builder, material, is_double_sided=parts.is_double_sided)
    by_mesh: list[list[dict[str, Any]]] = [[] for _ in meshes]
    if compress is None:
        primitives = _add_parts(builder, parts)
    else:
        primitives = add_compressed_parts(builder, parts, compress, _add_parts)
    for mesh, primitive in zip(parts.mesh.tolist(), primitives, strict=True):
        by_mesh[mesh].append(primitive | {"material": material_index})
    builder.json["meshes"] = [
        ({"name": name} if name else {}) | {"primitives": own}
        for name, own in zip(meshes, by_mesh, strict=True)
    ]
    return builder.to_glb()


def _add_parts(builder: GltfBuilder, parts: GltfParts) -> list[dict[str, Any]]:
    """Add triangles to the file and return the mesh primitives that use them.

    Parts share buffer views: there may be 10,000 parts.
    """
    first = np.cumsum(parts.vertices) - parts.vertices
    low, high = (extreme.reduceat(parts.positions, first) for extreme in (np.minimum, np.maximum))
    positions = _add_vectors(builder, parts.positions, parts.vertices)
    # glTF requires the bounds of positions.
    for at, least, most in zip(positions, low.tolist(), high.tolist(), strict=True):
        builder.json["accessors"][at] |= {"min": least, "max": most}
    primitives: list[dict[str, Any]] = [{"attributes": {"POSITION": at}} for at in positions]
    smooth = np.flatnonzero(parts.has_normals).tolist()
    if smooth:
        normals = _add_vectors(builder, parts.normals, parts.vertices[smooth])
        for part, at in zip(smooth, normals, strict=True):
            primitives[part]["attributes"]["NORMAL"] = at
    if parts.tangents is not None:
        for primitive, at in zip(
            primitives, _add_vectors(builder, parts.tangents, parts.vertices), strict=True
        ):
            primitive["attributes"]["TANGENT"] = at
    if parts.uv is not None:
        for primitive, at in zip(
            primitives, _add_vectors(builder, parts.uv, parts.vertices), strict=True
        ):
            primitive["attributes"]["TEXCOORD_0"] = at
    indices = add_indices(
        builder, parts, lambda rows: builder.add_bytes(rows, target=ELEMENT_ARRAY_BUFFER)
    )
    for primitive, at in zip(primitives, indices, strict=True):
        primitive |= {"indices": at, "mode": 4}
    return primitives


def _add_vectors(
    builder: GltfBuilder, rows: NDArray[np.float32], counts: NDArray[np.int64]
) -> list[int]:
    """Add accessors of vectors, one after the other, and return their indices."""
    # glTF requires the stride of a view that accessors of vertices share.
    stride = {"byteStride": 4 * rows.shape[1]} if len(counts) > 1 else {}
    view = builder.add_bytes(rows.astype("<f4", copy=False), target=ARRAY_BUFFER, **stride)
    width = rows.shape[1]
    return add_accessors(builder, view, 4 * width, counts, FLOAT, f"VEC{width}")


def _add_material(builder: GltfBuilder, material: Material, *, is_double_sided: bool) -> int:
    """Add the material and return its index."""
    pbr: dict[str, Any] = {}
    if material.color != (1.0, 1.0, 1.0, 1.0):
        pbr["baseColorFactor"] = list(material.color)
    if material.base_color is not None:
        pbr["baseColorTexture"] = {"index": _add_texture(builder, material.base_color)}
    if material.metallic != 1.0:
        pbr["metallicFactor"] = material.metallic
    if material.roughness != 1.0:
        pbr["roughnessFactor"] = material.roughness
    if material.metal_rough is not None:
        pbr["metallicRoughnessTexture"] = {"index": _add_texture(builder, material.metal_rough)}
    item: dict[str, Any] = {"name": "model", "pbrMetallicRoughness": pbr}
    if material.has_occlusion:
        item["occlusionTexture"] = {"index": pbr["metallicRoughnessTexture"]["index"]}
    if material.normals is not None:
        item["normalTexture"] = {"index": _add_texture(builder, material.normals)}
    if material.alpha_mode != "OPAQUE":
        item["alphaMode"] = material.alpha_mode
    if is_double_sided:
        item["doubleSided"] = True
    return builder.add("materials", item)


def _add_texture(builder: GltfBuilder, image: Image) -> int:
    """Add a texture and return its index."""
    source = builder.add(
        "images", {"mimeType": image.mime_type, "bufferView": builder.add_bytes(image.content)}
    )
    if "samplers" not in builder.json:
        builder.add(
            "samplers",
            {
                "magFilter": _LINEAR,
                "minFilter": _LINEAR_MIPMAP_LINEAR,
                "wrapS": _CLAMP_TO_EDGE,
                "wrapT": _CLAMP_TO_EDGE,
            },
        )
    texture: dict[str, Any] = {"sampler": 0}
    if image.mime_type == "image/webp":
        builder.require("EXT_texture_webp")
        texture["extensions"] = {"EXT_texture_webp": {"source": source}}
    else:
        texture["source"] = source
    return builder.add("textures", texture)
