"""Create the textures of a mesh: unwrap, bake, encode.

Does not know: nodes of glTF, files.
"""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from trellis2_server.export import bake
from trellis2_server.export.deviation import deviation
from trellis2_server.export.encode import encode_maps
from trellis2_server.export.geometry import smooth_normals
from trellis2_server.export.normals import bake_normal_map, full_surface, tangents
from trellis2_server.export.occlusion import draw_occlusion, measure_occlusion
from trellis2_server.export.unwrap import unwrap as unwrap_mesh
from trellis2_server.export.xatlas_unwrap import unwrap_with_xatlas
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.export.material import Material
    from trellis2_server.export.normals import FullSurface
    from trellis2_server.export.occlusion import Occlusion
    from trellis2_server.mesh import Mesh, VoxelField
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import AlphaMode, TextureFormat

#: Colours are read at the closest points of the original only if the deviation of the mesh (p99)
#: exceeds this value. Below it, that improves textures by at most 0.1 dB of 62 (bench/export.py,
#: lossless textures, smooth fields at 512 voxels).
PROJECTED_ABOVE_VOXELS: Final = 0.05


class Textures(NamedTuple):
    """The textures of a mesh.

    Attributes:
        atlas: texture coordinates.
        material: with the encoded textures.
        error_voxels: deviation of the mesh from the original (p99), voxels; None: no original.
        tangents: float32 [M, 4], of the rows of `atlas.uv`; None: no normal map.
        normals: float32 [N, 3], of the mesh's vertices; None: no normal map.
    """

    atlas: Atlas
    material: Material
    error_voxels: float | None
    tangents: NDArray[np.float32] | None
    normals: NDArray[np.float32] | None


def create_textures(  # noqa: PLR0913 - the parameters of `export.textured_glb`
    mesh: Mesh,
    field: VoxelField,
    original: Mesh | None,
    *,
    texture_size: int,
    alpha_mode: AlphaMode,
    texture_format: TextureFormat,
    unwrap: Literal["own", "xatlas"],
    atlas: Atlas | None = None,
    occlusion: bool = False,
    normal_map: bool = False,
    report: Report | None,
) -> Textures:
    """Unwrap the mesh, bake the field into textures and encode them.

    Args:
        mesh: checked, in the field's frame.
        field: checked; base colour, metallic, roughness and alpha.
        original: checked; colours are read at its closest points unless it is so close to the mesh
            that none would change. None: no original.
        texture_size: edge of the square textures, pixels.
        alpha_mode: as glTF defines it; "auto" is chosen by the baked alpha.
        texture_format: "auto" is JPEG, and PNG for a base colour with alpha.
        unwrap: the method that creates the charts.
        atlas: used as it is, of that size; None: unwrap the mesh.
        occlusion: whether to bake ambient occlusion.
        normal_map: whether to bake the normals of the original; without one, those of the mesh.
        report: stages "unwrap", "bake" and "encode".

    Raises:
        ExportError: the mesh could not be unwrapped, or its textures not encoded.
        MissingPackageError: Pillow, or the package for `unwrap`, is not installed.
    """

    def build_index() -> tuple[bake.Index, float | None, FullSurface | None, Occlusion | None]:
        surface, error = original, None
        if surface is not None:
            error = deviation(surface, mesh, field.resolution).p99
            if error <= PROJECTED_ABOVE_VOXELS:
                surface = None
        index = bake.build_index(field, surface)
        full = None
        if normal_map:
            full = full_surface(original or mesh, index.surface if index.has_surface else None)
        return index, error, full, measure_occlusion(mesh) if occlusion else None

    # Unwrapping uses one core for half of the time: the index is built on another one.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="index") as pool:
        indexing = pool.submit(context.run, build_index)
        if atlas is None:
            create_atlas = unwrap_with_xatlas if unwrap == "xatlas" else unwrap_mesh
            atlas = create_atlas(mesh, texture_size, report)
        owner = bake.rasterize(atlas)
        index, error, full, openness = indexing.result()
    maps = bake.bake(mesh, atlas, index, report, owner)
    if openness is not None:
        maps.metal_rough[..., 0] = draw_occlusion(openness, atlas)
        maps = replace(maps, has_occlusion=True)
    along = normals = None
    if full is not None:
        normals = smooth_normals(mesh)
        along = tangents(mesh, normals, atlas)
        maps = replace(maps, normals=bake_normal_map(mesh, normals, atlas, along, owner, full))
    stage_report(report, "encode", 1)(0)
    material = encode_maps(maps, alpha_mode, texture_format)
    return Textures(atlas, material, error, along, normals)
