"""GLB files that cannot be drawn."""

from __future__ import annotations

import pytest

from tests.support.built_glb import Glb
from trellis2_server.drawing import DrawingError, load_glb


def _tetrahedron() -> Glb:
    glb = Glb()
    glb.primitive()
    return glb


def _damaged(at: int, content: bytes) -> bytes:
    whole = bytes(_tetrahedron())
    return whole[:at] + content + whole[at + len(content) :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (_damaged(0, b"fLTF"), "not a GLB 2.0 file"),
        (_damaged(4, b"\x01"), "not a GLB 2.0 file"),
        (_damaged(4, b"\x03"), "not a GLB 2.0 file"),
        (bytes(_tetrahedron())[:-1], "not a GLB 2.0 file"),
        (_damaged(16, b"BIN\0"), "first chunk of the GLB is not JSON"),
        (_damaged(20, b"]"), "cannot be read"),
        (bytes(Glb()), "the GLB has no mesh"),
    ],
)
def test_a_file_that_is_no_model_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DrawingError, match=message):
        load_glb(content)


@pytest.mark.parametrize(
    ("where", "key", "message"),
    [
        ("accessors", "sparse", "sparse accessors are not supported"),
        ("bufferViews", "extensions", "compressed buffer views are not supported"),
        ("primitive", "extensions", "compressed primitives are not supported"),
    ],
)
def test_a_model_that_is_compressed_is_refused(where: str, key: str, message: str) -> None:
    glb = Glb()
    primitive = glb.primitive()
    place = primitive if where == "primitive" else glb.document[where][0]
    place[key] = {}
    if key == "extensions":
        assert len(load_glb(bytes(glb)).positions) == 4  # an empty list of them says nothing
    place[key] = {"EXT_meshopt_compression": {}}
    with pytest.raises(DrawingError, match=message):
        load_glb(bytes(glb))


def test_an_accessor_beyond_its_data_is_refused() -> None:
    glb = Glb()
    glb.primitive()
    glb.document["accessors"][0]["count"] = 10**6
    with pytest.raises(DrawingError, match="cannot be read"):
        load_glb(bytes(glb))
