"""Which glTF extensions a file may require, and what is not read of a file that only uses them.

Khronos, "glTF 2.0 Specification", chapter 3.12: a program that does not support a required
extension must not read the file.

Does not know: how extensions are read.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Final

from trellis2_server.errors import InputError

#: What is read.
GEOMETRY: Final = frozenset({
    "EXT_mesh_gpu_instancing", "KHR_mesh_quantization", "KHR_node_visibility",
    "EXT_meshopt_compression", "KHR_meshopt_compression", "KHR_draco_mesh_compression",
})  # fmt: skip
#: Without influence on what is read: names end with * where any end is meant. Materials, textures,
#: lights, cameras, animations, sound, physics and metadata are left out. From the registry,
#: https://github.com/KhronosGroup/glTF/tree/main/extensions, and VRM's and OMI's lists. Not among
#: them is what adds or moves triangles: voxels, splats, external models, other axes, mesh variants.
IRRELEVANT: Final = (
    "KHR_animation_pointer", "KHR_audio*", "KHR_collision_*", "KHR_displaymapping_pq",
    "KHR_implicit_shapes", "KHR_interactivity", "KHR_lights_*", "KHR_materials_*",
    "KHR_node_hoverability", "KHR_node_selectability", "KHR_physics_*", "KHR_techniques_webgl",
    "KHR_texture_*", "KHR_xmp*",
    "EXT_animation_*", "EXT_camera_physical", "EXT_feature_metadata", "EXT_instance_features",
    "EXT_lights_*", "EXT_materials_*", "EXT_mesh_features", "EXT_mesh_manifold",
    "EXT_mesh_opacity_micromap", "EXT_mesh_polygon", "EXT_mesh_primitive_edge_visibility",
    "EXT_mesh_primitive_restart", "EXT_property_animation",
    "EXT_structural_metadata", "EXT_texture_*",
    "ADOBE_materials_*", "AGI_articulations", "AGI_stk_metadata", "BENTLEY_materials_*",
    "CESIUM_primitive_outline", "FB_geometry_metadata", "FB_materials_*", "FB_ngon_encoding",
    "GODOT_single_root", "GRIFFEL_bim_data", "INTEL_lights_sunsky", "MOZ_lightmap", "MSFT_lod",
    "MSFT_packing_*", "MSFT_texture_dds", "NV_materials_mdl", "OMI_*", "VRM", "VRMC_*",
)  # fmt: skip
#: Geometry that is not read, or that lies elsewhere, even if the file only uses the extension.
#: Not among them: what also has the same triangles without the extension, as boundary
#: representations, polygons, levels of detail and mesh variants do.
UNREAD: Final = (
    "*_gaussian_splat*", "EXT_primitive_voxels", "EXT_implicit_*", "EXT_primitive_interpolate",
    "EXT_volumetricvideo", "BENTLEY_primitive_restart", "CESIUM_z_up", "FRAUNHOFER_external_model",
    "MANYFOLD_mesh_progressive",
)  # fmt: skip

_MAX_NAME: Final = 100
_MAX_NAMES: Final = 5


def check_required(document: dict[str, Any]) -> None:
    """Check the extensions that a file requires.

    Args:
        document: the glTF JSON.

    Raises:
        InputError: one of them is not supported; the message names it.
    """
    required = document.get("extensionsRequired", [])
    if not isinstance(required, list):
        raise InputError("mesh: extensionsRequired of the GLB is not a list")
    missing = [name for name in required if not _is_supported(name)]
    if missing:
        text = ", ".join(_shown(missing))
        raise InputError(f"mesh: the GLB requires what this server does not support: {text}")


def unread_geometry(document: dict[str, Any]) -> tuple[str, ...]:
    """Return the extensions with geometry that is left out: `UNREAD`, and unknown primitives.

    Args:
        document: the glTF JSON; `check_required` accepts it.

    Returns:
        At most `_MAX_NAMES`, in ASCII, ascending.
    """
    used = document.get("extensionsUsed", [])
    found = {name for name in _items(used) if isinstance(name, str) and _is_unread(name)}
    for mesh in _items(document.get("meshes")):
        for primitive in _items(mesh.get("primitives") if isinstance(mesh, dict) else None):
            extensions = primitive.get("extensions") if isinstance(primitive, dict) else None
            if isinstance(extensions, dict):
                found.update(name for name in extensions if not _is_supported(name))
    return tuple(_shown(sorted(found)))


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(names: list[Any]) -> list[str]:
    """Return the first names, for a message."""
    short = (str(name)[:_MAX_NAME] for name in names[:_MAX_NAMES])
    return [name.encode("ascii", "backslashreplace").decode() for name in short]


def _is_unread(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in UNREAD)


def _is_supported(name: object) -> bool:
    if not isinstance(name, str):
        return False
    return name in GEOMETRY or any(fnmatchcase(name, known) for known in IRRELEVANT)
