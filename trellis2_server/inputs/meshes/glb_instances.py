"""The instances of a glTF node: EXT_mesh_gpu_instancing.

https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Vendor/EXT_mesh_gpu_instancing

Does not know: which nodes a scene has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.scene import check_size

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes.glb_accessors import Accessors

_EXTENSION: Final = "EXT_mesh_gpu_instancing"
#: Attributes that place an instance: glTF's type, and a node's transform.
_ATTRIBUTES: Final = {
    "TRANSLATION": ("VEC3", "translation"),
    "ROTATION": ("VEC4", "rotation"),
    "SCALE": ("VEC3", "scale"),
}


def read_instances(
    accessors: Accessors, source: dict[str, Any], name: str
) -> list[dict[str, list[float]]] | None:
    """Return the transforms of a node's instances to the node's frame; None if it has none.

    Args:
        accessors: of the file.
        source: the node in the file.
        name: of the node, for error messages.

    Raises:
        InputError: an attribute is invalid.
        TooLargeError: there are too many instances.
    """
    extension = source.get("extensions", {}).get(_EXTENSION)
    if extension is None:
        return None
    attributes = extension["attributes"]
    columns: dict[str, list[list[float]]] = {}
    for attribute, (kind, transform) in _ATTRIBUTES.items():
        if attribute not in attributes:
            continue
        check_size(0, 0, accessors.count(attributes[attribute]))
        rows = accessors.rows(attributes[attribute], kind).take().astype(np.float64)
        if not np.isfinite(rows).all():
            raise InputError(
                f"mesh: {attribute} of the instances of {name} of the GLB is not finite"
            )
        columns[transform] = rows.tolist()
    if not columns:
        return None
    counts = {len(rows) for rows in columns.values()}
    if len(counts) > 1:
        raise InputError(
            f"mesh: the attributes of the instances of {name} of the GLB have different counts"
        )
    if "skin" in source:
        raise InputError(
            f"mesh: {name} of the GLB has both a skin and instances, which is not supported"
        )
    return [
        {transform: columns[transform][at] for transform in columns} for at in range(counts.pop())
    ]
