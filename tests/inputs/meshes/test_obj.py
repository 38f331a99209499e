from __future__ import annotations

import pytest

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import read_scene


def test_the_objects_of_an_obj_keep_their_names() -> None:
    content = b"o a b\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\no \xc3\xa9\nv 0 0 1\nf 1 2 \\\n4\n"
    scene = read_scene(content)
    assert [node.get("name") for node in scene.nodes] == ["a b", "é"]
    assert [len(part.positions) for part in scene.parts] == [3, 3]


@pytest.mark.parametrize(("nul", "is_text"), [(65_535, False), (65_536, True)])
def test_a_file_with_a_nul_in_its_beginning_is_no_text(nul: int, *, is_text: bool) -> None:
    content = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n#".ljust(nul) + b"\0\n"
    if is_text:
        assert len(read_scene(content).parts) == 1
    else:
        with pytest.raises(InputError, match=r"^mesh: not a GLB, glTF, OBJ, PLY or STL file, or"):
            read_scene(content)


def test_polygons_become_fans_of_triangles() -> None:
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    (part,) = read_scene(square + b"f 1/1 2/2 3/3 -1\n").parts
    assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_lines_continue_whatever_their_ends() -> None:
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    for end in (b"\n", b"\r\n", b"\r\r\n"):
        content = (square + b"f 1 \\\n2 \\\n\\\n3 4\n").replace(b"\n", end)
        (part,) = read_scene(content).parts
        assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3]], end
    (part,) = read_scene(square + b"f 1 2 \\\n4\nf 1 2 3\\").parts
    assert part.faces.tolist() == [[0, 1, 3], [0, 1, 2]]


def test_a_face_of_many_corners_is_read() -> None:
    points = b"".join(b"v %d %d 0\n" % (at, at * at) for at in range(3000))
    corners = b" ".join(b"%d/1/1" % (at + 1) for at in range(3000))
    (part,) = read_scene(points + b"f " + corners + b"\nf 1\nf\nf 1 2\n").parts
    assert part.faces[[0, -1]].tolist() == [[0, 1, 2], [0, 2998, 2999]]
    assert len(part.faces) == 2998


@pytest.mark.parametrize(
    ("faces", "line"),
    [
        (b"f 1 2 3\nf 1 2 \\\n9\nf 1 2 9", 5),
        (b"f 1 9\n\nf 1/1/1 2//2 3\nf 3/1 2/1 # 9\n f 1/3 2/3 4/3", 8),
        (b"f 1 2 3\n" * 50_000 + b"f 1 2 3 77\n", 50_004),
    ],
)
def test_an_index_behind_the_last_vertex_names_its_line(faces: bytes, line: int) -> None:
    content = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n" + faces
    with pytest.raises(InputError, match=rf"^mesh: line {line}: a face refers to a vertex that"):
        read_scene(content)
