"""A mesh's atlas and the material painted on it: unwrap, bake, encode.

What this module does not know: glTF's scenes, files.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from trellis2_server.export import bake
from trellis2_server.export.encode import encode_maps
from trellis2_server.export.unwrap import unwrap as unwrap_here
from trellis2_server.export.unwrap import unwrap_with_xatlas

if TYPE_CHECKING:
    from trellis2_server.export import Report
    from trellis2_server.export.glb import Material
    from trellis2_server.export.unwrap import Atlas
    from trellis2_server.mesh import Mesh, VoxelField


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
) -> tuple[Atlas, Material]:
    """Where each face of the mesh lies in its textures, and a material with them.

    Args:
        mesh: checked, in the field's frame.
        field: checked, unless it is on a device; base colour, metallic, roughness and alpha.
        original: checked; where given, colours are read at its closest points.
        texture_size: edge of the square textures, in pixels.
        alpha_mode: glTF's, or "auto": by the alpha that is there.
        texture_format: "auto" is JPEG, and WebP for a base colour with alpha.
        unwrap: whose charts.
        report: stages "unwrap", "bake" and "encode".

    Raises:
        ExportError: the mesh cannot be unwrapped or its textures not encoded.
        MissingPackageError: Pillow, or the package for `unwrap`, is not installed.
    """
    chart = unwrap_with_xatlas if unwrap == "xatlas" else unwrap_here
    if is_on_device(field):
        from trellis2_server.export import device

        atlas = chart(mesh, texture_size, report)
        maps = device.bake(mesh, atlas, field, original, report)
        if report:
            report("encode", 0, 1)
        return atlas, encode_maps(maps, alpha_mode, texture_format)
    # Unwrapping is half the time on one core: the other one prepares the bake.
    with ThreadPoolExecutor(1, thread_name_prefix="index") as pool:
        indexing = pool.submit(bake.index, field, original)
        atlas = chart(mesh, texture_size, report)
        index = indexing.result()
    maps = bake.bake(mesh, atlas, index, report)
    if report:
        report("encode", 0, 1)
    return atlas, encode_maps(maps, alpha_mode, texture_format)


def is_on_device(field: VoxelField) -> bool:
    """Whether the field's arrays are tensors outside the CPU's memory."""
    # Without torch imported, nothing is a tensor.
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return False
    attributes: Any = field.attributes
    return isinstance(attributes, torch.Tensor) and attributes.device.type != "cpu"
