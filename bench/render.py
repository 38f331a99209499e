"""Pictures of a GLB, drawn in software, and how well its front view matches a cut-out.

    python bench/render.py model.glb out.png [--view front] [--size 512] [--shading lit]
    python bench/render.py model.glb out.png --turntable 8

Orthographic, z-buffered, back faces culled unless the material is double-sided, 2 by 2 samples
a pixel, box filtered. What it does not know: transparency beyond a mask, several materials,
compressed geometry, reflections. It is for looking and for measuring, not for show.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import cv2
import numba as nb
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shading = Literal["unlit", "lit", "clay"]
View = str | tuple[float, float]

#: Azimuth (positive: the camera goes to the model's +X) and elevation, in degrees.
VIEWS: Final[dict[str, tuple[float, float]]] = {
    "front": (0.0, 0.0),
    "right": (90.0, 0.0),
    "back": (180.0, 0.0),
    "left": (-90.0, 0.0),
    "top": (0.0, 90.0),
    "bottom": (0.0, -90.0),
}
MATCH_SIZE_PX: Final = 512
SAMPLES: Final = 2
MARGIN: Final = 1.04

_MAGIC: Final = 0x46546C67
_JSON: Final = 0x4E4F534A
_COMPONENT: Final = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTH: Final = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass(frozen=True, slots=True, eq=False)
class RenderModel:
    """What the renderer needs of a GLB, in glTF's frame (Y up, front toward +Z).

    Attributes:
        positions: float32 [N, 3].
        faces: int32 [F, 3].
        normals: float32 [N, 3], unit; smooth ones where the file has none.
        uvs: float32 [N, 2]; zeros where the file has none.
        base_color: uint8 [H, W, 4], sRGB, texture times factor; one pixel without a texture.
        metallic_roughness: uint8 [H, W, 3], linear (G roughness, B metallic); as above.
        alpha_mode: OPAQUE, MASK or BLEND.
        alpha_cutoff: for MASK.
        double_sided: nothing is culled.
    """

    positions: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    uvs: NDArray[np.float32]
    base_color: NDArray[np.uint8]
    metallic_roughness: NDArray[np.uint8]
    alpha_mode: str
    alpha_cutoff: float
    double_sided: bool


def split_glb(glb: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON document and the binary chunk of a GLB 2.0 file."""
    magic, version, length = struct.unpack_from("<III", glb, 0)
    if magic != _MAGIC or version != 2 or length > len(glb):
        raise ValueError("not a GLB 2.0 file")
    size, kind = struct.unpack_from("<II", glb, 12)
    if kind != _JSON:
        raise ValueError("the first chunk of a GLB is JSON")
    document = json.loads(glb[20 : 20 + size])
    start = 20 + size
    if start >= length:
        return document, b""
    size, _ = struct.unpack_from("<II", glb, start)
    return document, glb[start + 8 : start + 8 + size]


def read_accessor(document: dict[str, Any], data: bytes, index: int) -> NDArray[Any]:
    """The values [count, width] of an accessor; normalised integers as float32."""
    accessor = document["accessors"][index]
    if "sparse" in accessor:
        raise ValueError("sparse accessors are not read")
    view = document["bufferViews"][accessor["bufferView"]]
    if view.get("extensions"):
        raise ValueError("compressed buffer views are not read")
    dtype = np.dtype(_COMPONENT[accessor["componentType"]])
    width = _WIDTH[accessor["type"]]
    stride = view.get("byteStride", dtype.itemsize * width)
    offset = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    values = np.ndarray(
        (accessor["count"], width), dtype, data, offset, (stride, dtype.itemsize)
    ).copy()
    if accessor.get("normalized"):
        return np.maximum(values.astype(np.float32) / np.iinfo(dtype).max, -1.0)
    return values


def _node_matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1.0, 1.0, 1.0)))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _smooth_normals(
    positions: NDArray[np.float32], faces: NDArray[np.int32]
) -> NDArray[np.float32]:
    corners = positions[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(area[:, i], 3), len(positions)) for i in range(3)],
        axis=1,
    )
    return _unit(normals)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-20)).astype(np.float32)


