"""Read STL files, binary and text.

3D Systems, "StereoLithography Interface Specification" (1989).
"""

from __future__ import annotations

import re
import struct
from array import array
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.inputs.meshes.scene import check_size, make_part, single_part_scene
from trellis2_server.inputs.meshes.welding import weld

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.scene import Scene

_HEADER_BYTES: Final = 84
_FACE: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")])


def is_binary_stl(content: bytes) -> bool:
    """Whether the file has exactly the size that a binary STL of its face count has."""
    if len(content) < _HEADER_BYTES:
        return False
    (count,) = struct.unpack_from("<I", content, 80)
    return _HEADER_BYTES + count * _FACE.itemsize == len(content)


def is_text_stl(content: bytes) -> bool:
    """Whether the file begins like a text STL."""
    return content[:1024].lstrip()[:5] == b"solid" and b"facet" in content[:4096]


def read_binary_stl(content: bytes) -> Scene:
    """Read a binary STL."""
    corners = np.frombuffer(content, _FACE, -1, _HEADER_BYTES)["corners"]
    check_size(corners.size // 3, len(corners))
    return _scene(corners.reshape(-1, 3))


def read_text_stl(content: bytes) -> Scene:
    """Read a text STL."""
    values = array("d")
    for line in re.finditer(rb"^[ \t]*vertex[ \t]+([^\r\n]+)", content, re.MULTILINE):
        words = line[1].split(None, 3)
        values.extend((float(words[0]), float(words[1]), float(words[2])))
        if not len(values) & 0xFFFF:
            check_size(len(values) // 3, len(values) // 9)
    corners = np.asarray(values).reshape(-1, 3)
    check_size(len(corners), len(corners) // 3)
    return _scene(corners)


def _scene(corners: NDArray[Any]) -> Scene:
    """Make a scene of corners [3 F, 3]; corners at the same position become one vertex."""
    corners = corners[: len(corners) // 3 * 3]
    part = make_part(corners, np.arange(len(corners)).reshape(-1, 3))
    welded = weld(part.positions, part.faces)
    return single_part_scene(make_part(welded.vertices, welded.faces), is_smooth=False)
