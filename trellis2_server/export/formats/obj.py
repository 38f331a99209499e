"""Write OBJ: with colours at the vertices, or a ZIP with a material and textures.

Format: Wavefront, "Advanced Visualizer Manual", appendix B1, with vertex colours after the position
(sRGB, as readers expect them); MTL with its PBR extension (`Pr`, `Pm`, `map_Pr`, `map_Pm`, `norm`),
as Blender reads it, which has no occlusion. Each place has one `v`; seams of the texture are in
`vt`, hard edges in `vn`.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.cancellation import checked
from trellis2_server.export.formats.archive import ArchiveEntry, write_zip
from trellis2_server.export.formats.colors import place_colors
from trellis2_server.export.formats.model import decoded, encoded_png

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model

#: Rows written as text at a time; other threads can run in between.
_ROWS: Final = 8192


def write_obj(model: Model) -> bytes:
    """Return the model as an OBJ file with colours at the vertices."""
    return b"".join(checked(_obj(model, has_material=False)))


def write_obj_zip(model: Model) -> bytes:
    """Return a ZIP with the model as OBJ, its material, and its textures if it has any."""
    pictures = _pictures(model)
    text = "\n".join([*_material(model, pictures), ""]).encode()
    entries = [
        ArchiveEntry("model.obj", _obj(model, has_material=True), zipfile.ZIP_DEFLATED),
        ArchiveEntry("model.mtl", [text], zipfile.ZIP_DEFLATED),
    ]
    entries += [ArchiveEntry(name, [content], zipfile.ZIP_STORED) for _, name, content in pictures]
    return write_zip(entries)


def _obj(model: Model, *, has_material: bool) -> Iterator[bytes]:
    colors = None if has_material else place_colors(model)
    yield b"# trellis2-server\n"
    if has_material:
        yield b"mtllib model.mtl\nusemtl model\n"
    # Nine digits are needed for all float32 to stay different.
    if colors is None:
        yield from _lines("v %.9g %.9g %.9g\n", model.positions)
    else:
        rows = np.concatenate([model.positions, colors[:, :3] / np.float32(255)], axis=1)
        yield from _lines("v %.9g %.9g %.9g %.4g %.4g %.4g\n", rows)
    yield from _lines("vn %.4f %.4f %.4f\n", model.normals)
    if has_material and model.uv is not None and model.uv_faces is not None:
        # The origin of the texture is its lower left corner in OBJ.
        yield from _lines("vt %.7g %.7g\n", np.array([0, 1]) + model.uv * np.array([1, -1]))
        corners = np.stack([model.faces, model.uv_faces, model.normal_faces], axis=2)
        yield from _lines("f %d/%d/%d %d/%d/%d %d/%d/%d\n", corners.reshape(-1, 9) + 1)
    else:
        corners = np.stack([model.faces, model.normal_faces], axis=2)
        yield from _lines("f %d//%d %d//%d %d//%d\n", corners.reshape(-1, 6) + 1)


def _lines(line_format: str, rows: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        yield (line_format * len(some) % tuple(some.ravel().tolist())).encode()


def _material(model: Model, pictures: list[tuple[str, str, bytes]]) -> list[str]:
    """Return the lines of the MTL file."""
    material = model.material
    roughness = material.roughness
    if model.metal_rough is not None:
        histogram = np.array(model.metal_rough.getchannel("G").histogram())
        roughness *= float(histogram @ np.arange(256) / histogram.sum() / 255)
    # Readers that do not know Pr take the roughness from the exponent, as 1 - sqrt(Ns / 1000).
    exponent = 1000 * (1 - roughness) ** 2
    color = " ".join(f"{each:.6g}" for each in material.color[:3])
    return [
        "newmtl model",
        "Ka 0 0 0",
        f"Kd {color}",
        "Ks 0 0 0",
        f"Ns {exponent:.6g}",
        f"d {material.color[3]:.6g}",
        f"Pr {material.roughness:.6g}",
        f"Pm {material.metallic:.6g}",
        "illum 2",
        *(f"{key} {name}" for key, name, _ in pictures),
    ]


def _pictures(model: Model) -> list[tuple[str, str, bytes]]:
    """Return the MTL keyword, the file name and the content of each texture."""
    color = model.base_color
    if color is None:
        return []
    is_opaque = color.getextrema()[3][0] == 255  # type: ignore[index] # noqa: PLR2004
    bands = [("map_Kd", "base_color.png", color.convert("RGB") if is_opaque else color)]
    if not is_opaque:
        bands.append(("map_d", "alpha.png", color.getchannel("A")))
    if model.metal_rough is not None:
        bands.append(("map_Pr", "roughness.png", model.metal_rough.getchannel("G")))
        bands.append(("map_Pm", "metallic.png", model.metal_rough.getchannel("B")))
    if model.material.normals is not None:
        bands.append(("norm", "normal.png", decoded(model.material.normals, "RGB")))
    return [(key, name, encoded_png(picture)) for key, name, picture in bands]
