from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.meshes import CORNERS, glb, ply, triangle
from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.meshes import read_scene
from trellis2_server.inputs.meshes.scene import check_density
from trellis2_server.inputs.meshes.visibility import used_vertices, visible_faces

ROWS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=60)


@given(ROWS, st.integers(0, 5))
def test_what_is_left_out_shows_nothing(rows: list[tuple[int, int, int]], vertices: int) -> None:
    faces = visible_faces(np.array(rows, np.int32).reshape(-1, 3), vertices)
    found: list[tuple[int, int, int]] = [tuple(face) for face in faces.tolist()]
    triangles = [face for face in rows if len(set(face)) == 3]
    if len(triangles) <= 4 * vertices:
        assert found == triangles
        return
    kept: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for a, b, c in triangles:
        kept.setdefault(min((a, b, c), (b, c, a), (c, a, b)), (a, b, c))
    assert found == list(kept.values())


def test_the_other_side_of_a_face_is_no_copy() -> None:
    faces = np.array([[0, 1, 2], [0, 2, 1]] * 9, np.int32)
    assert visible_faces(faces, 3).tolist() == [[0, 1, 2], [0, 2, 1]]


def test_few_used_vertices_are_listed() -> None:
    faces = np.array([[7, 3, 5]], np.int32)
    used = used_vertices(faces, 9)
    assert used is not None
    assert used.tolist() == [3, 5, 7]
    assert used_vertices(np.array([[2, 0, 1]], np.int32), 3) is None


def _list(*rows: int) -> bytes:
    return b"".join(struct.pack("<B3i", 3, *(rows[at : at + 3])) for at in range(0, len(rows), 3))


def _glb_of_indices(*indices: int, mode: int = 4) -> bytes:
    tree = triangle(
        accessors=[
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5121, "count": len(indices), "type": "SCALAR"},
        ],
        bufferViews=[
            {"buffer": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": len(indices)},
        ],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": mode}]}],
    )
    return glb(tree, CORNERS + bytes(indices))


COPIES = {
    "obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\n" + b"f 1 2 3\nf 2 3 1\nf 1 2 2\n" * 20,
    "obj of a long face": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf" + b" 1 2 3" * 50,
    "ply": ply(3, 60, CORNERS + _list(0, 1, 2, 1, 2, 0, 0, 1, 1) * 20),
    "stl": bytes(80) + struct.pack("<I", 60) + (bytes(12) + CORNERS + bytes(2)) * 60,
    "glb": _glb_of_indices(*[0, 1, 2, 1, 2, 0, 0, 1, 1] * 20),
    "glb of a strip": _glb_of_indices(*[0, 1, 2, 2, 0, 0] * 20, mode=5),
    "glb of a fan": _glb_of_indices(*[0, 1, 2, 2, 0] * 20, mode=6),
}


@pytest.mark.parametrize("content", COPIES.values(), ids=COPIES.keys())
def test_copies_of_a_face_are_read_once_in_every_format(content: bytes) -> None:
    (part,) = read_scene(content).parts
    corners = [part.positions[face].tolist() for face in part.faces]
    assert len(corners) <= 2  # strips and fans show both sides
    assert sorted(corners[0]) == sorted(np.frombuffer(CORNERS, "<f4").reshape(3, 3).tolist())


def test_a_group_of_which_nothing_is_left_has_no_part() -> None:
    scene = read_scene(b"v 0 0 0\nv 1 0 0\nv 0 1 0\no a\nf 1 2 2\no b\nf 1 2 3\n")
    assert [node.get("name") for node in scene.nodes] == ["b"]


def test_primitives_that_share_all_vertices_have_only_their_own() -> None:
    count = 100
    corners = np.random.default_rng(0).random((3 * count, 3)).astype("<f4").tobytes()
    indices = np.arange(3 * count, dtype="<u2").tobytes()
    view = {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"}
    vectors: dict[str, Any] = {"bufferView": 0, "componentType": 5126, "type": "VEC3"}
    tree = triangle(
        accessors=[
            vectors | {"count": 3 * count},
            *[view | {"byteOffset": 6 * at} for at in range(count)],
        ],
        bufferViews=[
            {"buffer": 0, "byteLength": len(corners)},
            {"buffer": 0, "byteOffset": len(corners), "byteLength": len(indices)},
        ],
        meshes=[
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "NORMAL": 0}, "indices": at + 1}
                    for at in range(count)
                ]
            }
        ],
    )
    parts = read_scene(glb(tree, corners + indices)).parts
    assert len(parts) == count
    expected = np.frombuffer(corners, "<f4").reshape(count, 3, 3)
    for part, at in zip(parts, expected, strict=True):
        assert part.positions[part.faces[0]].tolist() == at.tolist()
        assert part.normals is not None
        assert len(part.positions) == len(part.normals) == 3


def test_a_small_file_must_not_have_many_faces_or_vertices() -> None:
    check_density(300_000, 100_000, 0)
    check_density(312_000, 104_500, 36_000)
    with pytest.raises(
        TooLargeError, match="104501 faces in a file of 36000 bytes, over the limit"
    ):
        check_density(3, 104_501, 36_000)
    with pytest.raises(TooLargeError, match="312001 vertices in a file of 36000 bytes"):
        check_density(312_001, 1, 36_000)
