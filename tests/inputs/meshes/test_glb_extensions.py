from __future__ import annotations

import pytest

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
