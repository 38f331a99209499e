"""As how large compressed files count, for the limits that are in proportion to their size."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.meshes import glb
from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.meshes.glb_container import Glb
from trellis2_server.inputs.meshes.glb_sizes import StoredSize

MESHOPT, DRACO = "EXT_meshopt_compression", "KHR_draco_mesh_compression"


def file_with(*views: dict[str, Any]) -> Glb:
    """A file of some thousand bytes with an accessor for each view."""
    accessors = [{"bufferView": number} for number in range(len(views))]
    return Glb(glb({"bufferViews": list(views), "accessors": accessors}, bytes(4000)))


def meshopt(size: int) -> dict[str, Any]:
    return {"byteLength": 10 * size, "extensions": {MESHOPT: {"byteLength": size}}}


def primitive(
    position: int, indices: int | None = None, draco: int | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {"attributes": {"POSITION": position}}
    if indices is not None:
        found["indices"] = indices
    if draco is not None:
        found["extensions"] = {DRACO: {"bufferView": draco}}
    return found


def test_what_is_not_compressed_counts_as_it_is() -> None:
    file = file_with({"byteLength": 100})
    stored = StoredSize(file)
    stored.add(primitive(0))
    assert stored.bytes == file.size


def test_bytes_of_meshopt_count_eight_times_each_view_once() -> None:
    file = file_with(meshopt(100), meshopt(30))
    stored = StoredSize(file)
    stored.add(primitive(0))
    assert stored.bytes == file.size + 7 * 100
    for _ in range(2):
        stored.add(primitive(0, indices=1))
        assert stored.bytes == file.size + 7 * (100 + 30)


def test_bytes_of_draco_count_256_times_each_view_once() -> None:
    file = file_with({"byteLength": 50})
    stored = StoredSize(file)
    for _ in range(3):
        stored.add(primitive(0, draco=0))
        assert stored.bytes == file.size + 255 * 50


def test_no_more_counts_than_the_whole_file_is() -> None:
    """A view may say that it is longer than the file."""
    file = file_with(meshopt(100_000))
    stored = StoredSize(file)
    stored.add(primitive(0))
    assert stored.bytes == 8 * file.size


def test_primitives_that_share_a_stream_are_refused_above_16_times_the_file() -> None:
    file = file_with({"byteLength": 1000})
    stored = StoredSize(file)
    for _ in range(16 * file.size // 1000):
        stored.add(primitive(0, draco=0))
    with pytest.raises(TooLargeError, match="too many primitives"):
        stored.add(primitive(0, draco=0))
