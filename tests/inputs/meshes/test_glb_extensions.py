from __future__ import annotations

from typing import Any

import pytest

from tests.support.glb_scenes import built, read
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.glb_extensions import check_required


@pytest.mark.parametrize(
    ("required", "named"),
    [
        (["KHR_materials_unlit", "KHR_node_visibility"], None),
        (["EXT_mesh_gpu_instancing", "KHR_mesh_quantization"], None),
        (["VENDOR_a", "KHR_node_visibility", "VENDOR_b"], "VENDOR_a, VENDOR_b$"),
        (["MSFT_packing_occlusionRoughnessMetallic", "EXT_texture_webp", "VRM"], None),
        (["KHR_gaussian_splatting"], "KHR_gaussian_splatting"),
        (["EXT_primitive_voxels", "CESIUM_z_up"], "EXT_primitive_voxels, CESIUM_z_up"),
        (["VRM_"], "VRM_"),
        (["EXT_mesh_polygon", "EXT_mesh_primitive_restart"], None),
        (["khr_node_visibility"], "khr_node_visibility"),
        ([f"X_{at}" for at in range(9)], r"X_4$"),
        (["\ud800\n"], r"\\ud800"),
        ([5, None], "5, None"),
        ({"a": 1}, "not a list"),
        ("KHR_node_visibility", "not a list"),
    ],
)
def test_only_required_extensions_that_change_what_is_read_are_refused(
    required: object, named: str | None
) -> None:
    document = {"extensionsRequired": required}
    if named is None:
        check_required(document)
    else:
        with pytest.raises(InputError, match=named):
            check_required(document)


@pytest.mark.parametrize(
    ("used", "primitive", "unread"),
    [
        ([], {}, ()),
        (["KHR_materials_unlit", "KHR_mesh_quantization", "VENDOR_note", "EXT_mesh_polygon"],
         {"KHR_materials_variants": {}, "EXT_mesh_features": {}, "EXT_mesh_polygon": {}}, ()),
        (["KHR_gaussian_splatting", "KHR_gaussian_splatting_compression_spz_2"],
         {"KHR_gaussian_splatting": {}},
         ("KHR_gaussian_splatting", "KHR_gaussian_splatting_compression_spz_2")),
        (["EXT_primitive_voxels", "CESIUM_z_up"], {}, ("CESIUM_z_up", "EXT_primitive_voxels")),
        ([], {"VENDOR_cloud": {}}, ("VENDOR_cloud",)),
        ([], {"\ud800\n": {}}, ("\\ud800\n",)),
        ({"a": 1}, [], ()),
        ([f"EXT_implicit_{at}" for at in range(9)], {},
         tuple(f"EXT_implicit_{at}" for at in range(5))),
    ],
)  # fmt: skip
def test_geometry_that_is_not_read_is_named(
    used: object, primitive: object, unread: tuple[str, ...]
) -> None:
    file = built()
    file.document["extensionsUsed"] = used
    (mesh,) = file.document["meshes"]
    mesh["primitives"].append({**mesh["primitives"][0], "mode": 0, "extensions": primitive})
    scene = read(file)
    assert scene.unread == unread
    assert len(scene.parts) == 1


def test_a_file_of_splats_alone_is_refused_with_their_name() -> None:
    file = built()
    only: dict[str, Any] = {"mode": 0, "extensions": {"KHR_gaussian_splatting": {}}}
    file.document["meshes"][0]["primitives"][0] |= only
    match = "^mesh: the GLB file has no triangle, only KHR_gaussian_splatting, which is not read$"
    with pytest.raises(InputError, match=match):
        read(file)
