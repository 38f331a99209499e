"""Compressed triangles, decoded by other programs: attributes follow their vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.glb_files import opened
from trellis2_server.errors import MissingPackageError
from trellis2_server.export.geometry import GltfGeometry
from trellis2_server.export.glb import pack
from trellis2_server.export.material import NEUTRAL

#: Size in bytes and the dtype of components by their type in glTF.
DTYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}


def geometry(vertices: int, *, has_uv: bool = True) -> GltfGeometry:
    """A strip over random places, each with a normal and a texture coordinate of its own."""
    random = np.random.default_rng(vertices)
    normals = random.normal(size=(vertices, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    strip = (np.arange(vertices - 2)[:, None] + np.arange(3)).astype(np.uint32)
    strip[1::2] = strip[1::2, ::-1]  # all wound alike: Draco splits vertices elsewhere
    strip = random.permutation(vertices).astype(np.uint32)[strip]  # a compressor reorders them
    return GltfGeometry(
        random.uniform(-0.5, 0.5, (vertices, 3)).astype(np.float32),
        normals.astype(np.float32),
        random.uniform(0, 1, (vertices, 2)).astype(np.float32) if has_uv else None,
        strip,
        is_double_sided=False,
    )


def packed(shape: GltfGeometry, compress: Any) -> tuple[dict[str, Any], bytes]:
    try:
        content = pack(shape, NEUTRAL, extras={}, generator="test", compress=compress)
    except MissingPackageError as error:
        pytest.skip(str(error))
    return opened(content)


def octahedral(rows: np.ndarray) -> np.ndarray:
    """Decode EXT_meshopt_compression's filter OCTAHEDRAL, as the extension's text has it."""
    x, y, one = rows.astype(float).T[:3]
    x, y = x / one, y / one
    z = 1 - abs(x) - abs(y)
    fold = np.minimum(z, 0)
    x, y = x + np.where(x >= 0, fold, -fold), y + np.where(y >= 0, fold, -fold)
    vectors = np.stack([x, y, z], 1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def from_meshopt(document: dict[str, Any], binary: bytes) -> dict[str, np.ndarray]:
    decoder = pytest.importorskip("meshoptimizer")
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive.get("mode", 4) == 4  # triangles
    found: dict[str, np.ndarray] = {}
    for name, at in {**primitive["attributes"], "faces": primitive["indices"]}.items():
        accessor = document["accessors"][at]
        view = document["bufferViews"][accessor["bufferView"]]
        about = view["extensions"]["EXT_meshopt_compression"]
        data = binary[about["byteOffset"] : about["byteOffset"] + about["byteLength"]]
        dtype = np.dtype(DTYPES[accessor["componentType"]])
        assert about["count"] == accessor["count"]
        assert view["byteLength"] == about["count"] * about["byteStride"]
        if name == "faces":
            assert dtype.itemsize == about["byteStride"]
            found[name] = decoder.decode_index_buffer(about["count"], 4, data).reshape(-1, 3)
            continue
        raw = decoder.decode_vertex_buffer(about["count"], about["byteStride"], data)
        rows = np.frombuffer(np.ascontiguousarray(raw).tobytes(), dtype)
        rows = rows.reshape(about["count"], -1)
        if about.get("filter") == "OCTAHEDRAL":
            found[name] = octahedral(rows)
        else:
            found[name] = rows / np.iinfo(dtype).max
    found["POSITION"] = found["POSITION"][:, :3]
    return found


def from_draco(document: dict[str, Any], binary: bytes) -> dict[str, np.ndarray]:
    decoder = pytest.importorskip("DracoPy")
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive.get("mode", 4) == 4  # triangles
    about = primitive["extensions"]["KHR_draco_mesh_compression"]
    view = document["bufferViews"][about["bufferView"]]
    result = decoder.decode(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
    by_id = {item["unique_id"]: item["data"] for item in result.attributes}
    found = {name: np.asarray(by_id[at], float) for name, at in about["attributes"].items()}
    return {**found, "faces": np.asarray(result.faces)}


DECODERS = {"meshopt": from_meshopt, "draco": from_draco}


@pytest.mark.parametrize("has_uv", [True, False])
@pytest.mark.parametrize("compress", DECODERS)
def test_each_vertex_keeps_its_place_normal_and_texture_coordinate(
    compress: str, *, has_uv: bool
) -> None:
    shape = geometry(300, has_uv=has_uv)
    read = DECODERS[compress](*packed(shape, compress))
    wanted = {"POSITION": shape.positions, "NORMAL": shape.normals}
    if shape.uv is not None:
        wanted["TEXCOORD_0"] = shape.uv
    assert set(read) == {*wanted, "faces"}
    distance = np.linalg.norm(read["POSITION"][:, None] - shape.positions[None], axis=2)
    row = distance.argmin(1)
    assert sorted(row.tolist()) == list(range(300))
    for name, tolerance in (("POSITION", 1e-4), ("NORMAL", 0.03), ("TEXCOORD_0", 1e-4)):
        if name in wanted:
            np.testing.assert_allclose(read[name], wanted[name][row], atol=tolerance)
    # The same triangles, each from any of its corners on, in any order.
    ours, theirs = row[read["faces"].astype(int)], shape.faces.astype(int)
    assert _turned(ours) == _turned(theirs)


@pytest.mark.parametrize("name", ["POSITION", "TEXCOORD_0"])
def test_draco_has_16_bits_for_places(name: str) -> None:
    shape = geometry(300)
    found = from_draco(*packed(shape, "draco"))[name]
    given = np.asarray(shape.positions if name == "POSITION" else shape.uv, float)
    steps = (found - given.min(0)) / np.ptp(given, axis=0).max() * (2**16 - 1)
    assert steps == pytest.approx(np.rint(steps), abs=0.02)
    assert (np.rint(steps) % 2 == 1).any()


def _turned(faces: np.ndarray) -> set[tuple[int, ...]]:
    first = faces.argmin(1)
    return {tuple(np.roll(face, -at).tolist()) for face, at in zip(faces, first, strict=True)}


@pytest.mark.parametrize("compress", [None, *DECODERS])
@pytest.mark.parametrize(("vertices", "component"), [(65_535, 5123), (65_536, 5125)])
def test_indices_have_16_bits_up_to_65535_vertices(
    compress: str | None, vertices: int, component: int
) -> None:
    document, _ = packed(geometry(vertices, has_uv=False), compress)
    (mesh,) = document["meshes"]
    accessor = document["accessors"][mesh["primitives"][0]["indices"]]
    assert accessor["componentType"] == component
    assert accessor["count"] == 3 * (vertices - 2)


@pytest.mark.parametrize("largest", [0.25, 1.0, 1.5])
def test_a_mesh_beyond_the_unit_cube_is_scaled_back_by_its_node(largest: float) -> None:
    shape = geometry(60)
    places = shape.positions * np.float32(largest / np.abs(shape.positions).max())
    document, binary = packed(
        GltfGeometry(places, shape.normals, shape.uv, shape.faces, is_double_sided=False), "meshopt"
    )
    scale = document["nodes"][0].get("scale", [1.0] * 3)
    assert scale == pytest.approx([max(1.0, largest)] * 3)
    read = from_meshopt(document, binary)["POSITION"] * scale
    for row in read:
        assert np.abs(places - row).max(1).min() < 1e-4 * max(1.0, largest)
