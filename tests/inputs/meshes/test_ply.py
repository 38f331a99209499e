from __future__ import annotations

import struct

import numpy as np
import pytest
import trimesh

from tests.support.meshes import CORNERS, egg, ply
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import ply as module
from trellis2_server.inputs.meshes import read_scene


@pytest.mark.parametrize("form", ["ascii", "binary_big_endian"])
def test_other_encodings_of_ply_are_read(form: str) -> None:
    if form == "ascii":
        content = trimesh.exchange.ply.export_ply(egg(), encoding="ascii")
    else:
        corners = np.frombuffer(CORNERS, "<f4").astype(">f4").tobytes()
        content = ply(3, 1, corners + struct.pack(">B3i", 3, 0, 1, 2), form)
    (part,) = read_scene(content).parts
    assert len(part.faces) == (1280 if form == "ascii" else 1)


def test_polygons_become_fans_of_triangles() -> None:
    corners = struct.pack("<12f", 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0)
    (part,) = read_scene(ply(4, 1, corners + struct.pack("<B4i", 4, 0, 1, 2, 3))).parts
    assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    mixed = struct.pack("<B4i", 4, 0, 1, 2, 3) + struct.pack("<B3i", 3, 0, 1, 2)
    (part,) = read_scene(ply(4, 2, corners + mixed)).parts
    assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]


def test_the_corners_may_follow_other_properties() -> None:
    content = (
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
        b"property float z\nelement other 1\nproperty list uchar int values\nelement face 1\n"
        b"property uchar flags\nproperty list uchar int vertex_index\nend_header\n"
        b"0 0 0\n1 0 0\n0 1 0\n2 1 1\n9 3 0 1 2\n"
    )
    (part,) = read_scene(content).parts
    assert part.faces.tolist() == [[0, 1, 2]]


def test_a_binary_file_that_ends_in_a_row_of_lists_names_the_row() -> None:
    header = (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n"
        b"property float y\nproperty float z\nelement face 3\n"
        b"property list uchar int vertex_indices\nend_header\n"
    )
    rows = bytes(12) + b"\x03" + bytes(12) + b"\x02" + bytes(8)
    for cut in (0, 3, 8, 9):
        content = header + rows[: len(rows) - cut]
        row = 3 if cut == 0 else 2
        with pytest.raises(
            InputError, match=rf"cut short in row {row} of 3 .* \"face\", at byte {len(content)}$"
        ):
            read_scene(content)


def with_header(size: int) -> bytes:
    """A triangle whose header, up to the end of its last word, has that size: most is a comment."""
    head, _, rest = ply(3, 1, CORNERS + struct.pack("<B3i", 3, 0, 1, 2)).partition(b"element")
    rest = b"element" + rest
    end = rest.index(b"end_header") + len(b"end_header\n")
    return head + b"comment ".ljust(size - len(head) - end - 1, b"x") + b"\n" + rest


def test_a_header_ends_within_a_mebibyte() -> None:
    (part,) = read_scene(with_header(2**20)).parts
    assert part.faces.tolist() == [[0, 1, 2]]
    with pytest.raises(InputError, match="the header of the PLY file has no end"):
        read_scene(with_header(2**20 + 20))


@pytest.mark.parametrize(
    ("strips", "triangles"),
    [
        ([[0, 1, 2]], [[0, 1, 2]]),
        ([[0, 1, 2, 3, 4]], [[0, 1, 2], [2, 1, 3], [2, 3, 4]]),
        ([[0, 1, 2], [3, 4, 5, 6]], [[0, 1, 2], [3, 4, 5], [5, 4, 6]]),
        ([[0, 1, 2, -1, 3, 4, 5]], [[0, 1, 2], [3, 4, 5]]),
        ([[0, 1], [], [2, 3, 4]], [[2, 3, 4]]),
        ([[0, 1]], []),
        ([], []),
    ],
    ids=range(7),
)
def test_strips_are_triangles_of_alternating_order(
    strips: list[list[int]], triangles: list[list[int]]
) -> None:
    values = np.array([each for strip in strips for each in strip], np.int64)
    sizes = np.array([len(strip) for strip in strips], np.int64)
    assert module._strip_triangles(values, sizes).tolist() == triangles
