"""glTF files whose primitives Draco compresses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import shapes
from tests.support.built_glb import CORNERS, FACES, Glb
from tests.support.meshes import two_nodes
from trellis2_server.decoders import DecoderLimits, DecoderPool
from trellis2_server.decoders.meshes import read_mesh
from trellis2_server.errors import InputError, MissingPackageError, TooLargeError
from trellis2_server.export import retexture
from trellis2_server.inputs.meshes import Part, read_scene, to_model_frame

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

DracoPy: Any = pytest.importorskip("DracoPy", reason="DracoPy is not installed")

NAME = "KHR_draco_mesh_compression"
UV = np.array([[0, 0], [1, 0], [0, 1], [0.25, 1]], np.float32)


def compressed(
    positions: NDArray[Any], faces: NDArray[Any], *, mode: int | None = None, **more: Any
) -> Glb:
    """Return a GLB of one primitive, compressed with these arguments."""
    content = DracoPy.encode(np.asarray(positions, np.float32), faces.astype(np.uint32), **more)
    decoded = DracoPy.decode(content)
    count = len(decoded.points)
    names = {0: ("POSITION", "VEC3"), 1: ("NORMAL", "VEC3"), 3: ("TEXCOORD_0", "VEC2")}
    built = Glb()
    accessors = built.document["accessors"]
    attributes: dict[str, int] = {}
    ids: dict[str, int] = {}
    for item in decoded.attributes:
        attribute, shape = names[item["attribute_type"]]
        attributes[attribute], ids[attribute] = len(accessors), item["unique_id"]
        accessors.append({"componentType": 5126, "count": count, "type": shape})
    accessors.append({"componentType": 5123, "count": 3 * len(decoded.faces), "type": "SCALAR"})
    about = {"bufferView": built.view(content), "attributes": ids}
    primitive = {
        "attributes": attributes, "indices": len(accessors) - 1, "extensions": {NAME: about},
    }  # fmt: skip
    if mode is not None:
        primitive["mode"] = mode
    built.document["meshes"][0]["primitives"].append(primitive)
    built.document["buffers"] = [{"byteLength": len(built.data)}]
    built.document["extensionsRequired"] = [NAME]
    return built


def tetrahedron(**more: Any) -> Glb:
    return compressed(np.asarray(CORNERS), FACES, **{"quantization_bits": 16, **more})


def primitive_of(built: Glb) -> dict[str, Any]:
    return built.document["meshes"][0]["primitives"][0]


def position_of(built: Glb) -> dict[str, Any]:
    return built.document["accessors"][primitive_of(built)["attributes"]["POSITION"]]


def only_part(content: bytes) -> Part:
    (part,) = read_scene(content).parts
    return part


def sorted_corners(points: NDArray[Any]) -> NDArray[Any]:
    """Return faces as the positions of their corners, in an order of their own, [F, 9]."""
    rounded = np.asarray(points, np.float64).round(3) + 0.0
    turned = [
        min(np.roll(face, -at, axis=0).reshape(-1).tolist() for at in range(3)) for face in rounded
    ]
    return np.array(sorted(turned))


@pytest.mark.parametrize("mode", [None, 4, 5])
@pytest.mark.parametrize(
    "more",
    [{}, {"compression_level": 7}, {"compression_level": 10}, {"preserve_order": True},
     {"create_metadata": True}, {"preserve_order": True, "create_metadata": True}],
)  # fmt: skip
def test_compressed_triangles_are_those_that_were_compressed(
    more: dict[str, Any], mode: int | None
) -> None:
    part = only_part(bytes(tetrahedron(mode=mode, **more)))
    np.testing.assert_allclose(
        sorted_corners(part.positions[part.faces]),
        sorted_corners(np.asarray(CORNERS)[FACES]),
        atol=1e-3,
    )


def test_attributes_are_found_by_their_number() -> None:
    normals = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, -1]], np.float64)
    built = tetrahedron(tex_coord=UV.astype(np.float64), normals=normals, preserve_order=True)
    part = only_part(bytes(built))
    order = np.abs(np.asarray(CORNERS)[None] - part.positions[:, None]).sum(axis=2).argmin(axis=1)
    assert part.uv is not None
    assert part.normals is not None
    np.testing.assert_allclose(part.uv, UV[order], atol=1e-3)
    np.testing.assert_allclose(part.normals, normals[order], atol=0.01)


def test_an_attribute_beside_the_compression_has_its_own_accessor() -> None:
    built = tetrahedron(preserve_order=True)
    order = only_part(bytes(built)).positions
    primitive_of(built)["attributes"]["TEXCOORD_0"] = built.accessor(UV)
    part = only_part(bytes(built))
    np.testing.assert_array_equal(part.positions, order)
    np.testing.assert_array_equal(part.uv, UV)


def about(built: Glb) -> dict[str, Any]:
    return primitive_of(built)["extensions"][NAME]


def of_version_1(built: Glb) -> None:
    built.data = built.data[:5] + b"\1\2" + built.data[7:]


def of_points(built: Glb) -> None:
    built.data = built.data[:7] + b"\0" + built.data[8:]


def without_magic(built: Glb) -> None:
    built.data = b"DRACA" + built.data[5:]


def with_a_vertex_more(built: Glb) -> None:
    position_of(built)["count"] += 1


def with_a_vertex_less(built: Glb) -> None:
    position_of(built)["count"] -= 1


def with_a_face_more(built: Glb) -> None:
    built.document["accessors"][primitive_of(built)["indices"]]["count"] += 3


def with_another_type(built: Glb) -> None:
    position_of(built)["componentType"] = 5123


def with_another_id(built: Glb) -> None:
    about(built)["attributes"]["POSITION"] = 77


def cut_in_the_head(built: Glb) -> None:
    built.document["bufferViews"][about(built)["bufferView"]]["byteLength"] = 12


def cut_behind_the_head(built: Glb) -> None:
    built.document["bufferViews"][about(built)["bufferView"]]["byteLength"] -= 8


def without_indices(built: Glb) -> None:
    del primitive_of(built)["indices"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (of_version_1, r"primitives\[0\] of the GLB has Draco version 1.2"),
        (of_points, r"primitives\[0\] of the GLB has no triangles"),
        (without_magic, r"primitives\[0\] of the GLB is not Draco's"),
        (with_a_vertex_more, r"primitives\[0\] of the GLB declares \d+ vertices, but its Draco"),
        (with_a_vertex_less, r"primitives\[0\] of the GLB declares \d+ vertices, but its Draco"),
        (with_a_face_more, r"primitives\[0\] of the GLB declares 5 faces, but .* has 4"),
        (with_another_type, r"accessors\[\d\] of the GLB declares other rows than meshes\[0\]"),
        (with_another_id, r"primitives\[0\] of the GLB has no POSITION in its Draco"),
        (cut_in_the_head, r"primitives\[0\] of the GLB is damaged"),
        (cut_behind_the_head, r"primitives\[0\] of the GLB is damaged"),
        (without_indices, r"primitives\[0\] of the GLB has Draco compression, but no indices"),
    ],
)
def test_what_does_not_fit_names_the_primitive(change: Any, text: str) -> None:
    built = tetrahedron(preserve_order=True)
    change(built)
    with pytest.raises(InputError, match=text):
        read_scene(bytes(built))


def test_a_head_with_more_faces_than_declared_does_not_reach_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = tetrahedron(preserve_order=True)
    built.data = built.data[:11] + b"\xff\xff\xff\xff\x0f" + built.data[12:]

    def never(_: bytes) -> None:
        raise AssertionError

    monkeypatch.setattr(DracoPy, "decode", never)
    with pytest.raises(InputError, match="declares 4 faces, but its Draco compression has 4294967"):
        read_scene(bytes(built))


def grid(side: int) -> Glb:
    """A flat grid of 2 (side - 1)² faces."""
    row, column = np.divmod(np.arange(side * side), side)
    first = np.arange(side * (side - 1)).reshape(side - 1, side)[:, :-1].reshape(-1, 1)
    faces = first + np.array([0, 1, side, 1, side + 1, side])
    points = np.stack([row, column, 0 * row], axis=1)
    built = compressed(points, faces.reshape(-1, 3), compression_level=10)
    built.document["accessors"][primitive_of(built)["indices"]]["componentType"] = 5125
    return built


@pytest.mark.costly
def test_flat_grids_are_in_proportion_to_their_file() -> None:
    content = bytes(grid(600))
    faces = 2 * 599 * 599
    assert len(content) < faces // 8  # an eighth of a byte for each
    assert len(only_part(content).faces) == faces


@pytest.mark.costly
def test_a_stream_counts_once_for_the_size_of_the_file() -> None:
    built = grid(600)
    primitives = built.document["meshes"][0]["primitives"]
    primitives *= 5
    with pytest.raises(TooLargeError, match="over the limit"):
        read_scene(bytes(built))


def test_primitives_may_share_a_stream_but_not_without_end() -> None:
    built = tetrahedron()
    primitives = built.document["meshes"][0]["primitives"]
    primitives *= 8
    assert len(read_scene(bytes(built)).parts) == 8
    view = built.document["bufferViews"][about(built)["bufferView"]]
    built.data += bytes(100_000)
    view["byteLength"] = 100_000
    primitives *= 3
    with pytest.raises(TooLargeError, match="share their Draco compression"):
        read_scene(bytes(built))


@pytest.fixture(scope="module")
def pool() -> Generator[DecoderPool]:
    made = DecoderPool(DecoderLimits(2**29, 20.0), 1)
    yield made
    made.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_streams_are_an_error_or_a_mesh(pool: DecoderPool, data: st.DataObject) -> None:
    built = tetrahedron(
        preserve_order=data.draw(st.booleans()),
        create_metadata=data.draw(st.booleans()),
        tex_coord=UV.astype(np.float64),
    )
    content = bytearray(built.data)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(11, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    built.data = bytes(content)
    try:
        scene, _ = read_mesh(pool, bytes(built), rotation_deg=0, check=lambda: None)
    except InputError:
        return
    assert all(np.isfinite(part.positions).all() for part in scene.parts)


def test_a_compressed_mesh_is_read_in_a_decoder(pool: DecoderPool) -> None:
    scene, _ = read_mesh(pool, bytes(tetrahedron()), rotation_deg=0, check=lambda: None)
    assert len(scene.parts[0].faces) == 4


def test_integers_are_of_the_size_that_the_accessor_declares() -> None:
    colors = np.array([[0, 0, 0], [200, 0, 0], [0, 255, 0], [0, 0, 51]], np.uint8)
    content = DracoPy.encode(
        np.asarray(CORNERS, np.float32), FACES.astype(np.uint32), colors=colors, preserve_order=True
    )
    built = tetrahedron(preserve_order=True)
    decoded = DracoPy.decode(content)
    key = next(item["unique_id"] for item in decoded.attributes if item["attribute_type"] == 2)
    about(built)["bufferView"] = built.view(content)
    about(built)["attributes"] = {"POSITION": key}
    position_of(built).update(componentType=5121, normalized=True)
    part = only_part(bytes(built))
    np.testing.assert_allclose(
        sorted_corners(part.positions[part.faces]), sorted_corners(colors[FACES] / 255), atol=1e-3
    )
    position_of(built).update(componentType=5120)  # 200 is not an int8
    with pytest.raises(InputError, match="declares other rows"):
        read_scene(bytes(built))


def test_what_the_server_compresses_comes_back() -> None:
    content: Any = two_nodes().export(file_type="glb", include_normals=True)
    given_scene = read_scene(content)
    made = retexture.textured_glb(
        given_scene,
        to_model_frame(given_scene),
        shapes.field(24),
        texture_size=128,
        compress="draco",
        extras={},
        generator="test",
    )
    again = read_scene(made)
    assert len(again.parts) == len(given_scene.parts)
    for part, source in zip(again.parts, given_scene.parts, strict=True):
        assert part.uv is not None
        assert part.normals is not None
        assert len(part.faces) == len(source.faces)
        extent = float(np.ptp(source.positions, axis=0).max())
        # 16 bits of the extent: each face has a vertex where it had one.
        middles, others = (
            each.positions[each.faces].mean(axis=1).astype(np.float64) for each in (part, source)
        )
        distance = np.abs(middles[:, None] - others[None]).max(axis=2)
        assert distance.min(axis=1).max() < extent / 30_000
        assert distance.min(axis=0).max() < extent / 30_000


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = tetrahedron()
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    with pytest.raises(MissingPackageError, match="pip install DracoPy"):
        read_scene(bytes(built))


def test_without_the_package_a_copy_that_is_not_compressed_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = Glb()
    primitive = built.primitive()
    primitive["extensions"] = {NAME: {"bufferView": 0, "attributes": {"POSITION": 0}}}
    built.document["buffers"] = [{"byteLength": len(built.data)}]
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    np.testing.assert_array_equal(only_part(bytes(built)).faces, FACES)
