"""Pictures for the preview engine, and measurements of what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from trellis2_server.inputs.images import Cutout

if TYPE_CHECKING:
    from trellis2_server.engines.preview import PreviewEngine
    from trellis2_server.mesh import Mesh, Shape, VoxelField
    from trellis2_server.request_fields import Back

Array = NDArray[Any]
RED, GREEN, BLUE, WHITE = (220, 20, 30), (10, 200, 40), (20, 30, 210), (240, 240, 240)


@dataclass(frozen=True)
class Request:
    """The fields of `Options` that the engine uses."""

    decimation_target: int = 20_000
    texture_size: int = 512
    seed: int = 0
    depth: float | Literal["auto"] = "auto"
    back: Back = "auto"
    normal_map: bool = False


def ignore(_stage: str, _step: int, _of: int) -> None:
    """Ignore a report."""


def cutout(mask: Array, color: Array | tuple[int, int, int] = WHITE) -> Cutout:
    """A picture from a mask (0 to 1, or bool) and a colour, per pixel or one."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[..., :3] = color
    rgba[..., 3] = np.rint(np.asarray(mask, np.float64) * 255)
    return Cutout(rgba=rgba, background="alpha")


def grid(size: int) -> tuple[Array, Array]:
    y, x = np.mgrid[:size, :size] + 0.5
    return x, y


def disc(size: int, x: float, y: float, radius: float, *, soft: bool = True) -> Array:
    px, py = grid(size)
    inside = radius - np.hypot(px - x, py - y)
    return np.clip(inside + 0.5, 0, 1) if soft else (inside > 0).astype(float)


def measure(mesh: Mesh) -> tuple[float, int]:
    """Volume and Euler characteristic of a mesh; fails unless it is closed and oriented."""
    faces = mesh.faces.astype(np.int64)
    count = len(mesh.vertices)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = directed[:, 0] * count + directed[:, 1]
    back = directed[:, 1] * count + directed[:, 0]
    assert len(np.unique(there)) == len(there), "an edge is used twice in one direction"
    assert (np.sort(there) == np.sort(back)).all(), "an edge has no opposite"
    assert len(np.unique(faces)) == count, "a vertex is unused"
    corners = mesh.vertices.astype(np.float64)[faces]
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    return volume, count - len(there) // 2 + len(faces)


def front_faces(shape: Shape) -> Array:
    return shape.mesh.faces[: len(shape.mesh.faces) // 2]


def flat_areas(mesh: Mesh, faces: Array) -> Array:
    """Signed areas seen from the front, -Y."""
    p = mesh.vertices.astype(np.float64)[faces][..., [0, 2]]
    u, v = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def parts_and_holes(mask: Array, smallest: int = 4) -> tuple[int, int]:
    labels, count = ndimage.label(mask)
    parts = int((np.bincount(labels.ravel())[1:] >= smallest).sum()) if count else 0
    labels, _ = ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[[0, labels[0, 0]]] = 0
    return parts, int((sizes >= smallest).sum())


blob = st.tuples(
    st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 0.4), st.floats(0.02, 0.4), st.booleans()
)


@st.composite
def masks(draw: st.DrawFn) -> Array:
    """Ellipses and boxes laid over and cut out of each other."""
    size = draw(st.integers(16, 96))
    x, y = grid(size)
    mask = np.zeros((size, size), bool)
    for i, (cx, cy, rx, ry, is_box) in enumerate(draw(st.lists(blob, min_size=1, max_size=8))):
        u, v = (x / size - cx) / rx, (y / size - cy) / ry
        inside = np.maximum(abs(u), abs(v)) < 1 if is_box else u * u + v * v < 1
        mask = mask & ~inside if i % 3 == 2 else mask | inside
    if draw(st.booleans()):
        mask ^= np.random.default_rng(draw(st.integers(0, 9))).random(mask.shape) < 0.03
    return mask


def made(
    engine: PreviewEngine, picture: Cutout, requested: Request | None = None
) -> tuple[Shape, VoxelField]:
    requested = requested or Request()
    shape = engine.shape(picture, requested, ignore)
    return shape, engine.texture(shape, picture, requested, ignore)


def samples(mesh: Mesh, faces: Array, count: int = 20_000) -> Array:
    """Random points on some faces, by area."""
    rng = np.random.default_rng(0)
    corners = mesh.vertices.astype(np.float64)[faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    chosen = corners[rng.choice(len(faces), count, p=area / area.sum())]
    weights = rng.dirichlet((1, 1, 1), count)
    return np.einsum("ij,ijk->ik", weights, chosen)


def both_sides(shape: Shape, count: int = 20_000) -> tuple[Array, Array]:
    """Random points on the front, and those on the back that have the same x and z."""
    half = len(shape.mesh.faces) // 2
    corners = shape.mesh.vertices.astype(np.float64)[shape.mesh.faces]
    front, back = corners[:half], corners[half:, ::-1]
    rng = np.random.default_rng(0)
    area = flat_areas(shape.mesh, front_faces(shape))
    chosen = rng.choice(half, count, p=area / area.sum())
    weights = rng.dirichlet((1, 1, 1), count)
    return (
        np.einsum("ij,ijk->ik", weights, front[chosen]),
        np.einsum("ij,ijk->ik", weights, back[chosen]),
    )


def look_up(field: VoxelField, points: Array) -> Array:
    """Rows of the field's 8 voxels around each point, -1 where there is none."""
    size = field.resolution
    keys = np.ravel_multi_index(field.coords.T, (size,) * 3)
    order = np.argsort(keys)
    low = np.floor((points + 0.5) * size - 0.5).astype(np.int64)
    offsets = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    wanted = np.ravel_multi_index(np.moveaxis(low[:, None] + offsets, -1, 0), (size,) * 3)
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    rows = order[at]
    return np.where(keys[rows] == wanted, rows, -1)


def sample(field: VoxelField, points: Array) -> Array:
    return field.attributes[look_up(field, points)].mean(1)
