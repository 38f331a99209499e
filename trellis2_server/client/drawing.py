"""Pictures of a GLB, drawn without a GPU.

Orthographic, z-buffered, back faces culled unless the material is double-sided, 2 by 2 samples
a pixel, box filtered, lit by three lights that are fixed to the camera. What it does not know:
transparency beyond a mask, several materials, compressed geometry, reflections.
"""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from trellis2_server.client.errors import DrawingError

try:
    import numpy as np
    from PIL import Image
except ImportError as error:
    raise DrawingError(
        f"a picture of a model takes a package more: pip install {error.name}"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Shading = Literal["unlit", "lit", "clay"]
View: TypeAlias = "str | tuple[float, float]"
#: Centre right and up in the view plane, and the edge of the square that is shown.
Frame: TypeAlias = tuple[float, float, float]

#: Azimuth (positive: the camera goes to the model's +X) and elevation, in degrees.
VIEWS: Final[dict[str, tuple[float, float]]] = {
    "front": (0.0, 0.0),
    "right": (90.0, 0.0),
    "back": (180.0, 0.0),
    "left": (-90.0, 0.0),
    "top": (0.0, 90.0),
    "bottom": (0.0, -90.0),
}
#: From where a thumbnail shows a model.
THUMBNAIL_VIEW: Final = (32.0, 18.0)
THUMBNAIL_SIZE_PX: Final = 512
SAMPLES: Final = 2
MARGIN: Final = 1.04
#: Samples that are looked at together; more take more memory, fewer more time.
BATCH_SAMPLES: Final = 1_000_000

_MAGIC: Final = 0x46546C67
_VERSION: Final = 2
#: How far outside a face a sample may lie, in parts of the face: between two there is no gap.
_SLACK: Final = 1e-9
_JSON: Final = 0x4E4F534A
_COMPONENT: Final = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTH: Final = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


# ---- reading -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class DrawnModel:
    """What is drawn of a GLB, in glTF's frame (Y up, front toward +Z).

    Attributes:
        positions: float32 [N, 3].
        faces: int32 [F, 3].
        normals: float32 [N, 3], unit; smooth ones where the file has none.
        uvs: float32 [N, 2]; zeros where the file has none.
        base_color: uint8 [H, W, 4], sRGB, texture times factor; one pixel without a texture.
        is_textured: whether that is a texture.
        alpha_mode: OPAQUE, MASK or BLEND.
        alpha_cutoff: for MASK.
        double_sided: nothing is culled.
    """

    positions: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    uvs: NDArray[np.float32]
    base_color: NDArray[np.uint8]
    is_textured: bool
    alpha_mode: str
    alpha_cutoff: float
    double_sided: bool


def split_glb(glb: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON document and the binary chunk of a GLB 2.0 file."""
    magic, version, length = struct.unpack_from("<III", glb, 0)
    if magic != _MAGIC or version != _VERSION or length > len(glb):
        raise DrawingError("not a GLB 2.0 file")
    size, kind = struct.unpack_from("<II", glb, 12)
    if kind != _JSON:
        raise DrawingError("the first chunk of a GLB is JSON")
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
        raise DrawingError("sparse accessors are not read")
    view = document["bufferViews"][accessor["bufferView"]]
    if view.get("extensions"):
        raise DrawingError("compressed buffer views are not read")
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


# IEC 61966-2-1.
def _encode_srgb(linear: NDArray[Any]) -> NDArray[Any]:
    low = linear * 12.92
    high = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high)  # noqa: PLR2004


def _decode_srgb(encoded: NDArray[Any]) -> NDArray[Any]:
    high = ((encoded + 0.055) / 1.055) ** 2.4
    return np.where(encoded <= 0.04045, encoded / 12.92, high)  # noqa: PLR2004


def load_glb(glb: bytes) -> DrawnModel:
    """The triangles and the material of a GLB, its node transforms applied.

    Several primitives are joined; the first one's material is taken for all.

    Raises:
        DrawingError: it is none, or not one that can be drawn.
    """
    try:
        return _read(glb)
    except (LookupError, TypeError, ValueError, OSError, struct.error) as error:
        raise DrawingError(f"the GLB cannot be read: {error}") from error


def _read(glb: bytes) -> DrawnModel:
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
                raise DrawingError("compressed primitives are not read")
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
        raise DrawingError("the GLB has no mesh")
    positions, faces, normals, uvs = (np.concatenate(column) for column in zip(*parts, strict=True))
    material = document["materials"][materials[0]] if materials[0] is not None else {}
    pbr = material.get("pbrMetallicRoughness", {})
    base = _read_texture(document, data, pbr.get("baseColorTexture"), "RGBA")
    factor = np.array(pbr.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0)), np.float64)
    if (factor != 1.0).any():
        # 256 values a channel, whatever the texture's size.
        linear = _decode_srgb(np.arange(256)[:, None] / 255) * factor[:3]
        table = np.rint(
            255 * np.column_stack([_encode_srgb(linear), np.arange(256) / 255 * factor[3]])
        )
        base = np.stack([table.astype(np.uint8)[base[..., k], k] for k in range(4)], -1)
    return DrawnModel(
        positions=positions,
        faces=np.ascontiguousarray(faces, np.int32),
        normals=normals,
        uvs=uvs,
        base_color=base,
        is_textured="baseColorTexture" in pbr,
        alpha_mode=material.get("alphaMode", "OPAQUE"),
        alpha_cutoff=material.get("alphaCutoff", 0.5),
        double_sided=material.get("doubleSided", False),
    )


# ---- drawing -------------------------------------------------------------------------------


def _rasterise(
    points: NDArray[Any], faces: NDArray[np.int32], n: int, *, cull: bool
) -> NDArray[np.int32]:
    """The nearest face at each sample, int32 [n * n]; -1 where there is none.

    Args:
        points: [N, 3] in samples, rows downward; the bigger z is the nearer.
        faces: [F, 3].
        n: samples along an edge.
        cull: leave out what is seen from behind.
    """
    x, y, z = (points[:, k][faces] for k in range(3))
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    left = np.maximum(np.ceil(x.min(1) - 0.5), 0).astype(np.int32)
    top = np.maximum(np.ceil(y.min(1) - 0.5), 0).astype(np.int32)
    wide = np.minimum(np.floor(x.max(1) - 0.5), n - 1).astype(np.int32) - left + 1
    high = np.minimum(np.floor(y.max(1) - 0.5), n - 1).astype(np.int32) - top + 1
    # Rows run downward, so what is counter-clockwise in the model has a negative area.
    drawn = np.flatnonzero((wide > 0) & (high > 0) & (area < 0 if cull else area != 0))
    x, y, z, area, left, top, wide, high = (
        values[drawn] for values in (x, y, z, area, left, top, wide, high)
    )
    # Barycentric coordinates of the first sample of each face's box, and their slopes.
    u_x, u_y = (y[:, 1] - y[:, 2]) / area, (x[:, 2] - x[:, 1]) / area
    v_x, v_y = (y[:, 2] - y[:, 0]) / area, (x[:, 0] - x[:, 2]) / area
    from_x, from_y = left + 0.5 - x[:, 2], top + 0.5 - y[:, 2]
    u_0, v_0 = u_x * from_x + u_y * from_y, v_x * from_x + v_y * from_y

    depth = np.full(n * n, -np.inf)
    owner = np.full(n * n, -1, np.int32)
    samples = wide.astype(np.int64) * high
    for begin, end in _batches(samples):
        count = samples[begin:end]
        face = np.repeat(np.arange(begin, end), count)
        nth = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
        row = nth // wide[face]
        column = nth - row * wide[face]
        u = u_0[face] + u_x[face] * column + u_y[face] * row
        v = v_0[face] + v_x[face] * column + v_y[face] * row
        inside = np.flatnonzero((u > -_SLACK) & (v > -_SLACK) & (u + v < 1 + _SLACK))
        # From the last to the first, so that of two as near the first is written last.
        inside = inside[::-1]
        face, u, v = face[inside], u[inside], v[inside]
        near = u * z[face, 0] + v * z[face, 1] + (1 - u - v) * z[face, 2]
        sample = (top[face] + row[inside]) * n + left[face] + column[inside]
        order = np.argsort(near, kind="stable")
        order = order[near[order] > depth[sample[order]]]
        depth[sample[order]] = near[order]
        owner[sample[order]] = drawn[face[order]]
    return owner


def _batches(samples: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """From and to of faces that together have at most `BATCH_SAMPLES`, or of a single one."""
    total = np.cumsum(samples)
    begin, before = 0, 0
    while begin < len(total):
        end = max(int(np.searchsorted(total, before + BATCH_SAMPLES, "right")), begin + 1)
        yield begin, end
        begin, before = end, int(total[end - 1])


def _interpolate(
    model: DrawnModel,
    points: NDArray[Any],
    faces: NDArray[np.int32],
    sample: NDArray[np.intp],
    n: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """RGBA, 0 to 255, and the normal, of these faces at these samples."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    x, y = sample % n + 0.5, sample // n + 0.5
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    u = ((b[:, 0] - x) * (c[:, 1] - y) - (b[:, 1] - y) * (c[:, 0] - x)) / area
    v = ((c[:, 0] - x) * (a[:, 1] - y) - (c[:, 1] - y) * (a[:, 0] - x)) / area
    weights = np.stack([u, v, 1 - u - v]).astype(np.float32)[..., None]
    normal = sum(weights[k] * model.normals[faces[:, k]] for k in range(3))
    uv = sum(weights[k] * model.uvs[faces[:, k]] for k in range(3))
    return _texels(model.base_color, np.asarray(uv)), np.asarray(normal)


def _texels(texture: NDArray[np.uint8], uv: NDArray[np.float32]) -> NDArray[np.float32]:
    """The texture there, bilinear, float32 [..., 4]; glTF's default sampler repeats."""
    height, width = texture.shape[:2]
    if height == width == 1:
        return np.broadcast_to(texture[0, 0].astype(np.float32), (len(uv), 4))
    s, t = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(s), np.floor(t)
    right_part, low_part = (s - left)[:, None], (t - top)[:, None]
    i, j = left.astype(np.int64) % width, top.astype(np.int64) % height
    i_1, j_1 = (i + 1) % width, (j + 1) % height
    upper = texture[j, i] * (1 - right_part) + texture[j, i_1] * right_part
    lower = texture[j_1, i] * (1 - right_part) + texture[j_1, i_1] * right_part
    return (upper * (1 - low_part) + lower * low_part).astype(np.float32)


def axes_of(view: View) -> NDArray[np.float64]:
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


def _frame(positions: NDArray[Any], axes: NDArray[Any]) -> Frame:
    flat = positions @ axes[:2].T
    low, high = flat.min(0), flat.max(0)
    center = (low + high) / 2
    return float(center[0]), float(center[1]), max(float((high - low).max()) * MARGIN, 1e-9)


def draw_model(
    model: DrawnModel,
    *,
    size_px: int = THUMBNAIL_SIZE_PX,
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
    axes = axes_of(view)
    cx, cy, extent = frame or _frame(model.positions, axes)
    n = size_px * SAMPLES
    points = model.positions @ axes.T
    points[:, 0] = (points[:, 0] - cx) / extent * n + n / 2
    points[:, 1] = n / 2 - (points[:, 1] - cy) / extent * n
    points = points.astype(np.float32).astype(np.float64)
    owner = _rasterise(points, model.faces, n, cull=not model.double_sided)
    sample = np.flatnonzero(owner >= 0)
    color, normal = _interpolate(model, points, model.faces[owner[sample]], sample, n)
    if model.double_sided:
        normal[normal @ axes[2] < 0] *= -1
    if model.alpha_mode == "MASK" and shading != "clay":
        kept = color[:, 3] >= 255 * model.alpha_cutoff
        sample, color, normal = sample[kept], color[kept], normal[kept]
    stacked = np.zeros((n * n, 4), np.float32)
    stacked[sample, :3] = _shade(color[:, :3], normal, axes, shading)
    stacked[sample, 3] = 1
    pixels = stacked.reshape(size_px, SAMPLES, size_px, SAMPLES, 4).mean((1, 3))
    alpha = pixels[..., 3:]
    straight = pixels[..., :3] / np.maximum(alpha, 1e-6)
    return np.rint(np.concatenate([straight, alpha * 255], -1)).astype(np.uint8)


def draw(
    glb: bytes,
    *,
    size_px: int = THUMBNAIL_SIZE_PX,
    view: View = "front",
    shading: Shading = "lit",
) -> NDArray[np.uint8]:
    """The picture of a GLB; see `draw_model`."""
    return draw_model(load_glb(glb), size_px=size_px, view=view, shading=shading)


def draw_thumbnail(glb: bytes, *, size_px: int = THUMBNAIL_SIZE_PX) -> bytes:
    """A PNG that shows a GLB from a little above and beside, on a light ground.

    Raises:
        DrawingError: it cannot be drawn.
    """
    model = load_glb(glb)
    shading = "lit" if model.is_textured else "clay"
    frame = _frame(model.positions, axes_of(THUMBNAIL_VIEW))
    frame = (frame[0], frame[1], frame[2] * 1.12)
    picture = draw_model(model, size_px=size_px, view=THUMBNAIL_VIEW, shading=shading, frame=frame)
    alpha = picture[..., 3:] / np.float32(255)
    y, x = np.mgrid[0:size_px, 0:size_px] / size_px - 0.5
    ground = 246 - 44 * np.clip(np.hypot(x, y) / 0.7, 0, 1) ** 2
    shown = np.rint(picture[..., :3] * alpha + ground[..., None] * (1 - alpha)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    return file.getvalue()
