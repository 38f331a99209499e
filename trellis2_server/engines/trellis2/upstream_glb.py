"""TRELLIS.2's own exporter, `o_voxel.postprocess.to_glb`, where its extensions are compiled.

It remeshes, decimates, unwraps and bakes on the GPU with nvdiffrast, whose licence forbids
commercial use.

Does not know: this server's exporter, jobs, time limits.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines import portable
from trellis2_server.errors import MissingPackageError
from trellis2_server.mesh import ALPHA, BASE_COLOR, METALLIC, ROUGHNESS

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh, VoxelField
    from trellis2_server.parameters import Options

#: Most faces that nvdiffrast accepts; TRELLIS.2's own application decimates to as many first.
_MAX_FACES: Final = 16_777_216
_PACKAGES: Final = ("o_voxel", "cumesh", "flex_gemm", "nvdiffrast", "trimesh", "cv2")
#: Package → its modules → names that the exporter uses.
_USED: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "nvdiffrast": {"nvdiffrast.torch": ("RasterizeCudaContext", "rasterize", "interpolate")},
    "cumesh": {
        "cumesh": (
            "CuMesh.simplify",
            "CuMesh.uv_unwrap",
            "cuBVH",
            "remeshing.remesh_narrow_band_dc",
        )
    },
    "o_voxel": {"o_voxel.postprocess": ("to_glb",)},
}
_LAYOUT: Final = {
    "base_color": BASE_COLOR,
    "metallic": slice(METALLIC, METALLIC + 1),
    "roughness": slice(ROUGHNESS, ROUGHNESS + 1),
    "alpha": slice(ALPHA, ALPHA + 1),
}


def check() -> None:
    """Import the exporter.

    Raises:
        MissingPackageError: names the packages that are missing.
    """
    missing = missing_part()
    if missing:
        raise MissingPackageError(f"export.backend: upstream: {missing}")


def missing_part() -> str | None:
    """Import the exporter; return why that is not possible, or None."""
    standins = [name for name in _PACKAGES if portable.is_standin(name)]
    if standins:
        return (
            f"needs the compiled {', '.join(standins)}, and stand-ins are in use; compile them as "
            "TRELLIS.2's README says, or set export.backend to own"
        )
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}; or set export.backend to own"
    for name, used in _USED.items():
        why = portable.why_unusable(name, used)
        if why:
            return f"{name} is {why}; or set export.backend to own"
    return None


def write(torch: Any, mesh: Mesh, field: VoxelField, options: Options, *, device: Any) -> bytes:
    """Write the GLB: +Y up, textures as WebP unless the request asks for another format.

    Frame, scale and centre are those of this server's exporter. `alpha_mode` and `compress`
    have no equivalent: the material is opaque, the file is not compressed.
    """
    postprocess: Any = importlib.import_module("o_voxel.postprocess")
    vertices = torch.from_numpy(mesh.vertices).to(device)
    faces = torch.from_numpy(mesh.faces).to(device)
    if len(faces) > _MAX_FACES:
        simplified = importlib.import_module("cumesh").CuMesh()
        simplified.init(vertices, faces)
        simplified.simplify(_MAX_FACES)
        vertices, faces = simplified.read()
    scene = postprocess.to_glb(
        vertices=vertices,
        faces=faces,
        attr_volume=torch.from_numpy(field.attributes).to(device),
        coords=torch.from_numpy(field.coords).to(device),
        attr_layout=_LAYOUT,
        aabb=[[-0.5] * 3, [0.5] * 3],
        grid_size=field.resolution,
        decimation_target=options.decimation_target,
        texture_size=options.texture_size,
        remesh=options.remesh,
        remesh_band=1,
        remesh_project=0,
    )
    is_webp = options.texture_format in {"auto", "webp"}
    return scene.export(file_type="glb", extension_webp=is_webp)
