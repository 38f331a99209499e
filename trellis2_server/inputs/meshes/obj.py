"""Read OBJ files: positions, faces and object names; no materials.

Wavefront, "Advanced Visualizer Manual", appendix B1.
"""

from __future__ import annotations

import io
import re
from array import array
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.metadata import MetadataFilter
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import (
    MAX_FACES,
    Part,
    Scene,
    check_corners,
    check_size,
    make_part,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Read of an object's name, bytes and characters.
_NAME_BYTES: Final = 4096
_NAME_LENGTH: Final = 256
#: Corners of a face that are read before the limit on them is checked.
_CORNERS: Final = 65_536


def is_obj(content: bytes) -> bool:
    """Whether the file is text with a vertex line near its beginning, and not JSON."""
    start = content[:65_536]
    if start.lstrip()[:1] == b"{":
        return False
    return bool(re.search(rb"(?:^|\n)v[ \t]", start)) and b"\0" not in start


def read_obj(content: bytes) -> Scene:
    """Read an OBJ. Each object (`o`) becomes a node with one part."""
    # Numbers are kept in arrays: as Python objects they would take ten times the memory.
    points, corners, sizes = array("d"), array("q"), array("q")
    groups: list[tuple[str | None, int]] = [(None, 0)]  # with the number of their first polygon
    vertices = faces = 0
    for line in io.BytesIO(_joined(content)):
        words = line.split(None, 4)
        if not words:
            continue
        if words[0] == b"v":
            points.extend((float(words[1]), float(words[2]), float(words[3])))
            vertices += 1
            if not vertices & 0xFFFF:
                check_size(vertices, 0)
        elif words[0] == b"f":
            before = len(corners)
            for some in _batches(words[1:]):
                corners.extend([_index(word, vertices) for word in some])
                check_corners(len(corners) - before)
            size = len(corners) - before
            if size < 3:  # noqa: PLR2004 - it has no triangle
                del corners[before:]
                continue
            sizes.append(size)
            faces += size - 2
            if faces > MAX_FACES:
                check_size(0, faces)
        elif words[0] == b"o":
            name = line[2 : 2 + _NAME_BYTES].decode("utf-8", "replace").strip()[:_NAME_LENGTH]
            groups.append((name, len(sizes)))
            check_size(0, 0, len(groups))
    check_size(vertices, faces)
    return _make_scene(
        groups, np.asarray(points).reshape(-1, 3), np.asarray(corners), np.asarray(sizes)
    )


def _joined(content: bytes) -> bytes:
    """Return the file with continued lines joined: a backslash at the end continues a line."""
    if b"\\" not in content:
        return content
    content += b"\n"
    while b"\r\r" in content:
        content = content.replace(b"\r\r", b"\r")
    return content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")


def _batches(words: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the words of a face; the fourth and those after it are one item, unsplit."""
    yield words[:3]
    if len(words) > 3:  # noqa: PLR2004
        rest = (match[0] for match in re.finditer(rb"\S+", words[3]))
        while some := list(islice(rest, _CORNERS)):
            yield some


def _index(word: bytes, count: int) -> int:
    """Convert a corner (`7`, `7/1/2`, or `-1` for the last vertex) to an index from 0."""
    index = int(word.split(b"/", 1)[0])
    return index - 1 if index > 0 else count + index


def _make_scene(
    groups: list[tuple[str | None, int]],
    positions: NDArray[np.float64],
    corners: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> Scene:
    """Make a part of each object that has faces.

    Args:
        groups: names of objects, and the number of polygons before them.
        positions: float64 [N, 3].
        corners: int64 [C], of all polygons.
        sizes: int64, numbers of corners of the polygons.
    """
    triangles = triangulate(corners, sizes)
    before = np.concatenate([[0], np.cumsum(np.maximum(sizes - 2, 0))])
    first = before[[polygon for _, polygon in groups]].tolist()
    metadata = MetadataFilter()
    parts: list[Part] = []
    names: list[str | None] = []
    for (name, _), start, end in zip(groups, first, [*first[1:], len(triangles)], strict=True):
        if start == end:
            continue
        rows, indices = np.unique(triangles[start:end], return_inverse=True)
        if rows[-1] >= len(positions) or rows[0] < 0:
            raise InputError("mesh: a face of the OBJ file refers to a vertex that does not exist")
        part = make_part(positions[rows], indices.reshape(-1, 3), len(parts))
        if not len(part.faces):
            continue
        parts.append(part)
        names.append(metadata.name(name))
    nodes = [({"name": name} if name else {}) | {"mesh": at} for at, name in enumerate(names)]
    return Scene(tuple(parts), tuple(nodes), tuple(range(len(nodes))), tuple(names), is_smooth=True)
