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
