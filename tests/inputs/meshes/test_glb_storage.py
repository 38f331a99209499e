"""Where a glTF file may keep its data: the same triangles, wherever they are."""

from __future__ import annotations

import base64
import io
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh

from tests.support.built_glb import CORNERS as POINTS
from tests.support.built_glb import FACES, Glb
from tests.support.meshes import glb, triangle
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes import Part, read_scene

if TYPE_CHECKING:
    from collections.abc import Callable

CORNERS = np.asarray(POINTS)


def tetrahedron() -> Glb:
    built = Glb()
    built.primitive()
    built.document["buffers"] = [{"byteLength": len(built.data)}]
    return built


def only_part(content: bytes) -> Part:
    (part,) = read_scene(content).parts
    return part


def check_tetrahedron(part: Part) -> None:
    np.testing.assert_array_equal(part.positions, CORNERS)
    np.testing.assert_array_equal(part.faces, FACES)


def data_uri(content: bytes, kind: str = "application/octet-stream") -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def with_json(text: bytes, binary: bytes, *before: bytes) -> bytes:
    """A GLB of this text, not padded, with further chunks before the binary one."""
    body = struct.pack("<I4s", len(text), b"JSON") + text + b"".join(before)
    body += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def test_json_may_be_padded_with_nul() -> None:
    built = tetrahedron()
    text = json.dumps(built.document).encode()
    for count in (1, 3, 40):
        check_tetrahedron(only_part(with_json(text + bytes(count), built.data)))


def test_unknown_chunks_are_passed_over() -> None:
    built = tetrahedron()
    other = struct.pack("<I4s", 8, b"XTRA") + b"12345678"
    text = json.dumps(built.document).encode()
    check_tetrahedron(only_part(with_json(text, built.data, other, other)))


URIS: list[Callable[[bytes], str]] = [
    data_uri,
    lambda data: data_uri(data, "application/gltf-buffer"),
    lambda data: data_uri(data).rstrip("="),
    lambda data: "DATA:;base64," + base64.urlsafe_b64encode(data).decode(),
    lambda data: data_uri(data).replace("+", "%2B").replace("/", "%2F"),
    lambda data: "data:," + "".join(f"%{byte:02x}" for byte in data),
]


@pytest.mark.parametrize("write", URIS)
def test_a_buffer_may_be_a_data_uri(write: Callable[[bytes], str]) -> None:
    built = tetrahedron()
    built.document["buffers"][0]["uri"] = write(built.data)
    check_tetrahedron(only_part(glb(built.document)))
    check_tetrahedron(only_part(json.dumps(built.document).encode()))


def test_gltf_as_text_is_read_if_it_embeds_its_data() -> None:
    ball = trimesh.creation.icosphere(3)
    files: Any = ball.export(file_type="gltf", embed_buffers=True)
    (content,) = files.values() if isinstance(files, dict) else (files,)
    known: Any = trimesh.load(io.BytesIO(content), file_type="gltf", process=False)
    (mesh,) = known.geometry.values()
    for text in (content, b"\xef\xbb\xbf\n" + content):
        part = only_part(text)
        np.testing.assert_array_equal(part.positions, mesh.vertices)
        np.testing.assert_array_equal(part.faces, mesh.faces)


def test_textures_in_gltf_as_text_do_not_count_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    built = tetrahedron()
    built.document["buffers"][0]["uri"] = data_uri(built.data)
    built.document["images"] = [{"uri": data_uri(bytes(100_000), "image/png")}]
    monkeypatch.setattr("trellis2_server.inputs.meshes.glb_container.MAX_JSON_BYTES", 2000)
    check_tetrahedron(only_part(json.dumps(built.document).encode()))
    built.document["images"] = [{"uri": "a" * 2000}]
    with pytest.raises(TooLargeError, match="bytes of JSON"):
        read_scene(json.dumps(built.document).encode())


def test_a_file_has_several_buffers() -> None:
    built = tetrahedron()
    faces = FACES.astype("<u2").tobytes()
    built.document["buffers"].append({"byteLength": len(faces), "uri": data_uri(b"\0\0" + faces)})
    built.document["bufferViews"][1] = {"buffer": 1, "byteOffset": 2, "byteLength": len(faces)}
    check_tetrahedron(only_part(bytes(built)))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("model.bin", r"buffers\[0\] is in another file, 'model.bin'.*send a GLB"),
        ("/etc/passwd", r"in another file, '/etc/passwd'"),
        ("http://[::1/\ud800", r"in another file"),
        (5, r"uri of buffers\[0\] is not text"),
        ("data:;base64,A", r"data: URI of buffers\[0\] is not valid"),
        ("data:;base64,AAA\u00e9", r"data: URI of buffers\[0\] is not valid"),
        ("data:;base64", r"data: URI of buffers\[0\] is not valid"),
        ("data:;cut-out=0", r"data: URI of buffers\[0\] is not valid"),
        ("data:;base64,AAAA", r"bufferViews\[0\] of the GLB declares more data"),
    ],
)
def test_a_buffer_that_is_not_in_the_file_is_named(uri: object, reason: str) -> None:
    built = tetrahedron()
    built.document["buffers"][0]["uri"] = uri
    with pytest.raises(InputError, match=reason):
        read_scene(bytes(built))


