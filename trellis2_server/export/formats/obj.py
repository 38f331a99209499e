"""Write OBJ: with colours at the vertices, or a ZIP with a material and textures.

Format: Wavefront, "Advanced Visualizer Manual", appendix B1, with vertex colours after the position
(sRGB, as readers expect them); MTL with its PBR extension (`map_Pr`, `map_Pm`), as Blender reads
it.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.cancellation import CheckedStream, checked
from trellis2_server.export.formats.archive import ArchiveEntry, write_zip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

    from trellis2_server.export.formats.model import Model

#: Rows written as text at a time; other threads can run in between.
_ROWS: Final = 8192


def write_obj(model: Model) -> bytes:
    """Return the model as an OBJ file with colours at the vertices."""
    return b"".join(checked(_obj(model, is_textured=False)))


def write_obj_zip(model: Model) -> bytes:
    """Return a ZIP with the model as OBJ, and its material and textures if it has any."""
    pictures = _pictures(model)
    is_textured = bool(pictures)
    entries = [
        ArchiveEntry("model.obj", _obj(model, is_textured=is_textured), zipfile.ZIP_DEFLATED)
    ]
    if is_textured:
        material = ["newmtl model", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 2"]
        material += [f"{key} {name}" for key, name, _ in pictures]
        text = "\n".join([*material, ""]).encode()
        entries.append(ArchiveEntry("model.mtl", [text], zipfile.ZIP_DEFLATED))
    entries += [ArchiveEntry(name, [content], zipfile.ZIP_STORED) for _, name, content in pictures]
    return write_zip(entries)


def _obj(model: Model, *, is_textured: bool) -> Iterator[bytes]:
    colors = None if is_textured else model.vertex_colors()
    yield b"# trellis2-server\n"
    if is_textured:
        yield b"mtllib model.mtl\nusemtl model\n"
    if colors is None:
        yield from _lines("v %.7g %.7g %.7g\n", model.positions)
    else:
        rows = np.concatenate([model.positions, colors[:, :3] / np.float32(255)], axis=1)
        yield from _lines("v %.7g %.7g %.7g %.4g %.4g %.4g\n", rows)
    corners = model.faces + 1
    if is_textured and model.uv is not None:
        # The origin of the texture is its lower left corner in OBJ.
        yield from _lines("vt %.7g %.7g\n", np.array([0, 1]) + model.uv * np.array([1, -1]))
        yield from _lines("f %d/%d %d/%d %d/%d\n", np.repeat(corners, 2, axis=1))
    else:
        yield from _lines("f %d %d %d\n", corners)


def _lines(line_format: str, rows: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        yield (line_format * len(some) % tuple(some.ravel().tolist())).encode()


def _pictures(model: Model) -> list[tuple[str, str, bytes]]:
    """Return the MTL keyword, the file name and the content of each texture."""
    if model.base_color is None or model.uv is None:
        return []
    color = model.base_color
    bands: list[tuple[str, str, Picture]]
    is_opaque = color.getextrema()[3][0] == 255  # type: ignore[index] # noqa: PLR2004
    bands = [("map_Kd", "base_color.png", color.convert("RGB") if is_opaque else color)]
    if not is_opaque:
        bands.append(("map_d", "alpha.png", color.getchannel("A")))
    if model.metal_rough is not None:
        bands.append(("map_Pr", "roughness.png", model.metal_rough.getchannel("G")))
        bands.append(("map_Pm", "metallic.png", model.metal_rough.getchannel("B")))
    pictures: list[tuple[str, str, bytes]] = []
    for key, name, picture in bands:
        file = CheckedStream()
        picture.save(file, "PNG", compress_level=1)
        pictures.append((key, name, file.getvalue()))
    return pictures
