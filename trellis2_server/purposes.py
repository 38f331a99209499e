"""What a file is for, and the request fields that suit it: a table.

The page and the client's `--for` fill in these fields, and a request's `preset` sets those that the
request leaves out. To add a purpose, or a field, add it here. This module needs the standard
library only, so that the client can share it.

Does not know: what a field does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.request_fields import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a file is for, and the fields that suit it.

    Attributes:
        label: its name for people.
        fields: values of fields of the groups "export", "file" and "delivery".
    """

    label: str
    fields: Mapping[str, str | int | float | bool]


#: By name, in the order of a form.
PURPOSES: Final[Mapping[str, Purpose]] = {
    "game": Purpose(
        "Game",
        {
            "type": "glb",
            "decimation_target": 20_000,
            "texture_size": 2048,
            "normal_map": True,
            "occlusion": True,
            "texture_format": "auto",
            "compress": "none",
            "origin": "floor",
        },
    ),
    "web": Purpose(
        "Web",
        {
            "type": "glb",
            "decimation_target": 50_000,
            "texture_size": 2048,
            "texture_format": "webp",
            "compress": "none",
        },
    ),
    "print": Purpose(
        "Print",
        {
            "type": "3mf",
            "solid": True,
            "decimation_target": 200_000,
            "texture_size": 2048,
            "size_mm": 100,
            "origin": "floor",
        },
    ),
    "ar": Purpose(
        "AR",
        {
            "type": "usdz",
            "decimation_target": 100_000,
            "texture_size": 2048,
            "size_m": 0.5,
            "origin": "floor",
        },
    ),
    "blender": Purpose("Blender", {"type": "glb", "texture_format": "auto", "compress": "none"}),
    "archive": Purpose(
        "Archive",
        {
            "type": "glb",
            "decimation_target": 1_000_000,
            "texture_size": 4096,
            "texture_format": "png",
            "compress": "none",
        },
    ),
}


def suited_fields(name: str, file_type: str | None, *, has_mesh: bool) -> dict[str, Any]:
    """Return the fields that suit a purpose, its file type included.

    Args:
        name: of the purpose.
        file_type: the wanted type; None: that of the purpose. With another one, the placement of
            the purpose is left out, whose unit would be wrong.
        has_mesh: whether the request has a mesh, to which not all fields apply.
    """
    suited = dict(PURPOSES[name].fields)
    is_other = file_type not in {None, suited["type"]}
    return {
        key: value
        for key, value in suited.items()
        if BY_NAME[key].applies(has_mesh=has_mesh, file_type=str(file_type or suited["type"]))
        and not (is_other and BY_NAME[key].group == "file")
    }
