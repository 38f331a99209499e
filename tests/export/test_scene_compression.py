"""Compressed scenes, decoded by other programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import khronos, shapes
from tests.support.glb_files import opened
from tests.support.meshes import two_nodes
from trellis2_server.errors import MissingPackageError
from trellis2_server.export import retexture
from trellis2_server.inputs.meshes import Part, Scene, read_scene
from trellis2_server.inputs.meshes import to_model_frame as to_frame

DTYPES = {5120: "i1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
#: A face whose corners coincide, beside one with area.
NEEDLE = b"o a\nv 0 0 0\nv 1 0 0\nv 0 2 0\nf 1 2 3\no b\nv 3 3 3\nv 3 3 3\nv 3 3 3\nf 4 5 6\n"


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Two nodes with normals, and a flat part of the same mesh as the second, mirrored."""
    content: Any = two_nodes().export(file_type="glb", include_normals=True)
    read = read_scene(content)
    last = read.parts[-1]
    flat = Part(last.mesh, last.positions * np.float32(3), None, None, last.faces, last.placement)
    return Scene((*read.parts, flat), read.nodes, read.roots, read.meshes)


def textured(scene: Scene, compress: Any) -> bytes:
    try:
        return retexture.textured_glb(
            scene,
            to_frame(scene),
            shapes.field(24),
            texture_size=128,
            compress=compress,
            extras={},
            generator="test",
        )
    except MissingPackageError as error:
        pytest.skip(str(error))


def primitives(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for mesh in document["meshes"] for each in mesh["primitives"]]


def plain(document: dict[str, Any], binary: bytes) -> list[dict[str, np.ndarray]]:
    """Read primitives that are not compressed."""

    def array(at: int) -> np.ndarray:
        accessor = document["accessors"][at]
        view = document["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        rows = np.frombuffer(
            binary, DTYPES[accessor["componentType"]], accessor["count"] * width, start
        )
        return rows.reshape(-1, width)

    return [
        {name: array(at) for name, at in {**each["attributes"], "faces": each["indices"]}.items()}
        for each in primitives(document)
    ]


def from_meshopt(document: dict[str, Any], binary: bytes) -> list[dict[str, np.ndarray]]:
    decoder = pytest.importorskip("meshoptimizer")
    views: dict[int, np.ndarray] = {}
    for index, view in enumerate(document["bufferViews"]):
        about = view.get("extensions", {}).get("EXT_meshopt_compression")
        if about is None:
            continue
        data = binary[about["byteOffset"] : about["byteOffset"] + about["byteLength"]]
        if about["mode"] == "TRIANGLES":
            faces = np.asarray(decoder.decode_index_buffer(about["count"], 4, data), np.uint32)
            views[index] = faces.astype("<u2" if about["byteStride"] == 2 else "<u4").view(np.uint8)
        else:
            rows = decoder.decode_vertex_buffer(about["count"], about["byteStride"], data)
            views[index] = np.frombuffer(np.ascontiguousarray(rows).tobytes(), np.uint8)
        views[index] = views[index].reshape(-1)
        assert len(views[index]) == view["byteLength"]

    def array(at: int) -> np.ndarray:
        accessor = document["accessors"][at]
        view = document["bufferViews"][accessor["bufferView"]]
        start = accessor.get("byteOffset", 0)
        end = start + accessor["count"] * view.get(
            "byteStride", np.dtype(DTYPES[accessor["componentType"]]).itemsize
        )
        return views[accessor["bufferView"]][start:end].view(DTYPES[accessor["componentType"]])

    found: list[dict[str, np.ndarray]] = []
    for each in primitives(document):
        rows = {name: array(at) for name, at in each["attributes"].items()}
        read = {"POSITION": rows["POSITION"].reshape(-1, 3)}
        if "TEXCOORD_0" in rows:
            read["TEXCOORD_0"] = rows["TEXCOORD_0"].reshape(-1, 2)
        if "NORMAL" in rows:
            read["NORMAL"] = rows["NORMAL"].reshape(-1, 4)
        found.append({**read, "faces": array(each["indices"]).reshape(-1, 1)})
    return found