def _read_texture(
    document: dict[str, Any], data: bytes, info: dict[str, Any] | None, mode: str
) -> NDArray[np.uint8]:
    if info is None:
        return np.full((1, 1, len(mode)), 255, np.uint8)
    texture = document["textures"][info["index"]]
    webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
    image = document["images"][webp.get("source", texture.get("source"))]
    view = document["bufferViews"][image["bufferView"]]
    start = view.get("byteOffset", 0)
    raw = data[start : start + view["byteLength"]]
    with Image.open(io.BytesIO(raw)) as opened:
        return np.asarray(opened.convert(mode)).copy()


def _encode_srgb(linear: NDArray[Any]) -> NDArray[Any]:
    low = linear * 12.92
    return np.where(linear <= 0.0031308, low, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def _decode_srgb(encoded: NDArray[Any]) -> NDArray[Any]:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def load_glb(glb: bytes) -> RenderModel:
    """The triangles and the material of a GLB, its node transforms applied.

    Several primitives are joined; the first one's material is taken for all.
    """
    document, data = split_glb(glb)
    parts: list[tuple[NDArray[Any], ...]] = []
    materials: list[int | None] = []
    offset = 0
    pending = [
        (index, np.eye(4)) for index in document["scenes"][document.get("scene", 0)]["nodes"]
    ]
    while pending:
        index, parent = pending.pop(0)
        node = document["nodes"][index]
        matrix = parent @ _node_matrix(node)
        pending += [(child, matrix) for child in node.get("children", [])]
        if "mesh" not in node:
            continue
        for primitive in document["meshes"][node["mesh"]]["primitives"]:
            if primitive.get("extensions"):
                raise ValueError("compressed primitives are not read")
            names = primitive["attributes"]
            local = read_accessor(document, data, names["POSITION"]).astype(np.float64)
            positions = (local @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
            if "indices" in primitive:
                faces = read_accessor(document, data, primitive["indices"]).reshape(-1, 3)
            else:
                faces = np.arange(len(positions)).reshape(-1, 3)
            faces = faces.astype(np.int32)
            if "NORMAL" in names:
                raw = read_accessor(document, data, names["NORMAL"]).astype(np.float64)
                normals = _unit(raw @ np.linalg.inv(matrix[:3, :3]))
            else:
                normals = _smooth_normals(positions, faces)
            uvs = np.zeros((len(positions), 2), np.float32)
            if "TEXCOORD_0" in names:
                uvs = read_accessor(document, data, names["TEXCOORD_0"]).astype(np.float32)
            parts.append((positions, faces + offset, normals, uvs))
            materials.append(primitive.get("material"))
            offset += len(positions)
    if not parts:
        raise ValueError("the GLB has no mesh")
    positions, faces, normals, uvs = (np.concatenate(column) for column in zip(*parts, strict=True))
    material = document["materials"][materials[0]] if materials[0] is not None else {}
    pbr = material.get("pbrMetallicRoughness", {})
    base = _read_texture(document, data, pbr.get("baseColorTexture"), "RGBA").astype(np.float32)
    factor = np.array(pbr.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0)))
    if (factor != 1.0).any():
        base[..., :3] = 255 * _encode_srgb(_decode_srgb(base[..., :3] / 255) * factor[:3])
        base[..., 3] *= factor[3]
    rough = _read_texture(document, data, pbr.get("metallicRoughnessTexture"), "RGB")
    scale = np.array([1.0, pbr.get("roughnessFactor", 1.0), pbr.get("metallicFactor", 1.0)])
    return RenderModel(
        positions=positions,
        faces=np.ascontiguousarray(faces, np.int32),
        normals=normals,
        uvs=uvs,
        base_color=np.rint(base).astype(np.uint8),
        metallic_roughness=np.rint(rough * scale).astype(np.uint8),
        alpha_mode=material.get("alphaMode", "OPAQUE"),
        alpha_cutoff=material.get("alphaCutoff", 0.5),
        double_sided=material.get("doubleSided", False),
    )


