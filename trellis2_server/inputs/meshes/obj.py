"""Read OBJ files: positions, faces and object names; no materials.

Wavefront, "Advanced Visualizer Manual", appendix B1.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.scene import MAX_FACES, Part, Scene, check_size, make_part

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_obj(content: bytes) -> bool:
    """Whether the file is text with a vertex line near its beginning, and not JSON."""
    if content.lstrip()[:1] == b"{":
        return False
    start = content[:65_536]
    return bool(re.search(rb"(?:^|\n)v[ \t]", start)) and b"\0" not in start


def read_obj(content: bytes) -> Scene:
    """Read an OBJ. Each object (`o`) becomes a node with one part."""
    points: list[list[float]] = []
    groups: list[tuple[str | None, list[tuple[int, int, int]]]] = [(None, [])]
    faces = 0
    for line in _lines(content):
        words = line.split()
        if not words:
            continue
        if words[0] == b"v":
            points.append([float(words[1]), float(words[2]), float(words[3])])
            if not len(points) & 0xFFFF:
                check_size(len(points), 0)
        elif words[0] == b"f":
            corners = [_index(word, len(points)) for word in words[1:]]
            hub = corners[0]
            groups[-1][1].extend((hub, a, b) for a, b in pairwise(corners[1:]))
            faces += len(corners) - 2
            if faces > MAX_FACES:
                check_size(0, faces)
        elif words[0] == b"o":
            groups.append((line[2:].decode("utf-8", "replace").strip()[:256], []))
            check_size(0, 0, len(groups))
    check_size(len(points), faces)
    filled = [(name, corners) for name, corners in groups if corners]
    positions = np.array(points, np.float64).reshape(-1, 3)
    parts: list[Part] = []
    for at, (_, corners) in enumerate(filled):
        rows, indices = np.unique(np.array(corners, np.int64), return_inverse=True)
        if rows[-1] >= len(positions) or rows[0] < 0:
            raise InputError("mesh: a face of the OBJ file refers to a vertex that does not exist")
        parts.append(make_part(positions[rows], indices.reshape(-1, 3), at))
    nodes = [({"name": name} if name else {}) | {"mesh": at} for at, (name, _) in enumerate(filled)]
    names = tuple(name for name, _ in filled)
    return Scene(tuple(parts), tuple(nodes), tuple(range(len(nodes))), names, is_smooth=True)


def _lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines; a backslash at the end of a line continues it on the next one."""
    start, continued = 0, b""
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        line = content[start:end].rstrip(b"\r")
        start = end + 1
        if line.endswith(b"\\"):
            continued += line[:-1] + b" "
            continue
        yield continued + line if continued else line
        continued = b""


def _index(word: bytes, count: int) -> int:
    """Convert a corner (`7`, `7/1/2`, or `-1` for the last vertex) to an index from 0."""
    index = int(word.split(b"/", 1)[0])
    return index - 1 if index > 0 else count + index
