from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.support import khronos, shapes
from tests.support.glb_files import opened
from trellis2_server import export
from trellis2_server.errors import ExportError
from trellis2_server.export.gltf import new_document, set_asset


def test_buffer_views_are_aligned_and_contain_their_bytes() -> None:
    builder = new_document({}, "program")
    array = np.arange(7, dtype=np.uint8)
    contents = [b"a", array.tobytes(), b"", b"12345678"]
    for content in (contents[0], array, *contents[2:]):
        builder.add_bytes(content)
    document, binary = opened(builder.to_glb())
    views = document["bufferViews"]
    assert all(view["byteOffset"] % 4 == 0 for view in views)
    assert [
        binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]] for view in views
    ] == contents


def test_an_extension_is_declared_once() -> None:
    builder = new_document({}, "program")
    builder.require("EXT_a")
    builder.require("EXT_a")
    document, _ = opened(builder.to_glb())
    assert document["extensionsUsed"] == document["extensionsRequired"] == ["EXT_a"]


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_a_document_that_is_not_json_is_an_error(value: object) -> None:
    with pytest.raises(ExportError, match="JSON"):
        new_document({"value": value}, "program").to_glb()


def test_the_asset_of_another_exporter_is_replaced() -> None:
    content = export.untextured_glb(shapes.sphere(4), extras={"old": 1}, generator="old")
    changed = set_asset(content, extras={"seed": 7}, generator="new")
    before, after = opened(content), opened(changed)
    assert after[0]["asset"] == {"version": "2.0", "generator": "new", "extras": {"seed": 7}}
    assert before[1] == after[1]
    del before[0]["asset"], after[0]["asset"]
    assert before[0] == after[0]
    assert khronos.messages(changed) == []


DOCUMENT = b'{"asset": {"version": "2.0"}}   '
HEAD = struct.pack("<II", 2, 20 + len(DOCUMENT)) + struct.pack("<I4s", len(DOCUMENT), b"JSON")


@pytest.mark.parametrize(
    "content",
    [b"", b"no GLB", b"glTF" + bytes(40), b"FTlg" + HEAD + DOCUMENT, b"glTF" + HEAD + b"{}"],
)
def test_the_asset_of_a_file_that_is_not_a_glb_cannot_be_replaced(content: bytes) -> None:
    with pytest.raises(ExportError, match="GLB"):
        set_asset(content, extras={}, generator="new")
