from __future__ import annotations

import trimesh

from tests.support.meshes import as_bytes
from trellis2_server.inputs.meshes import read_scene


def test_text_and_binary_stl_have_the_same_content() -> None:
    box = trimesh.creation.box()
    (text,) = read_scene(as_bytes(box, "stl_ascii")).parts
    (binary,) = read_scene(as_bytes(box, "stl")).parts
    assert text.positions.tolist() == binary.positions.tolist()
    assert text.faces.tolist() == binary.faces.tolist()
    assert len(text.positions) == 8


def test_normals_of_a_text_file_may_be_anything() -> None:
    facet = (
        "FACET NORMAL {}\nOuter Loop\nvertex 0 0 0\nVERTEX 1E0 0 0\nvertex 0 1 0\n"
        "EndLoop\nendfacet\n"
    )
    for normal in ("0 0 1", "nan -nan(ind) inf", "1,0 -1e-400 x", "0 0 " + "1" * 400):
        content = f"SOLID Part E\n{facet.format(normal)}ENDSOLID Part E\n".encode()
        (part,) = read_scene(content).parts
        assert part.positions[part.faces].tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
