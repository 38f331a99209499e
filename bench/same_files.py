"""Pictures and meshes of many kinds, the same at every run: what `bench/same.py` sends."""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SIZE_PX: Final = 96


# ---- pictures --------------------------------------------------------------------------


def cutout(shade: int = 0, size_px: int = SIZE_PX) -> Image.Image:
    """An object with several colours on transparency; another one for each shade."""
    image = Image.new("RGBA", (size_px, size_px))
    draw = ImageDraw.Draw(image)
    s = size_px / 96
    draw.ellipse((8 * s, 14 * s, 80 * s, 86 * s), fill=(200, shade * 37 % 256, 60, 255))
    draw.rectangle((40 * s, 6 * s, 58 * s, 60 * s), fill=(30, 90, 40 + shade * 11 % 200, 255))
    draw.polygon([(60 * s, 50 * s), (92 * s, 70 * s), (56 * s, 80 * s)], fill=(20, 40, 220, 255))
    return image


def opaque(shade: int = 0, size_px: int = SIZE_PX) -> Image.Image:
    """The same in front of a wall."""
    wall = Image.new("RGBA", (size_px, size_px), (226, 222, 214, 255))
    wall.alpha_composite(cutout(shade, size_px))
    return wall.convert("RGB")


def saved(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def picture(shade: int = 0, size_px: int = SIZE_PX) -> bytes:
    return saved(cutout(shade, size_px))


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(opaque(3), "JPEG", exif=exif, quality=92)


def _deep() -> Image.Image:
    grey = np.asarray(opaque(5).convert("L")).astype(np.uint16) * 257
    return Image.fromarray(grey)


def _half_clear() -> Image.Image:
    image = cutout(7)
    image.putalpha(image.getchannel("A").point(lambda a: a * 230 // 255))
    return image


def pictures() -> dict[str, bytes]:
    """Pictures that are taken, and many that are refused."""
    plain, wall, png = cutout(1), opaque(1), picture(1)
    frames = [cutout(shade) for shade in (1, 2, 3)]
    return {
        "png rgba": png,
        "png half clear": saved(_half_clear()),
        "png rgb": saved(wall),
        "png palette": saved(wall.quantize(16)),
        "png palette with transparency": saved(plain.quantize(32)),
        "png la": saved(plain.convert("LA")),
        "png l": saved(wall.convert("L")),
        "png 1 bit": saved(wall.convert("1")),
        "png 16 bit": saved(_deep()),
        "png colour key": saved(wall, transparency=(226, 222, 214)),
        "apng": saved(frames[0], save_all=True, append_images=frames[1:]),
        "jpeg": saved(wall, "JPEG", quality=90),
        "jpeg grey": saved(wall.convert("L"), "JPEG"),
        "jpeg cmyk": saved(wall.convert("CMYK"), "JPEG"),
        "jpeg progressive": saved(wall, "JPEG", progressive=True),
        **{f"jpeg turned {n}": _turned(n) for n in (2, 3, 5, 6, 7, 8, 9)},
        "gif": saved(plain.quantize(32), "GIF"),
        "gif animated": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp lossless": saved(plain, "WEBP", lossless=True),
        "webp": saved(wall, "WEBP", quality=80),
        "webp animated": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "tiff": saved(plain, "TIFF"),
        "tiff float": saved(Image.fromarray(np.float32(np.asarray(wall.convert("L"))))
                            .convert("F"), "TIFF"),
        "tiff lab": saved(wall.convert("LAB"), "TIFF"),
        "bmp": saved(wall, "BMP"),
        "avif": saved(plain, "AVIF", speed=10),
        "large": picture(4, 1500),
        "too large": saved(Image.new("L", (2100, 2000), 3)),
        "small": picture(2, 24),
        "tiny": saved(Image.new("RGBA", (1, 1), (255, 0, 0, 255))),
        "object too small": saved(Image.new("RGBA", (9, 9), (255, 0, 0, 255))),
        "wide": saved(Image.new("RGBA", (640, 24), (90, 120, 0, 255))),
        "elongated": saved(Image.new("RGB", (1000, 20), (90, 120, 0))),
        "blank": saved(Image.new("RGB", (64, 64), (255, 255, 255))),
        "transparent": saved(Image.new("RGBA", (64, 64))),
        "off the middle": saved(plain.transform((200, 120), Image.Transform.AFFINE,
                                                (1, 0, -90, 0, 1, 10))),
        "icc damaged": saved(wall, icc_profile=b"not a profile"),
        "cut short": png[: len(png) // 2],
        "jpeg cut short": saved(wall, "JPEG")[:900],
        "head only": png[:20],
        "text": b"this is not an image at all, however long it is read",
        "ico": saved(plain.resize((32, 32)), "ICO"),
        "zero bytes": bytes(200),
    }  # fmt: skip


# ---- meshes ----------------------------------------------------------------------------


def body() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """A closed, lopsided body, so that a mirrored or turned one differs from it."""
    x, y, z = 1.0, 1.6, 0.7
    positions = [
        (-x, -y, -z), (x, -y, -z), (x, y, -z), (-x, y, -z),
        (-x, -y, z), (x, -y, z), (x * 0.4, y, z), (-x, y * 0.8, z),
        (x * 1.5, 0.1, 0.2),
    ]  # fmt: skip
    faces = [
        (0, 2, 1), (0, 3, 2), (4, 5, 6), (4, 6, 7), (0, 1, 5), (0, 5, 4), (3, 7, 6), (3, 6, 2),
        (0, 4, 7), (0, 7, 3), (1, 2, 8), (2, 6, 8), (6, 5, 8), (5, 1, 8),
    ]  # fmt: skip
    return np.array(positions, np.float32), np.array(faces, np.int32)


def obj(extra: str = "") -> bytes:
    positions, faces = body()
    lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in positions.tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces.tolist()]
    return ("\n".join(["# a body", *lines]) + "\n" + extra).encode()


def ply(encoding: str = "ascii") -> bytes:
    positions, faces = body()
    head = (
        f"ply\nformat {encoding} 1.0\ncomment made for a comparison\n"
        f"element vertex {len(positions)}\nproperty float x\nproperty float y\n"
        f"property float z\nelement face {len(faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    ).encode()
    if encoding == "ascii":
        rows = [" ".join(f"{n:.6g}" for n in row) for row in positions.tolist()]
        rows += [f"3 {a} {b} {c}" for a, b, c in faces.tolist()]
        return head + ("\n".join(rows) + "\n").encode()
    order = "<" if "little" in encoding else ">"
    lists = np.zeros(len(faces), np.dtype([("n", "u1"), ("corners", f"{order}i4", 3)]))
    lists["n"], lists["corners"] = 3, faces
    return head + positions.astype(f"{order}f4").tobytes() + lists.tobytes()


def stl(*, text: bool = False) -> bytes:
    positions, faces = body()
    corners = positions[faces]
    if text:
        lines = ["solid body"]
        for face in corners.tolist():
            lines += ["facet normal 0 0 0", "outer loop"]
            lines += [f"vertex {x:.6g} {y:.6g} {z:.6g}" for x, y, z in face]
            lines += ["endloop", "endfacet"]
        return ("\n".join([*lines, "endsolid body"]) + "\n").encode()
    rows = np.zeros(
        len(faces), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")])
    )
    rows["corners"] = corners
    return b"a body".ljust(80, b" ") + struct.pack("<I", len(rows)) + rows.tobytes()


def glb(**changes: Any) -> bytes:
    """A GLB with one mesh and one node; `changes` replace parts of its JSON."""
    positions, faces = body()
    indices = faces.astype("<u4").tobytes()
    data = positions.tobytes() + indices
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "body"}],
        "meshes": [{"name": "m", "primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(positions), "type": "VEC3",
             "min": positions.min(0).tolist(), "max": positions.max(0).tolist()},
            {"bufferView": 1, "componentType": 5125, "count": faces.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": positions.nbytes},
            {"buffer": 0, "byteOffset": positions.nbytes, "byteLength": len(indices)},
        ],
        "buffers": [{"byteLength": len(data)}],
        **changes,
    }  # fmt: skip
    return packed({name: value for name, value in document.items() if value is not None}, data)


def packed(document: Mapping[str, Any], data: bytes, *, version: int = 2) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", version, 12 + len(chunks)) + chunks


def _moved() -> bytes:
    return glb(
        nodes=[
            {"name": "root", "children": [1, 2], "rotation": [0, 0.3826834, 0, 0.9238795]},
            {"mesh": 0, "translation": [2, 0.5, -1], "scale": [1, 2, 0.5]},
            {"mesh": 0, "matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, -2, 0, 0, 1]},
        ]
    )


def _accessor(**changes: Any) -> bytes:
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 9, "type": "VEC3"},
        {"bufferView": 1, "componentType": 5125, "count": 42, "type": "SCALAR"},
    ]
    return glb(accessors=[accessors[0], {**accessors[1], **changes}])


def meshes() -> dict[str, bytes]:
    """Meshes that are taken, and many that are refused."""
    whole = glb()
    primitive: Mapping[str, Any] = {"attributes": {"POSITION": 0}, "indices": 1}
    return {
        "glb": whole,
        "glb moved": _moved(),
        "glb without a scene": glb(scene=None, scenes=None),
        "glb double sided": glb(
            materials=[{"doubleSided": True}],
            meshes=[{"primitives": [{**primitive, "material": 0}]}],
        ),
        "glb strip": glb(meshes=[{"primitives": [{**primitive, "mode": 5}]}]),
        "glb fan": glb(meshes=[{"primitives": [{**primitive, "mode": 6}]}]),
        "glb points": glb(meshes=[{"primitives": [{**primitive, "mode": 0}]}]),
        "glb not indexed": glb(meshes=[{"primitives": [{"attributes": {"POSITION": 0}}]}]),
        "glb two primitives": glb(meshes=[{"primitives": [primitive, primitive]}]),
        "glb no nodes": glb(nodes=[], scenes=[{"nodes": []}]),
        "glb circle": glb(nodes=[{"children": [0], "mesh": 0}]),
        "glb of version 1": packed({"asset": {"version": "1.0"}}, b"", version=1),
        "glb cut short": whole[: len(whole) // 2],
        "glb head": whole[:12],
        "glb draco": glb(extensionsRequired=["KHR_draco_mesh_compression"]),
        "glb elsewhere": glb(buffers=[{"uri": "a.bin", "byteLength": 4}]),
        "glb claims more": _accessor(count=99_999),
        "glb sparse": _accessor(sparse={}),
        "glb wrong type": _accessor(type="VEC3"),
        "glb bad count": _accessor(count=-3),
        "glb no json": b"glTF" + struct.pack("<II", 2, 20) + struct.pack("<I4s", 0, b"BIN\0"),
        "gltf text": json.dumps({"asset": {"version": "2.0"}}).encode(),
        "obj": obj(),
        "obj quads": b"v 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\nv 0 0 3\n"
        b"f 1 2 3 4\nf 1 2 5\nf -1 -3 -2\n",
        "obj with uv": b"v 0 0 0\nv 2 0 0\nv 2 1 1\nvt 0 0\nvt 1 0\nvt 1 1\nf 1/1 2/2 3/3\n",
        "obj bad face": obj("f 1 2 99\n"),
        "obj no face": b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
        "obj not a number": b"v 0 0 zero\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        "obj infinite": b"v 0 0 inf\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        "obj all at one place": b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n",
        "ply": ply(),
        "ply little endian": ply("binary_little_endian"),
        "ply big endian": ply("binary_big_endian"),
        "ply cut short": ply("binary_little_endian")[:-9],
        "ply no end": ply()[:80],
        "ply other format": ply().replace(b"ascii", b"other"),
        "ply bad index": ply().replace(b"\n3 0 2 1\n", b"\n3 0 2 77\n"),
        "stl": stl(),
        "stl text": stl(text=True),
        "stl cut short": stl()[:-5],
        "not a mesh": b"nothing that anybody would take for a mesh",
        "a picture": picture(1),
    }
