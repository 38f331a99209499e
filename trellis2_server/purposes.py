"""What a file is for, and the request fields that suit it: a table.

The page and the client's `--for` fill in these fields; the server itself does not know them. To add
a purpose, or a field, add it here. This module needs the standard library only, so that the client
can share it.

Does not know: what a field does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
            "texture_size": 2048,
            "up_axis": "z",
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
}