@nb.njit("void(f4[:,::1], i4[:,::1], b1, f4[:,::1], i4[:,::1])", nogil=True)
def _rasterise(points, faces, cull, depth, owner) -> None:  # noqa: ANN001
    """Into `depth` the nearest z per sample (bigger is nearer), into `owner` its face."""
    height, width = depth.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = np.float64(points[a, 0]), np.float64(points[a, 1]), np.float64(points[a, 2])
        bx, by, bz = np.float64(points[b, 0]), np.float64(points[b, 1]), np.float64(points[b, 2])
        cx, cy, cz = np.float64(points[c, 0]), np.float64(points[c, 1]), np.float64(points[c, 2])
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        # Rows run downward, so what is counter-clockwise in the model has a negative area.
        if area == 0.0 or (cull and area > 0.0):
            continue
        x0 = max(0, math.ceil(min(ax, bx, cx) - 0.5))
        x1 = min(width - 1, math.floor(max(ax, bx, cx) - 0.5))
        y0 = max(0, math.ceil(min(ay, by, cy) - 0.5))
        y1 = min(height - 1, math.floor(max(ay, by, cy) - 0.5))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x + 0.5, y + 0.5
                u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                w = 1.0 - u - v
                if u < -1e-9 or v < -1e-9 or w < -1e-9:
                    continue
                z = u * az + v * bz + w * cz
                if z > depth[y, x]:
                    depth[y, x] = z
                    owner[y, x] = f


