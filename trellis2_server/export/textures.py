"""A mesh's atlas and the material painted on it: unwrap, bake, encode.

What this module does not know: glTF's scenes, files.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Literal

from trellis2_server.export import bake
from trellis2_server.export.deviation import deviation
from trellis2_server.export.encode import encode_maps
from trellis2_server.export.unwrap import unwrap as unwrap_here
from trellis2_server.export.unwrap import unwrap_with_xatlas

if TYPE_CHECKING:
    from trellis2_server.export import Report
    from trellis2_server.export.glb import Material
    from trellis2_server.export.unwrap import Atlas
    from trellis2_server.mesh import Mesh, VoxelField

#: Colours are read in place where no more than a hundredth of the original is farther from the
#: mesh than that. Reading them at the closest point of the original instead gains there at most
#: 0.1 dB of 62 (bench/export.py, lossless textures, smooth fields at 512 voxels).
PROJECTED_ABOVE_VOXELS: Final = 0.05


def textured(  # noqa: PLR0913 - what `export.textured_glb` takes
    mesh: Mesh,
    field: VoxelField,
    original: Mesh | None,
    *,
    texture_size: int,
    alpha_mode: Literal["auto", "OPAQUE", "MASK", "BLEND"],
    texture_format: Literal["auto", "png", "jpeg", "webp"],
    unwrap: Literal["own", "xatlas"],
    report: Report | None,
) -> tuple[Atlas, Material, float | None]:
    """Where each face of the mesh lies in its textures, and a material with them.

    The third is how far the original is from the mesh, in voxels (p99), where there is one.

    Args:
        mesh: checked, in the field's frame.
        field: checked, unless it is on a device; base colour, metallic, roughness and alpha.
        original: checked; where given, colours are read at its closest points, unless it is
            so close that none would change.
        texture_size: edge of the square textures, in pixels.
        alpha_mode: glTF's, or "auto": by the alpha that is there.
        texture_format: "auto" is JPEG, and WebP for a base colour with alpha.
        unwrap: whose charts.
        report: stages "unwrap", "bake" and "encode".

    Raises:
        ExportError: the mesh cannot be unwrapped or its textures not encoded.
        MissingPackageError: Pillow, or the package for `unwrap`, is not installed.
    """
    is_painted_on_device = is_on_device(field)

    def chart() -> Atlas:
        if unwrap == "xatlas":
            return unwrap_with_xatlas(mesh, texture_size, report)
        if not is_painted_on_device:
            return unwrap_here(mesh, texture_size, report)
        from trellis2_server.export import device

        where: Any = field.attributes
        return unwrap_here(mesh, texture_size, report, device.grouping(where.device))

    def prepare() -> tuple[bake.Index | None, float | None]:
        surface, error = original, None
        if surface is not None:
            error = deviation(surface, mesh, field.resolution).p99
            if error <= PROJECTED_ABOVE_VOXELS:
                surface = None
        return None if is_painted_on_device else bake.index(field, surface), error

    # Unwrapping is half the time on one core: the other one prepares the bake.
    with ThreadPoolExecutor(1, thread_name_prefix="index") as pool:
        preparing = pool.submit(prepare)
        atlas = chart()
        index, error = preparing.result()
    if index is None:
        from trellis2_server.export import device

        is_projected = error is not None and error > PROJECTED_ABOVE_VOXELS
        maps = device.bake(mesh, atlas, field, original if is_projected else None, report)
    else:
        maps = bake.bake(mesh, atlas, index, report)
    if report:
        report("encode", 0, 1)
    return atlas, encode_maps(maps, alpha_mode, texture_format), error


def is_on_device(field: VoxelField) -> bool:
    """Whether the field's arrays are tensors outside the CPU's memory."""
    # Without torch imported, nothing is a tensor.
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return False
    attributes: Any = field.attributes
    return isinstance(attributes, torch.Tensor) and attributes.device.type != "cpu"
