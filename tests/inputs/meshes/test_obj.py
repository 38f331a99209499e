from __future__ import annotations

from trellis2_server.inputs.meshes import read_scene


def test_the_objects_of_an_obj_keep_their_names() -> None:
    content = b"o a b\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\no \xc3\xa9\nv 0 0 1\nf 1 2 \\\n4\n"
    scene = read_scene(content)
    assert [node.get("name") for node in scene.nodes] == ["a b", "é"]
    assert [len(part.positions) for part in scene.parts] == [3, 3]


def test_polygons_become_fans_of_triangles() -> None:
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    (part,) = read_scene(square + b"f 1/1 2/2 3/3 -1\n").parts
    assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