def test_data_that_many_buffers_share_is_not_copied_for_each() -> None:
    built = tetrahedron()
    text = json.dumps(built.document | {"buffers": [{"uri": data_uri(bytes(3000))}] * 2}).encode()
    many = json.loads(text)
    many["buffers"] += [{"uri": "data:;cut-out=0"}] * 10
    count = len(many["buffers"])
    many["bufferViews"] = [{"buffer": at, "byteLength": 2000} for at in range(count)]
    rows = {"componentType": 5126, "count": 9, "type": "VEC3"}
    many["accessors"] = [{"bufferView": at, **rows} for at in range(count)]
    many["meshes"][0]["primitives"] = [{"attributes": {"POSITION": at}} for at in range(count)]
    with pytest.raises(TooLargeError, match="more content than the file has"):
        read_scene(json.dumps(many).encode())


def add_sparse(
    built: Glb, base: int | None, index: list[int], values: np.ndarray, kind: str = "<u2"
) -> dict[str, Any]:
    """Make the accessor of the positions sparse; return its `sparse`."""
    indices = built.view(np.array(index).astype(kind).tobytes())
    component = {"u1": 5121, "<u2": 5123, "<u4": 5125, "<i2": 5122}[kind]
    sparse = {
        "count": len(index),
        "indices": {"bufferView": indices, "componentType": component},
        "values": {"bufferView": built.view(values.astype("<f4").tobytes())},
    }
    position = built.document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]
    accessor = built.document["accessors"][position]
    accessor["sparse"] = sparse
    accessor.pop("bufferView")
    if base is not None:
        accessor["bufferView"] = base
    return sparse


@pytest.mark.parametrize("kind", ["u1", "<u2", "<u4"])
def test_a_sparse_accessor_changes_rows_of_its_base(kind: str) -> None:
    built = tetrahedron()
    changed = CORNERS + np.array([[0, 0, 0], [7, 7, 7], [0, 0, 0], [9, 9, 9]])
    base = built.view(changed.astype("<f4").tobytes())
    add_sparse(built, base, [1, 3], CORNERS[[1, 3]], kind)
    check_tetrahedron(only_part(bytes(built)))


@pytest.mark.parametrize("row", range(4))
def test_a_sparse_accessor_may_change_one_row(row: int) -> None:
    built = tetrahedron()
    changed = CORNERS.copy()
    changed[row] = 9
    base = built.view(changed.astype("<f4").tobytes())
    add_sparse(built, base, [row], CORNERS[[row]])
    check_tetrahedron(only_part(bytes(built)))


def test_a_sparse_accessor_without_a_base_changes_zeros() -> None:
    built = tetrahedron()
    add_sparse(built, None, [1, 2, 3], CORNERS[1:])
    check_tetrahedron(only_part(bytes(built)))


def test_of_sparse_rows_out_of_order_the_last_counts() -> None:
    built = tetrahedron()
    add_sparse(built, None, [3, 1, 2, 1, 3], CORNERS[[0, 3, 2, 1, 3]])
    check_tetrahedron(only_part(bytes(built)))


def test_sparse_rows_of_vertices_that_no_face_uses_do_not_count() -> None:
    built = Glb()
    faces = built.accessor(np.array([[1], [3], [2]]), "<u2")
    built.primitive(faces)
    built.document["buffers"] = [{}]
    add_sparse(built, None, [0, 2, 3], np.array([[np.nan] * 3, *CORNERS[2:]]))
    part = only_part(bytes(built))
    np.testing.assert_array_equal(part.positions, [[0, 0, 0], *CORNERS[2:]])
    assert part.faces.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"count": 5}, "more data than it contains"),
        ({"count": 0}, "not valid"),
        ({"count": 10**12}, "more data than it contains"),
        ({"indices": {"bufferView": 9, "componentType": 5123}}, r"bufferViews\[9\]"),
        ({"indices": {"bufferView": 2, "componentType": 5122}}, "not unsigned"),
        ({"indices": {"bufferView": 2, "componentType": 1}}, r"componentType of accessors\[0\]"),
        ({"indices": {"bufferView": 2, "componentType": 5121}, "count": 4}, None),
        ({"values": {"bufferView": 3, "byteOffset": 24}}, "more data than it contains"),
        ({"indices": None}, "broken"),
    ],
)
def test_a_sparse_accessor_that_cannot_be_is_refused(
    change: dict[str, Any], reason: str | None
) -> None:
    built = tetrahedron()
    sparse = add_sparse(built, None, [1, 2, 3], CORNERS[1:])
    sparse |= change
    if reason is None:
        sparse["indices"]["byteOffset"] = 3
        reason = "more data than it contains"
    with pytest.raises(InputError, match=reason):
        read_scene(bytes(built))