def from_draco(document: dict[str, Any], binary: bytes) -> list[dict[str, np.ndarray]]:
    decoder = pytest.importorskip("DracoPy")
    found: list[dict[str, np.ndarray]] = []
    for each in primitives(document):
        about = each["extensions"]["KHR_draco_mesh_compression"]
        view = document["bufferViews"][about["bufferView"]]
        start = view["byteOffset"]
        result = decoder.decode(binary[start : start + view["byteLength"]])
        by_id = {item["unique_id"]: item["data"] for item in result.attributes}
        rows = {name: np.asarray(by_id[at]) for name, at in about["attributes"].items()}
        for name, at in each["attributes"].items():
            assert document["accessors"][at]["count"] == len(rows[name])
        place = document["accessors"][each["attributes"]["POSITION"]]
        np.testing.assert_allclose(place["min"], rows["POSITION"].min(0))
        np.testing.assert_allclose(place["max"], rows["POSITION"].max(0))
        faces = np.asarray(result.faces)
        assert document["accessors"][each["indices"]]["count"] == faces.size
        found.append({**rows, "faces": faces.reshape(-1, 1)})
    return found


def turned(faces: np.ndarray) -> np.ndarray:
    """Return the faces from their least corner on: meshopt's codec turns them."""
    rows = faces.reshape(-1, 3)
    return np.stack([np.roll(row, -row.argmin()) for row in rows])


def test_meshopt_keeps_positions_uv_and_faces_of_a_scene_as_they_are(scene: Scene) -> None:
    content = textured(scene, "meshopt")
    document, binary = opened(content)
    assert set(document["extensionsRequired"]) == {
        "EXT_meshopt_compression",
        "KHR_mesh_quantization",
    }
    assert [m["code"] for m in khronos.messages(content)] == ["UNSUPPORTED_EXTENSION"]
    without, binary_without = opened(textured(scene, None))
    assert document["nodes"] == without["nodes"]
    wanted, found = plain(without, binary_without), from_meshopt(document, binary)
    assert len(found) == len(wanted) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        assert set(ours) == set(theirs)
        assert ours["POSITION"].tobytes() == theirs["POSITION"].tobytes()
        assert ours["TEXCOORD_0"].tobytes() == theirs["TEXCOORD_0"].tobytes()
        np.testing.assert_array_equal(turned(ours["faces"]), turned(theirs["faces"]))
    assert ["NORMAL" in each for each in found] == [True, True, False]
    assert len(content) < len(textured(scene, None))


def test_draco_keeps_the_triangles_of_a_scene(scene: Scene) -> None:
    content = textured(scene, "draco")
    document, binary = opened(content)
    assert document["extensionsRequired"] == ["KHR_draco_mesh_compression"]
    codes = {m["code"] for m in khronos.messages(content)}
    assert codes <= {"UNSUPPORTED_EXTENSION", "UNUSED_OBJECT"}
    without, binary_without = opened(textured(scene, None))
    assert document["nodes"] == without["nodes"]
    wanted, found = plain(without, binary_without), from_draco(document, binary)
    assert ["NORMAL" in each for each in found] == [True, True, False]
    for ours, theirs in zip(found, wanted, strict=True):
        extent = np.ptp(theirs["POSITION"], axis=0).max()
        middles = [
            np.concatenate(
                [each[name][each["faces"][:, 0]] for name in ("POSITION", "TEXCOORD_0")], axis=1
            )
            .reshape(-1, 3, 5)
            .mean(1)
            for each in (ours, theirs)
        ]
        assert len(middles[0]) == len(middles[1])
        gaps = np.abs(middles[0][:, None] - middles[1][None]).max(axis=2)
        assert gaps.min(axis=1).max() < 1e-4 * max(extent, 1)
        assert gaps.min(axis=0).max() < 1e-4 * max(extent, 1)


def test_a_part_that_draco_cannot_compress_is_stored_as_it_is() -> None:
    document, _ = opened(textured(read_scene(NEEDLE), "draco"))
    packed = ["extensions" in each for each in primitives(document)]
    assert packed == [True, False]


def test_a_scene_is_compressed_as_often_with_many_parts_as_with_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views: list[int] = []
    for count in (2, 200):
        lines = (
            b"o %d\nv %d 0 0\nv %d 1 0\nv %d 0 1\nf -3 -2 -1\n" % ((at,) * 4) for at in range(count)
        )
        scene = read_scene(b"".join(lines))
        try:
            content = retexture.untextured_glb(
                scene, to_frame(scene), compress="meshopt", extras={}, generator="test"
            )
        except MissingPackageError as error:
            pytest.skip(str(error))
        views.append(len(opened(content)[0]["bufferViews"]))
    assert views[0] == views[1]
    starts: list[str] = []
    call = retexture.glb.add_compressed_parts.__globals__["subprocess_call"]
    run = call.call

    def noted(name: str, *arguments: Any) -> Any:
        starts.append(name)
        return run(name, *arguments)

    monkeypatch.setattr(call, "call", noted)
    retexture.untextured_glb(scene, to_frame(scene), compress="draco", extras={}, generator="test")
    assert starts == ["draco_parts"]
