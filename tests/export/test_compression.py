from __future__ import annotations

import numpy as np
import pytest

from tests.support import khronos, shapes
from tests.support.glb_files import opened, to_gltf
from trellis2_server import export
from trellis2_server.errors import MissingPackageError
from trellis2_server.mesh import Mesh, VoxelField


@pytest.fixture(scope="module")
def field() -> VoxelField:
    return shapes.field()


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return export.prepare(shapes.noisy_blob(), decimation_target=2500)


def test_triangles_compressed_with_meshopt_are_decoded(mesh: Mesh, field: VoxelField) -> None:
    try:
        content = export.textured_glb(mesh, field, texture_size=128, compress="meshopt")
    except MissingPackageError as error:
        pytest.skip(str(error))
    assert [m["code"] for m in khronos.messages(content)] == ["UNSUPPORTED_EXTENSION"]
    decoder = pytest.importorskip("meshoptimizer")
    document, binary = opened(content)
    primitive = document["meshes"][0]["primitives"][0]

    def unpacked(index: int, width: int, kind: str) -> np.ndarray:
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        packed = view["extensions"]["EXT_meshopt_compression"]
        data = binary[packed["byteOffset"] : packed["byteOffset"] + packed["byteLength"]]
        if packed["mode"] == "TRIANGLES":
            return decoder.decode_index_buffer(accessor["count"], 4, data)
        raw = decoder.decode_vertex_buffer(accessor["count"], packed["byteStride"], data)
        return np.frombuffer(np.ascontiguousarray(raw).tobytes(), kind).reshape(-1, width)

    positions = unpacked(primitive["attributes"]["POSITION"], 4, "<i2")[:, :3] / 32767
    faces = np.asarray(unpacked(primitive["indices"], 1, "<u2")).reshape(-1, 3)
    assert len(faces) == len(mesh.faces)
    same_triangles(positions[faces], to_gltf(mesh.vertices)[mesh.faces])


def test_triangles_compressed_with_draco_are_decoded(mesh: Mesh, field: VoxelField) -> None:
    try:
        content = export.textured_glb(mesh, field, texture_size=128, compress="draco")
    except MissingPackageError as error:
        pytest.skip(str(error))
    # The validator does not support Draco, so the buffer view seems to be unused.
    codes = [m["code"] for m in khronos.messages(content)]
    assert codes == ["UNSUPPORTED_EXTENSION", "UNUSED_OBJECT"]
    decoder = pytest.importorskip("DracoPy")
    document, binary = opened(content)
    primitive = document["meshes"][0]["primitives"][0]
    packed = primitive["extensions"]["KHR_draco_mesh_compression"]
    view = document["bufferViews"][packed["bufferView"]]
    result = decoder.decode(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
    by_id = {item["unique_id"]: item["data"] for item in result.attributes}
    position = by_id[packed["attributes"]["POSITION"]]
    accessor = document["accessors"][primitive["attributes"]["POSITION"]]
    assert accessor["count"] == len(position)
    np.testing.assert_allclose(accessor["min"], position.min(0))
    np.testing.assert_allclose(accessor["max"], position.max(0))
    assert by_id[packed["attributes"]["NORMAL"]].shape == (len(position), 3)
    assert by_id[packed["attributes"]["TEXCOORD_0"]].shape == (len(position), 2)
    assert document["accessors"][primitive["indices"]]["count"] == 3 * len(result.faces)
    same_triangles(position[result.faces], to_gltf(mesh.vertices)[mesh.faces])


def same_triangles(ours: np.ndarray, wanted: np.ndarray) -> None:
    """Compare triangles in any order, by their centroids and normals."""
    from scipy.spatial import cKDTree

    distance, match = cKDTree(wanted.mean(1)).query(ours.mean(1))
    assert distance.max() < 1e-4
    assert len(np.unique(match)) == len(ours)
    normal, other = (np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]) for t in (ours, wanted[match]))
    assert (normal * other).sum() > 0.99 * np.linalg.norm(other, axis=1) @ np.linalg.norm(
        normal, axis=1
    )


def test_a_mesh_that_exceeds_the_unit_cube_is_scaled_by_its_node(mesh: Mesh) -> None:
    large = Mesh(mesh.vertices * np.float32(4), mesh.faces)
    try:
        content = export.untextured_glb(large, compress="meshopt")
    except MissingPackageError as error:
        pytest.skip(str(error))
    document, _ = opened(content)
    (scale, *_) = document["nodes"][0]["scale"]
    assert scale == pytest.approx(np.abs(large.vertices).max())
