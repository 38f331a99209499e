"""Known shapes, drawn as pictures with the shape that they show.

Shapes are made of trimesh's primitives and of surfaces of revolution, textured by functions of
the place, lit by one lamp and a sky, and seen along -Z of glTF's frame (Y up, front toward +Z).

Does not know: engines, models, what is measured.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import trimesh

from trellis2_server.drawing.rasterizer import rasterize

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]
    #: Points [N, 3] → sRGB colours, 0 to 1, [N, 3].
    Paint = Callable[[Array], Array]

SIZE_PX: Final = 512
#: Edge of what the picture shows; shapes are about 2 long.
_FRAME: Final = 2.4
_SAMPLES: Final = 2
#: Directions toward the lamp.
LIGHTS: Final = {
    "left": (-0.62, 0.45, 0.64),
    "right": (0.62, 0.45, 0.64),
    "above": (0.05, 0.78, 0.62),
}
_SHARP_COSINE: Final = float(np.cos(np.radians(30)))


@dataclass(frozen=True)
class Part:
    """A mesh and its paint."""

    mesh: trimesh.Trimesh
    paint: Paint


@dataclass(frozen=True)
class Truth:
    """What a picture of a known shape shows, [S, S] pixels, rows downward.

    Attributes:
        mask: where the object is.
        depth: toward the viewer, in the unit of the frame; NaN outside.
        normals: unit normals in glTF's frame, [S, S, 3].
        depth_per_width: extent along the line of sight over that from left to right.
    """

    mask: Array
    depth: Array
    normals: Array
    depth_per_width: float


# ---- paint -------------------------------------------------------------------------------------


def plain(*color: float) -> Paint:
    return lambda points: np.tile(np.array(color), (len(points), 1))


def stripes(first: tuple[float, ...], second: tuple[float, ...], axis: int, count: float) -> Paint:
    def paint(points: Array) -> Array:
        share = 0.5 + 0.5 * np.tanh(6 * np.sin(np.pi * count * points[:, axis]))
        return share[:, None] * np.array(first) + (1 - share[:, None]) * np.array(second)

    return paint


def marble(first: tuple[float, ...], second: tuple[float, ...], seed: int) -> Paint:
    waves = np.random.default_rng(seed).normal(size=(7, 3)) * 5
    phases = np.arange(7) * 1.7

    def paint(points: Array) -> Array:
        share = 0.5 + 0.5 * np.sin(np.sin(points @ waves.T + phases).sum(1))
        return share[:, None] * np.array(first) + (1 - share[:, None]) * np.array(second)

    return paint


# ---- shapes ------------------------------------------------------------------------------------


def _placed(mesh: trimesh.Trimesh, *turns: tuple[str, float], at: Any = (0, 0, 0)) -> Any:
    """Return a mesh, turned by degrees about axes in order, and moved."""
    axes = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}
    mesh = mesh.copy()
    for axis, degrees in turns:
        turn = trimesh.transformations.rotation_matrix(np.radians(degrees), axes[axis])
        mesh.apply_transform(turn)
    return mesh.apply_translation(at)


def _turned(profile: Any) -> trimesh.Trimesh:
    """Return a solid of revolution about Y from radii and heights, upward."""
    return _placed(trimesh.creation.revolve(np.array(profile), sections=96), ("x", -90))


def _ball(radius: float, at: Any = (0, 0, 0), scale: Any = (1, 1, 1)) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(4, radius).apply_scale(scale)
    return mesh.apply_translation(at)


def _tube(curve: Array, radius: float, sides: int = 24) -> trimesh.Trimesh:
    """Return a closed tube around a closed curve [N, 3]."""
    along = np.roll(curve, -1, 0) - np.roll(curve, 1, 0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, np.array([0.31, 0.17, 0.94]))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(along, across)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = (
        np.cos(angle)[None, :, None] * across[:, None]
        + np.sin(angle)[None, :, None] * other[:, None]
    )
    vertices = (curve[:, None] + radius * ring).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(len(curve)), np.arange(sides), indexing="ij")
    i_1, j_1 = (i + 1) % len(curve), (j + 1) % sides
    a, b, c, d = (p * sides + q for p, q in ((i, j), (i_1, j), (i_1, j_1), (i, j_1)))
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def _vase() -> list[Part]:
    y = np.linspace(-1, 1, 60)
    heights, radii = (
        (-1.4, -1, -0.35, 0.1, 0.6, 0.85, 1.1),
        (0.25, 0.32, 0.6, 0.62, 0.28, 0.22, 0.34),
    )
    radius = np.polyval(np.polyfit(heights, radii, 5), y)
    profile = [(0, -1), *zip(radius, y, strict=True), (0, 1)]
    return [Part(_turned(profile), stripes((0.75, 0.45, 0.3), (0.85, 0.75, 0.6), 1, 4))]


def _pawn() -> list[Part]:
    y = np.linspace(-1, 0.35, 40)
    radius = 0.16 + 0.42 * np.exp(-3.2 * (y + 1)) + 0.06 * np.exp(-80 * (y - 0.28) ** 2)
    body = _turned([(0, -1), *zip(radius, y, strict=True), (0, 0.35)])
    wood = marble((0.45, 0.28, 0.16), (0.6, 0.42, 0.25), 3)
    return [Part(body, wood), Part(_ball(0.33, (0, 0.58, 0)), wood)]


def _teddy() -> list[Part]:
    fur = marble((0.55, 0.36, 0.2), (0.68, 0.48, 0.3), 1)
    light = plain(0.85, 0.72, 0.55)
    parts = [
        (_ball(0.52, (0, -0.25, 0), (1, 1, 0.85)), fur),
        (_ball(0.3, (0, -0.25, 0.26), (1, 1, 0.7)), light),
        (_ball(0.4, (0, 0.5, 0.08)), fur),
        (_ball(0.17, (0, 0.42, 0.44)), light),
    ]
    for side in (-1, 1):
        parts += [
            (_ball(0.15, (0.3 * side, 0.84, 0)), fur),
            (_ball(0.2, (0.55 * side, 0.0, 0.2), (0.8, 1.5, 0.8)), fur),
            (_ball(0.24, (0.34 * side, -0.72, 0.3)), fur),
            (_ball(0.05, (0.14 * side, 0.58, 0.44)), plain(0.08, 0.07, 0.07)),
        ]
    return [Part(mesh, paint) for mesh, paint in parts]


def _mug() -> list[Part]:
    body = _placed(trimesh.creation.cylinder(0.6, 1.5, sections=96), ("x", 90))
    handle = trimesh.creation.torus(0.38, 0.1, major_sections=64, minor_sections=32)
    glaze = stripes((0.2, 0.45, 0.7), (0.9, 0.9, 0.85), 1, 2)
    return [
        Part(_placed(body, at=(-0.15, 0, 0)), glaze),
        Part(_placed(handle, at=(0.5, 0, 0)), plain(0.2, 0.45, 0.7)),
    ]


def _hammer() -> list[Part]:
    shaft = _placed(trimesh.creation.capsule(1.5, 0.11, count=[32, 32]), ("x", 90))
    head = trimesh.creation.cylinder(0.24, 1.1, sections=64)
    return [
        Part(_placed(shaft, at=(0, -0.25, 0)), marble((0.6, 0.4, 0.2), (0.75, 0.55, 0.3), 5)),
        Part(_placed(head, ("y", 90), at=(0, 0.62, 0)), plain(0.45, 0.47, 0.5)),
    ]


def _grapes() -> list[Part]:
    places = np.random.default_rng(11).uniform(-1, 1, (26, 3)) * (0.55, 0.75, 0.45)
    places *= 1.1 - 0.35 * (places[:, 1:2] < 0)
    return [
        Part(_ball(0.24, place), plain(0.32 + 0.02 * (i % 3), 0.14, 0.36 + 0.03 * (i % 2)))
        for i, place in enumerate(places)
    ]


def _castle() -> list[Part]:
    stone = stripes((0.55, 0.53, 0.5), (0.66, 0.64, 0.6), 1, 7)
    parts = [Part(trimesh.creation.box((1.2, 0.9, 0.8)).apply_translation((0, -0.4, 0)), stone)]
    for x in (-0.62, 0.62):
        tower = _placed(trimesh.creation.cylinder(0.27, 1.3, sections=48), ("x", 90))
        roof = _placed(trimesh.creation.cone(0.34, 0.55, sections=48), ("x", -90))
        parts += [
            Part(_placed(tower, at=(x, -0.2, 0.25)), stone),
            Part(_placed(roof, at=(x, 0.45, 0.25)), plain(0.6, 0.2, 0.15)),
        ]
    return parts


def _knot() -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    curve = np.stack(
        [np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], 1
    )
    return [Part(_tube(0.3 * curve, 0.17), plain(0.75, 0.3, 0.25))]


def _sphere() -> list[Part]:
    return [Part(_ball(0.95), stripes((0.9, 0.88, 0.85), (0.8, 0.2, 0.15), 0, 1.5))]


def _rod() -> list[Part]:
    mesh = _placed(trimesh.creation.capsule(1.6, 0.18, count=[48, 48]), ("x", 90))
    middle = mesh.bounds.mean(0)
    return [Part(mesh.apply_translation(-middle), plain(0.35, 0.55, 0.35))]


def _box() -> list[Part]:
    mesh = trimesh.creation.box((1.1, 1.1, 1.1))
    return [Part(_placed(mesh, ("y", 34), ("x", 22)), marble((0.7, 0.6, 0.4), (0.8, 0.7, 0.5), 2))]


def _torus() -> list[Part]:
    mesh = trimesh.creation.torus(0.68, 0.26, major_sections=96, minor_sections=48)
    return [Part(_placed(mesh, ("x", -35)), stripes((0.85, 0.6, 0.2), (0.7, 0.4, 0.3), 0, 2))]


def _cone() -> list[Part]:
    mesh = _placed(trimesh.creation.cone(0.8, 1.8, sections=96), ("x", -90), at=(0, -0.9, 0))
    return [Part(mesh, stripes((0.9, 0.9, 0.9), (0.9, 0.45, 0.1), 1, 1.6))]


#: A dozen of known shapes, by name.
SHAPES: Final[dict[str, Callable[[], list[Part]]]] = {
    "sphere": _sphere, "vase": _vase, "rod": _rod, "torus": _torus, "box": _box, "cone": _cone,
    "pawn": _pawn, "teddy": _teddy, "mug": _mug, "hammer": _hammer, "grapes": _grapes,
    "castle": _castle, "knot": _knot,
}  # fmt: skip
#: Those of which the issue is how deep they are.
ROUND_SHAPES: Final = ("sphere", "vase", "rod")


# ---- pictures ----------------------------------------------------------------------------------


def _corner_normals(mesh: trimesh.Trimesh) -> Array:
    """Return a normal for each corner, [F, 3, 3]: smooth but across edges over 30 degrees."""
    around = mesh.vertex_faces[mesh.faces]
    weight = mesh.area_faces[around] * (around >= 0)
    normals = mesh.face_normals[around]
    weight = weight * (np.einsum("fkdc,fc->fkd", normals, mesh.face_normals) > _SHARP_COSINE)
    total = np.einsum("fkd,fkdc->fkc", weight, normals)
    return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class _Samples:
    """What is seen at the samples of a picture, [N] of [n * n]."""

    n: int
    sample: Array
    depth: Array
    normals: Array
    colors: Array


@functools.cache
def _seen(name: str) -> _Samples:
    n = SIZE_PX * _SAMPLES
    parts = SHAPES[name]()
    depth = np.full(n * n, -np.inf)
    normals, colors = np.zeros((n * n, 3)), np.zeros((n * n, 3))
    for part in parts:
        vertices, faces = np.asarray(part.mesh.vertices), np.asarray(part.mesh.faces)
        points = vertices.copy()
        points[:, 0] = (points[:, 0] / _FRAME + 0.5) * n
        points[:, 1] = (0.5 - points[:, 1] / _FRAME) * n
        owner, near = rasterize(points, faces.astype(np.int32), n, cull=True)
        at = np.flatnonzero(near > depth)
        face = owner[at]
        a, b, c = (points[faces[face, k], :2] for k in range(3))
        x = np.stack([at % n + 0.5, at // n + 0.5], 1)
        area = _cross(b - a, c - a)
        weights = np.stack([_cross(b - x, c - x), _cross(c - x, a - x), _cross(a - x, b - x)], 1)
        weights /= area[:, None]
        normal = np.einsum("nk,nkc->nc", weights, _corner_normals(part.mesh)[face])
        normals[at] = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        colors[at] = part.paint(np.einsum("nk,nkc->nc", weights, vertices[faces[face]]))
        depth[at] = near[at]
    sample = np.flatnonzero(np.isfinite(depth))
    return _Samples(n, sample, depth[sample], normals[sample], colors[sample])


def _cross(u: Array, v: Array) -> Array:
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def _means(seen: _Samples, values: Array) -> tuple[Array, Array]:
    """Return coverage [S, S], and the mean of the values of covered samples, [S, S, C]."""
    total = np.zeros((seen.n * seen.n, values.shape[1] + 1))
    total[seen.sample, :-1], total[seen.sample, -1] = values, 1
    split = SIZE_PX, _SAMPLES, SIZE_PX, _SAMPLES, values.shape[1] + 1
    means = total.reshape(split).mean((1, 3))
    return means[..., -1], means[..., :-1] / np.maximum(means[..., -1:], 1e-9)


def truth(name: str) -> Truth:
    """Return what the pictures of a shape show."""
    seen = _seen(name)
    share, values = _means(seen, np.concatenate([seen.depth[:, None], seen.normals], 1))
    mask = share > 0.5
    normals = values[..., 1:]
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    bounds = trimesh.util.concatenate([part.mesh for part in SHAPES[name]()]).extents
    return Truth(
        mask, np.where(mask, values[..., 0], np.nan), normals, float(bounds[2] / bounds[0])
    )


def picture(name: str, light: str) -> Array:
    """Return a picture of a shape, RGBA uint8 [S, S, 4].

    Args:
        name: one of `SHAPES`.
        light: one of `LIGHTS`.
    """
    seen = _seen(name)
    toward = np.array(LIGHTS[light]) / np.linalg.norm(LIGHTS[light])
    lamp = np.clip(seen.normals @ toward, 0, 1)
    sky = 0.5 + 0.5 * seen.normals[:, 1]
    strength = 0.72 * lamp + 0.2 * sky + 0.16
    linear = seen.colors**2.2 * strength[:, None]
    share, values = _means(seen, linear)
    color = np.clip(values, 0, 1) ** (1 / 2.2)
    return np.rint(255 * np.dstack([color, share])).astype(np.uint8)
