"""Which glTF extensions a file may require.

Khronos, "glTF 2.0 Specification", chapter 3.12: a program that does not support a required
extension must not read the file.

Does not know: how extensions are read.
"""

from __future__ import annotations

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
    "EXT_mesh_opacity_micromap", "EXT_mesh_primitive_edge_visibility", "EXT_property_animation",
    "EXT_structural_metadata", "EXT_texture_*",
    "ADOBE_materials_*", "AGI_articulations", "AGI_stk_metadata", "BENTLEY_materials_*",
    "CESIUM_primitive_outline", "FB_geometry_metadata", "FB_materials_*", "FB_ngon_encoding",
    "GODOT_single_root", "GRIFFEL_bim_data", "INTEL_lights_sunsky", "MOZ_lightmap", "MSFT_lod",
    "MSFT_packing_*", "MSFT_texture_dds", "NV_materials_mdl", "OMI_*", "VRM", "VRMC_*",
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
        names = ", ".join(str(name)[:_MAX_NAME] for name in missing[:_MAX_NAMES])
        text = names.encode("ascii", "backslashreplace").decode()
        raise InputError(f"mesh: the GLB requires what this server does not support: {text}")


def _is_supported(name: object) -> bool:
    if not isinstance(name, str):
        return False
    return name in GEOMETRY or any(
        name.startswith(known[:-1]) if known.endswith("*") else name == known
        for known in IRRELEVANT
    )
