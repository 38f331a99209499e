from __future__ import annotations

import json
import struct
from typing import Any

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


def test_long_lists_are_written_in_slices_that_are_the_same_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    builder = new_document({"n\u00e4me": [1.5, None]}, "program")
    builder.json["nodes"] = [{"name": f"\u00e9 {at}", "mesh": at} for at in range(1300)]
    builder.json["scenes"] = [{"nodes": [0]}]
    lengths: list[int] = []
    dumps = json.dumps

    def noted(value: Any, **options: Any) -> str:
        lengths.append(len(value) if isinstance(value, list) else 1)
        return dumps(value, **options)

    monkeypatch.setattr("trellis2_server.export.gltf.json.dumps", noted)
    content = builder.to_glb()
    assert max(lengths) == 512
    expected = dumps(builder.json, separators=(",", ":"), ensure_ascii=False).encode()
    (size,) = struct.unpack_from("<I", content, 12)
    assert content[20 : 20 + size].rstrip(b" ") == expected


def test_writing_a_long_list_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise StopError

    monkeypatch.setattr("trellis2_server.export.gltf.check", stop)
    builder = new_document({}, "program")
    builder.json["nodes"] = [{}] * 513
    with pytest.raises(StopError):
        builder.to_glb()


class StopError(Exception):
    """Raised between two slices."""
