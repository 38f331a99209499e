"""Models as binary glTF 2.0 files.

Does not know: where the geometry and the material come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trellis2_server.export.compression import add_compressed
from trellis2_server.export.gltf import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    MAX_SHORT_VERTICES,
    UINT,
    USHORT,
    new_document,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from trellis2_server.export.compression import Compression
    from trellis2_server.export.geometry import GltfGeometry
    from trellis2_server.export.gltf import GltfBuilder
    from trellis2_server.export.material import Image, Material

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def pack(
    geometry: GltfGeometry,
    material: Material,
    *,
    extras: Mapping[str, object],
    generator: str,
    compress: Compression | None = None,
) -> bytes:
    """Return a GLB with one mesh. Equal arguments give equal bytes.

    Args:
        geometry: triangles of the mesh.
        material: of the mesh.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        compress: compression of the triangles; None: uncompressed.

    Raises:
        ExportError: `extras` is not JSON, or the file would reach 4 GiB.
        MissingPackageError: the package for `compress` is not installed.
    """
    builder = new_document(extras, generator)
    builder.json |= {"scene": 0, "scenes": [{"nodes": [0]}]}
    builder.add("nodes", {"name": "model", "mesh": 0})
    if compress is None:
        primitive = _add_uncompressed(builder, geometry)
    else:
        primitive = add_compressed(builder, geometry, compress)
    primitive["material"] = _add_material(
        builder, material, is_double_sided=geometry.is_double_sided
    )
    builder.add("meshes", {"name": "model", "primitives": [primitive]})
    return builder.to_glb()


def pack_tree(  # noqa: PLR0913
    geometries: Sequence[tuple[int, GltfGeometry]],
    material: Material,
    *,
    nodes: Sequence[Mapping[str, Any]],
    roots: Sequence[int],
    meshes: Sequence[str | None],
    extras: Mapping[str, object],
    generator: str,
) -> bytes:
    """Return a GLB with a tree of nodes and one material.

    Args:
        geometries: triangles, each with the index of its mesh; every mesh has at least one.
        material: of all meshes.
        nodes: glTF nodes.
        roots: indices of the nodes without a parent.
        meshes: names of the meshes; None: no name.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.

    Raises:
        ExportError: `extras` or a node is not JSON, or the file would reach 4 GiB.
    """
    builder = new_document(extras, generator)
    builder.json |= {"scene": 0, "scenes": [{"nodes": list(roots)}]}
    builder.json["nodes"] = [dict(node) for node in nodes]
    is_double_sided = any(geometry.is_double_sided for _, geometry in geometries)
    material_index = _add_material(builder, material, is_double_sided=is_double_sided)
    by_mesh: list[list[GltfGeometry]] = [[] for _ in meshes]  # there may be 10,000 of both
    for mesh, geometry in geometries:
        by_mesh[mesh].append(geometry)
    for name, of_mesh in zip(meshes, by_mesh, strict=True):
        primitives = [
            _add_uncompressed(builder, geometry) | {"material": material_index}
            for geometry in of_mesh
        ]
        builder.add("meshes", ({"name": name} if name else {}) | {"primitives": primitives})
    return builder.to_glb()


def _add_uncompressed(builder: GltfBuilder, geometry: GltfGeometry) -> dict[str, Any]:
    """Add triangles to the file and return the mesh primitive that uses them."""
    attributes = {"POSITION": _add_rows(builder, geometry.positions)}
    # glTF requires the bounds of positions.
    builder.json["accessors"][attributes["POSITION"]] |= {
        "min": geometry.positions.min(axis=0).tolist(),
        "max": geometry.positions.max(axis=0).tolist(),
    }
    if len(geometry.normals):
        attributes["NORMAL"] = _add_rows(builder, geometry.normals)
    if geometry.uv is not None:
        attributes["TEXCOORD_0"] = _add_rows(builder, geometry.uv)
    is_short = len(geometry.positions) <= MAX_SHORT_VERTICES
    indices = geometry.faces.astype("<u2" if is_short else "<u4").reshape(-1)
    accessor = {
        "bufferView": builder.add_bytes(indices, target=ELEMENT_ARRAY_BUFFER),
        "componentType": USHORT if is_short else UINT,
        "count": int(indices.size),
        "type": "SCALAR",
    }
    return {"attributes": attributes, "indices": builder.add("accessors", accessor), "mode": 4}


def _add_rows(builder: GltfBuilder, rows: NDArray[np.float32]) -> int:
    """Add an accessor of vectors and return its index."""
    view = builder.add_bytes(rows.astype("<f4", copy=False), target=ARRAY_BUFFER)
    return builder.add(
        "accessors",
        {
            "bufferView": view,
            "componentType": FLOAT,
            "count": len(rows),
            "type": f"VEC{rows.shape[1]}",
        },
    )


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
