"""Text files are read in blocks: how large they are changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.inputs.meshes import read_scene, stl, text

OBJ = b"""# two objects and what is before them
v 0 0 0
v 1 0 0
v 0 1 0
vt 0 0
vt 1 0.25
vn 0 0 1
f 1/1/1 2/2/1 3/1/1
o first
v 2 0 5
v 3 0 5
v 2 1 5
v 3 1 6
s 1
f -4/1/1 -3/2/1 -2/-1/-1
f 6/2/1 5/1/1 7/2/1
o second \xc3\xa9
vt 0.5 0.5
vn 0 1 0
v 9 9 9
v 8 9 9.5
s off
f 8/3/2 9/3/2 1/1/-1 2/2/1
f 1//2 2/2 3
o third
f 4 5 8
f 9 5 \\
 8
"""
PLY = b"""ply
format ascii 1.0
element vertex 5
property float x
property float y
property float z
element face 3
property list uchar int vertex_indices
end_header
0 0 0
1 0 0.5
1 1 0

0 1 0
2 2 2.25
3 0 1 2
4 0 1 2 3
3 4 1 0
"""
STL = b"solid name\n" + b"".join(
    b"facet normal 0 0 1\nouter loop\nvertex %d 0 0\nvertex 0 %d 1\nvertex 1 1 2e%d\nendloop\n"
    b"endfacet\n" % (n + 2, n + 3, n % 3) for n in range(7)
) + b"endsolid name\n"  # fmt: skip


def contents(content: bytes, *, with_uv: bool) -> list[object]:
    """All that a scene says."""
    scene = read_scene(content, with_uv=with_uv)
    parts = [
        [
            part.mesh,
            part.positions.tolist(),
            part.faces.tolist(),
            None if part.normals is None else part.normals.tolist(),
            None if part.uv is None else part.uv.tolist(),
            part.placement.tolist(),
        ]
        for part in scene.parts
    ]
    return [*parts, list(scene.nodes), list(scene.roots)]


@pytest.mark.parametrize("with_uv", [False, True])
@pytest.mark.parametrize("content", [OBJ, PLY, STL], ids=["OBJ", "PLY", "STL"])
def test_blocks_of_any_size_make_the_same_scene(
    content: bytes, monkeypatch: pytest.MonkeyPatch, *, with_uv: bool
) -> None:
    wanted = contents(content, with_uv=with_uv)
    assert np.concatenate([part[2] for part in wanted[:-2]]).shape[0] >= 4
    for size in (1, 16, 50, 99, 150, 400):
        for module in (text, stl):
            monkeypatch.setattr(module, "BLOCK_BYTES", size)
        assert contents(content, with_uv=with_uv) == wanted


def test_objects_of_an_obj_have_the_faces_behind_their_name() -> None:
    scene = read_scene(OBJ)
    names = [node.get("name") for node in scene.nodes]
    counts = [sum(len(part.faces) for part in scene.parts if part.mesh == at) for at in range(4)]
    assert names == [None, "first", "second é", "third"]
    assert counts == [1, 2, 3, 2]
