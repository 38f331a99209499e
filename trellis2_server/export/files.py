"""A GLB of this server as OBJ, OBJ with its textures, PLY or STL.

Coordinates are the GLB's own, Y up, with every node's transform applied. Colours at
vertices are sRGB-encoded, as these formats' readers take them.

Formats: see `scenes`; MTL with its PBR extension (`map_Pr`, `map_Pm`) as Blender reads it.

What this module does not know: jobs, HTTP, how the GLB was made.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trellis2_server.errors import ExportError, InputError
from trellis2_server.export.chunks import pieces
from trellis2_server.inputs.meshes import Glb, read_scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

#: Rows that are written as text at a time: the interpreter is free for others in between.
_ROWS: Final = 8192
#: The ZIP's only date, so that the same model is always the same file.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """All parts in one.

    Attributes:
        positions: float32 [N, 3].
        uv: float32 [N, 2], glTF's, or None.
        faces: int32 [F, 3].
        base_color: the picture, RGBA, or None.
        metal_rough: the picture, RGB, or None.
    """

    positions: NDArray[np.float32]
    uv: NDArray[np.float32] | None
    faces: NDArray[np.int32]
    base_color: Picture | None
    metal_rough: Picture | None

    def colors(self) -> NDArray[np.uint8] | None:
        """The base colour at each vertex, uint8 [N, 4]."""
        if self.base_color is None or self.uv is None:
            return None
        pixels = np.asarray(self.base_color)
        size = np.array([pixels.shape[1], pixels.shape[0]])
        x, y = np.clip((self.uv * size).astype(np.int64), 0, size - 1).T
        return pixels[y, x]


def convert(glb: bytes, file_type: Literal["obj", "ply", "stl", "obj_zip"]) -> bytes:
    """The model as another kind of file.

    Args:
        glb: uncompressed, with one material.
        file_type: "obj" and "ply" have colours at their vertices where the GLB has a
            texture; "obj_zip" has `model.obj`, `model.mtl` and the textures.

    Raises:
        ExportError: the GLB cannot be read.
    """
    try:
        model = _read(glb)
    except InputError as error:
        raise ExportError(f"The model cannot be written as {file_type}.") from error
    if file_type == "stl":
        return _stl(model)
    if file_type == "ply":
        return _ply(model)
    if file_type == "obj":
        return b"".join(_obj(model, is_textured=False))
    return _obj_zip(model)


def _read(glb: bytes) -> _Model:
    from PIL import Image

    scene, file = read_scene(glb), Glb(glb)
    positions: list[NDArray[Any]] = []
    faces: list[NDArray[Any]] = []
    count = 0
    for part in scene.parts:
        turn, shift = part.placement[:3, :3], part.placement[:3, 3]
        corners = part.faces[:, ::-1] if np.linalg.det(turn) < 0 else part.faces
        positions.append((part.positions @ turn.T + shift).astype(np.float32))
        faces.append(corners + np.int32(count))
        count += len(part.positions)
    uvs = [part.uv for part in scene.parts if part.uv is not None]

    def picture(role: str, mode: str) -> Picture | None:
        texture = file.item("materials", 0)["pbrMetallicRoughness"].get(role)
        if texture is None:
            return None
        item = file.item("textures", texture["index"])
        webp = item.get("extensions", {}).get("EXT_texture_webp", item)
        content = file.view(file.item("images", webp["source"])["bufferView"])
        with Image.open(io.BytesIO(content)) as image:
            return image.convert(mode)

    return _Model(
        np.concatenate(positions),
        np.concatenate(uvs) if len(uvs) == len(scene.parts) else None,
        np.concatenate(faces),
        picture("baseColorTexture", "RGBA"),
        picture("metallicRoughnessTexture", "RGB"),
    )


def _stl(model: _Model) -> bytes:
    rows = np.zeros(
        len(model.faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")]
    )
    rows["corners"] = corners = model.positions[model.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    rows["normal"] = normals / np.where(length > 0, length, 1)
    head = b"trellis2-server".ljust(80) + len(rows).to_bytes(4, "little")
    return b"".join([head, *pieces(rows)])


def _ply(model: _Model) -> bytes:
    colors = model.colors()
    fields: list[Any] = [("place", "<f4", 3)]
    names = ["float x", "float y", "float z"]
    if colors is not None:
        fields.append(("color", "u1", 4))
        names += ["uchar red", "uchar green", "uchar blue", "uchar alpha"]
    vertices = np.empty(len(model.positions), fields)
    vertices["place"] = model.positions
    if colors is not None:
        vertices["color"] = colors
    faces = np.empty(len(model.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, model.faces
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    head += [f"property {name}" for name in names]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    return b"".join(["\n".join([*head, ""]).encode(), *pieces(vertices), *pieces(faces)])


def _obj(model: _Model, *, is_textured: bool) -> Iterator[bytes]:
    colors = None if is_textured else model.colors()
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
        # OBJ has the picture's origin at the lower left.
        yield from _lines("vt %.7g %.7g\n", np.array([0, 1]) + model.uv * np.array([1, -1]))
        yield from _lines("f %d/%d %d/%d %d/%d\n", np.repeat(corners, 2, axis=1))
    else:
        yield from _lines("f %d %d %d\n", corners)


def _lines(form: str, rows: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        yield (form * len(some) % tuple(some.ravel().tolist())).encode()


def _obj_zip(model: _Model) -> bytes:
    out = io.BytesIO()
    pictures = _pictures(model)
    material = ["newmtl model", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 2"]
    material += [f"{key} {name}" for key, name, _ in pictures]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:

        def add(name: str, parts: Iterator[bytes] | list[bytes], method: int) -> None:
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = method
            with archive.open(info, "w") as file:
                for part in parts:
                    file.write(part)

        is_textured = bool(pictures)
        add("model.obj", _obj(model, is_textured=is_textured), zipfile.ZIP_DEFLATED)
        if is_textured:
            add("model.mtl", ["\n".join([*material, ""]).encode()], zipfile.ZIP_DEFLATED)
        for _, name, content in pictures:
            add(name, [content], zipfile.ZIP_STORED)
    return out.getvalue()


def _pictures(model: _Model) -> list[tuple[str, str, bytes]]:
    """Of each texture the MTL's word for it, its name and its file."""
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
    out: list[tuple[str, str, bytes]] = []
    for key, name, picture in bands:
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        out.append((key, name, file.getvalue()))
    return out