@nb.njit(
    "void(f4[:,::1], i4[:,::1], i4[:,::1], f4[:,::1], f4[:,::1], u1[:,:,::1],"
    " f4[:,:,::1], f4[:,:,::1])",
    nogil=True,
)
def _interpolate(points, faces, owner, normals, uvs, texture, color, normal) -> None:  # noqa: ANN001, PLR0913, PLR0917
    """Into `color` (RGBA, 0 to 255) the texture and into `normal` the normal at every sample."""
    th, tw = texture.shape[0], texture.shape[1]
    for y in range(owner.shape[0]):
        for x in range(owner.shape[1]):
            f = owner[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay = np.float64(points[a, 0]), np.float64(points[a, 1])
            bx, by = np.float64(points[b, 0]), np.float64(points[b, 1])
            cx, cy = np.float64(points[c, 0]), np.float64(points[c, 1])
            px, py = x + 0.5, y + 0.5
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
            v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
            w = 1.0 - u - v
            for k in range(3):
                normal[y, x, k] = u * normals[a, k] + v * normals[b, k] + w * normals[c, k]
            s = (u * uvs[a, 0] + v * uvs[b, 0] + w * uvs[c, 0]) * tw - 0.5
            t = (u * uvs[a, 1] + v * uvs[b, 1] + w * uvs[c, 1]) * th - 0.5
            s0, t0 = math.floor(s), math.floor(t)
            fs, ft = s - s0, t - t0
            # glTF's default sampler repeats.
            i0, i1 = int(s0) % tw, (int(s0) + 1) % tw
            j0, j1 = int(t0) % th, (int(t0) + 1) % th
            for k in range(4):
                upper = texture[j0, i0, k] * (1 - fs) + texture[j0, i1, k] * fs
                lower = texture[j1, i0, k] * (1 - fs) + texture[j1, i1, k] * fs
                color[y, x, k] = upper * (1 - ft) + lower * ft


def _axes(view: View) -> NDArray[np.float64]:
    """Rows: right, up and toward the camera, in glTF's frame."""
    azimuth, elevation = VIEWS[view] if isinstance(view, str) else view
    a, e = math.radians(azimuth), math.radians(elevation)
    toward = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
    right = (math.cos(a), 0.0, -math.sin(a))
    return np.array([right, np.cross(toward, right), toward])


def _shade(
    color: NDArray[Any], normal: NDArray[Any], axes: NDArray[Any], shading: Shading
) -> NDArray[Any]:
    """`color` RGB (sRGB, 0 to 255) under a key, a fill and a sky light fixed to the camera."""
    if shading == "unlit":
        return color
    base = np.full_like(color, 0.62) if shading == "clay" else _decode_srgb(color / 255)
    unit = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    local = unit @ axes.T
    key = np.clip(local @ np.array([-0.45, 0.65, 0.61]), 0, None)
    fill = np.clip(local @ np.array([0.80, 0.10, 0.59]), 0, None)
    light = 0.22 + 0.16 * (local[..., 1] * 0.5 + 0.5) + 0.80 * key + 0.18 * fill
    return 255 * np.clip(_encode_srgb(base * light[..., None]), 0, 1)


Frame = tuple[float, float, float]


def _frame(positions: NDArray[Any], axes: NDArray[Any]) -> Frame:
    flat = positions @ axes[:2].T
    low, high = flat.min(0), flat.max(0)
    center = (low + high) / 2
    return float(center[0]), float(center[1]), max(float((high - low).max()) * MARGIN, 1e-9)


def render_model(
    model: RenderModel,
    *,
    size_px: int = MATCH_SIZE_PX,
    view: View = "front",
    shading: Shading = "lit",
    frame: Frame | None = None,
) -> NDArray[np.uint8]:
    """The picture of `model`, uint8 [size_px, size_px, 4], straight alpha (coverage).

    Args:
        model: see `load_glb`.
        size_px: edge of the picture.
        view: a name out of `VIEWS`, or azimuth and elevation in degrees.
        shading: `unlit` (the base colour as it is), `lit` or `clay` (lit, one grey).
        frame: centre right and up in the view plane, and the edge of the square that is
            shown, in the model's units; without it, the model's box with a small margin.
    """
    axes = _axes(view)
    cx, cy, extent = frame or _frame(model.positions, axes)
    n = size_px * SAMPLES
    points = model.positions @ axes.T
    points[:, 0] = (points[:, 0] - cx) / extent * n + n / 2
    points[:, 1] = n / 2 - (points[:, 1] - cy) / extent * n
    points = np.ascontiguousarray(points, np.float32)
    depth = np.full((n, n), -np.inf, np.float32)
    owner = np.full((n, n), -1, np.int32)
    _rasterise(points, model.faces, not model.double_sided, depth, owner)
    color = np.zeros((n, n, 4), np.float32)
    normal = np.zeros((n, n, 3), np.float32)
    _interpolate(
        points,
        model.faces,
        owner,
        np.ascontiguousarray(model.normals),
        np.ascontiguousarray(model.uvs),
        model.base_color,
        color,
        normal,
    )
    if model.double_sided:
        normal[normal @ axes[2] < 0] *= -1
    covered = owner >= 0
    if model.alpha_mode == "MASK" and shading != "clay":
        covered &= color[..., 3] >= 255 * model.alpha_cutoff
    shaded = _shade(color[..., :3], normal, axes, shading)
    weight = covered.astype(np.float32)[..., None]
    stacked = np.concatenate([shaded * weight, weight], -1)
    pixels = stacked.reshape(size_px, SAMPLES, size_px, SAMPLES, 4).mean((1, 3))
    alpha = pixels[..., 3:]
    straight = pixels[..., :3] / np.maximum(alpha, 1e-6)
    return np.rint(np.concatenate([straight, alpha * 255], -1)).astype(np.uint8)


def render(
    glb: bytes,
    *,
    size_px: int = MATCH_SIZE_PX,
    view: View = "front",
    shading: Shading = "lit",
) -> NDArray[np.uint8]:
    """The picture of a GLB; see `render_model`."""
    return render_model(load_glb(glb), size_px=size_px, view=view, shading=shading)


def _edges(profile: NDArray[Any]) -> tuple[float, float]:
    """Where `profile` (largest alpha of each column, 0 to 1) rises above a half and falls again.

    In pixels, pixel i spanning [i, i+1], to a fraction: alpha is taken linear between centres.
    """
    padded = np.concatenate([[0.0], profile, [0.0]])
    inside = np.flatnonzero(padded > 0.5)
    if not len(inside):
        raise ValueError("the cut-out shows no object")
    i, j = int(inside[0]), int(inside[-1])
    low = i - (padded[i] - 0.5) / (padded[i] - padded[i - 1])
    high = j + (padded[j] - 0.5) / (padded[j] - padded[j + 1])
    return float(low) - 0.5, float(high) - 0.5


def front_view_match(glb: bytes, cutout_rgba: NDArray[np.uint8]) -> tuple[float, float]:
    """PSNR in dB and outline IoU of the model's front view against the cut-out, at 512 px.

    The cut-out (uint8 [H, W, 4], straight alpha) is padded to a square and reduced to
    512 px with an area filter, premultiplied. The view is placed so that the centres of the
    model's box and of the object's box (alpha over a half, to a fraction of a pixel)
    coincide and their longer sides are equal; one scale for both axes. PSNR is over
    the RGB of pixels whose alpha is over 0.5 and whose render coverage is 1 (all 4
    samples); IoU compares alpha over 0.5 with coverage of at least 0.5.
    """
    height, width = cutout_rgba.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cutout_rgba / np.float32(255)
    x0, x1 = _edges(square[..., 3].max(0))
    y0, y1 = _edges(square[..., 3].max(1))

    square[..., :3] *= square[..., 3:]
    small = cv2.resize(square, (MATCH_SIZE_PX, MATCH_SIZE_PX), interpolation=cv2.INTER_AREA)
    alpha = small[..., 3]
    expected = 255 * small[..., :3] / np.maximum(alpha[..., None], 1e-6)

    model = load_glb(glb)
    used = model.positions[model.faces.ravel(), :2]
    low, high = used.min(0), used.max(0)
    unit = float((high - low).max()) / max(x1 - x0, y1 - y0)
    center = (low + high) / 2
    shown = render_model(
        model,
        view="front",
        shading="unlit",
        frame=(
            float(center[0]) + (side / 2 - (x0 + x1) / 2) * unit,
            float(center[1]) - (side / 2 - (y0 + y1) / 2) * unit,
            side * unit,
        ),
    )
    inside, covered = alpha > 0.5, shown[..., 3] >= 127
    both = inside & (shown[..., 3] == 255)
    iou = float((inside & covered).sum() / max((inside | covered).sum(), 1))
    if not both.any():
        return 0.0, iou
    error = np.mean((expected[both] - shown[both][:, :3]) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9))), iou


