from __future__ import annotations

import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from tests.support.meshes import as_bytes, egg
from trellis2_server.errors import InputError, MissingPackageError
from trellis2_server.inputs.meshes import read_scene, to_model_frame

KINDS = ("glb", "obj", "ply", "stl")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_is_read_as_trimesh_reads_it(kind: str) -> None:
    (part,) = read_scene(as_bytes(egg(), kind)).parts
    assert part.faces.shape == (1280, 3)
    assert len(part.positions) == 642
    known = trimesh.Trimesh(part.positions, part.faces, process=False)
    assert known.is_watertight
    assert known.volume == pytest.approx(egg().volume, rel=1e-4)
    assert known.bounds == pytest.approx(egg().bounds, abs=1e-6)


def _box(kind: str) -> bytes:
    if kind == "text ply":
        return trimesh.exchange.ply.export_ply(trimesh.creation.box(), encoding="ascii")
    if kind == "obj of normals":
        box = trimesh.creation.box()
        assert len(box.vertex_normals)
        return b"s 1\n" + as_bytes(box, "obj") + b"o \\\ns off\nf 1 2 \\\n3 4 8 7\n"
    return as_bytes(trimesh.creation.box(), kind)


@given(kind=st.sampled_from([*KINDS, "stl_ascii", "text ply", "obj of normals"]), data=st.data())
def test_a_damaged_file_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    content = bytearray(_box(kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        scene = read_scene(bytes(content[: data.draw(st.integers(1, len(content)))]))
        to_model_frame(scene)
    except (InputError, MissingPackageError):  # a face may have become concave
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a GLB, glTF, OBJ, PLY or STL file but text"),
        (b' {"asset": {}}\nv 0 0 0\n', "JSON of the glTF file is not valid"),
        (b"v 0 0 0\n", "the OBJ file has no triangle"),
        (b"v 1 2 3\nv a b c\n", 'line 2: "a": it is no number'),
        (bytes(84), "the STL file has no triangle"),
        (b"ply\nformat ascii 1.0\n", "the header of the PLY file has no end"),
    ],
)
def test_an_error_names_the_format(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"^mesh: .*{message}"):
        read_scene(content)