def test_a_sparse_row_that_does_not_exist_is_refused() -> None:
    built = tetrahedron()
    add_sparse(built, None, [1, 4], CORNERS[:2])
    with pytest.raises(InputError, match=r"accessors\[0\] of the GLB changes a row that does not"):
        read_scene(bytes(built))


def test_accessors_without_a_view_are_zeros() -> None:
    built = tetrahedron()
    accessors = built.document["accessors"]
    accessors += [
        {"componentType": 5126, "count": 4, "type": "VEC2"},
        {"componentType": 5126, "count": 4, "type": "VEC3"},
    ]
    attributes = built.document["meshes"][0]["primitives"][0]["attributes"]
    attributes |= {"TEXCOORD_0": 2, "NORMAL": 3}
    part = only_part(bytes(built))
    check_tetrahedron(part)
    assert part.uv is not None
    assert part.normals is not None
    assert not part.uv.any()
    assert part.normals.tolist() == [[0, 0, 1]] * 4


def test_indices_without_a_view_are_no_triangles() -> None:
    built = tetrahedron()
    built.document["accessors"][1].pop("bufferView")
    with pytest.raises(InputError, match="has no triangle"):
        read_scene(bytes(built))


def test_a_billion_rows_that_are_not_stored_cost_nothing() -> None:
    """Three of the vertices are used."""
    faces = np.array([0, 5, 999_999_999], "<u4").tobytes()
    values = CORNERS[1:3].astype("<f4").tobytes()
    index = np.array([5, 999_999_999], "<u4").tobytes()
    views, at = [], 0
    for content in (faces, index, values):
        views.append({"buffer": 0, "byteOffset": at, "byteLength": len(content)})
        at += len(content)
    sparse = {
        "count": 2,
        "indices": {"bufferView": 1, "componentType": 5125},
        "values": {"bufferView": 2},
    }
    tree = triangle(
        accessors=[
            {"componentType": 5126, "count": 10**9, "type": "VEC3", "sparse": sparse},
            {"bufferView": 0, "componentType": 5125, "count": 3, "type": "SCALAR"},
        ],
        bufferViews=views,
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
    )
    part = only_part(glb(tree, faces + index + values))
    np.testing.assert_array_equal(part.positions, CORNERS[:3])


def test_interleaved_attributes_are_read() -> None:
    built = Glb()
    rows = np.zeros(4, [("p", "<f4", 3), ("n", "<i2", 4), ("u", "<u2", 2)])
    rows["p"], rows["n"][:, 1], rows["u"] = CORNERS, 32767, [[0, 65535]]
    view = built.view(rows.tobytes(), byteStride=24)
    position = built.accessor_of(view, 4, 3, "<f4")
    normal = built.accessor_of(view, 4, 3, "<i2", byteOffset=12, normalized=True)
    uv = built.accessor_of(view, 4, 2, "<u2", byteOffset=20, normalized=True)
    built.primitive(attributes={"POSITION": position, "NORMAL": normal, "TEXCOORD_0": uv})
    built.document["buffers"] = [{}]
    part = only_part(bytes(built))
    check_tetrahedron(part)
    assert part.normals is not None
    assert part.uv is not None
    assert part.normals.tolist() == [[0, 1, 0]] * 4
    assert part.uv.tolist() == [[0, 1]] * 4


def test_primitives_that_share_a_buffer_carry_only_what_they_use() -> None:
    """Two hundred primitives, each of a few of the vertices, in any order of use."""
    random = np.random.default_rng(0)
    points = random.normal(size=(5000, 3)).astype("<f4")
    built = Glb()
    position = built.accessor(points)
    expected = []
    for at in range(200):
        few = random.choice(5000, 30 if at % 2 else 1200, replace=False)
        corners = random.permutation(few)[: len(few) // 3 * 3]
        indices = built.accessor(corners[:, None], "<u2")
        built.document["meshes"][0]["primitives"].append(
            {"attributes": {"POSITION": position}, "indices": indices}
        )
        expected.append(points[corners])
    built.document["buffers"] = [{}]
    scene = read_scene(bytes(built))
    assert sum(len(part.positions) for part in scene.parts) == sum(map(len, expected))
    for part, corners in zip(scene.parts, expected, strict=True):
        np.testing.assert_array_equal(part.positions[part.faces.ravel()], corners)