def _on_grey(picture: NDArray[np.uint8], grey: int = 90) -> NDArray[np.uint8]:
    alpha = picture[..., 3:] / np.float32(255)
    return np.rint(picture[..., :3] * alpha + grey * (1 - alpha)).astype(np.uint8)


def turntable(
    glb: bytes, n: int = 8, *, size_px: int = 320, shadings: tuple[Shading, ...] = ("lit", "clay")
) -> bytes:
    """A PNG with `n` views around the upright axis, a little from above, a row per shading."""
    model = load_glb(glb)
    center = (model.positions.min(0) + model.positions.max(0)) / 2
    reach = np.linalg.norm((model.positions - center)[:, [0, 2]], axis=1).max()
    rows = []
    for shading in shadings:
        row = []
        for i in range(n):
            view = (360.0 * i / n, 12.0 if i else 0.0)
            axes = _axes(view)
            flat = axes[:2] @ center
            tall = float(np.ptp(model.positions @ axes[1]))
            extent = max(2 * float(reach), tall) * MARGIN
            row.append(
                _on_grey(
                    render_model(
                        model,
                        size_px=size_px,
                        view=view,
                        shading=shading,
                        frame=(float(flat[0]), float(flat[1]), extent),
                    )
                )
            )
        rows.append(np.concatenate(row, 1))
    out = io.BytesIO()
    Image.fromarray(np.concatenate(rows, 0)).save(out, "PNG")
    return out.getvalue()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw a GLB into a PNG.")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--view", default="front", choices=sorted(VIEWS))
    parser.add_argument("--azimuth", type=float, help="degrees, instead of --view")
    parser.add_argument("--elevation", type=float, default=0.0, help="degrees, with --azimuth")
    parser.add_argument("--size", type=int, default=MATCH_SIZE_PX, help="pixels")
    parser.add_argument("--shading", default="lit", choices=["unlit", "lit", "clay"])
    parser.add_argument("--turntable", type=int, metavar="N", help="a sheet of N views instead")
    parser.add_argument("--match", type=Path, metavar="CUTOUT", help="print PSNR and IoU as well")
    arguments = parser.parse_args()
    glb = arguments.model.read_bytes()
    if arguments.turntable:
        arguments.out.write_bytes(turntable(glb, arguments.turntable, size_px=arguments.size))
    else:
        view = arguments.view
        if arguments.azimuth is not None:
            view = (arguments.azimuth, arguments.elevation)
        drawn = render(glb, size_px=arguments.size, view=view, shading=arguments.shading)
        Image.fromarray(drawn).save(arguments.out)
    if arguments.match:
        with Image.open(arguments.match) as picture:
            psnr_db, iou = front_view_match(glb, np.asarray(picture.convert("RGBA")))
        print(f"front view: {psnr_db:.1f} dB, IoU {iou:.3f}")


if __name__ == "__main__":
    main()
