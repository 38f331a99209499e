"""Which glTF extensions a file may require.

Khronos, "glTF 2.0 Specification", chapter 3.12: a program that does not support a required
extension must not read the file.

Does not know: how extensions are read.
"""

from __future__ import annotations

from typing import Any, Final

from trellis2_server.errors import InputError

#: What is read.
GEOMETRY: Final = (
    "KHR_mesh_quantization", "EXT_meshopt_compression", "KHR_meshopt_compression",
    "KHR_draco_mesh_compression",
)  # fmt: skip
#: Without influence on what is read: names end with * where any end is meant. Materials, textures,
#: lights, cameras and animations are left out.
IRRELEVANT: Final = (
    "KHR_materials_*", "EXT_materials_*", "MSFT_texture_dds", "KHR_texture_*", "EXT_texture_*",
    "KHR_lights_*", "EXT_lights_*", "MSFT_lod", "KHR_xmp*", "KHR_animation_pointer",
    "KHR_node_selectability", "KHR_node_hoverability", "KHR_interactivity", "KHR_audio*",
    "KHR_physics_*", "KHR_collision_*", "OMI_*", "VRM", "VRMC_*", "EXT_mesh_features",
    "EXT_structural_metadata", "EXT_instance_features", "CESIUM_primitive_outline",
    "EXT_mesh_manifold", "KHR_techniques_webgl", "GODOT_single_root",
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
