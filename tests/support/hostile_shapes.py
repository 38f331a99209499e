"""Meshes that are expensive for the exporter: needles, spirals, hubs, copies.

Does not know: files, requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support import shapes
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def separate(corners: NDArray[Any]) -> Mesh:
    """Return triangles without common vertices; their box fills the cube.

    Args:
        corners: [F, 3, 3].
    """
    return _placed(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))


def _placed(vertices: NDArray[Any], faces: NDArray[Any]) -> Mesh:
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    scaled = (vertices - (low + high) / 2) * (0.99999 / float((high - low).max()))
    return Mesh(scaled.astype(np.float32), np.ascontiguousarray(faces, np.int32))


def needles(count: int, aspect: float, *, is_diagonal: bool = False) -> Mesh:
    """Return needles half as long as the cube, in all directions or along its diagonal."""
    random = np.random.default_rng(1)
    along = np.ones((count, 3)) if is_diagonal else random.normal(size=(count, 3))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, random.normal(size=(count, 3)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    start = random.uniform(-0.4, 0.4, (count, 3))
    return separate(np.stack([start, start + 0.5 * along, start + across * (0.5 / aspect)], axis=1))


def without_area() -> Mesh:
    """Return one triangle whose corners lie on a line."""
    return separate(np.array([[[0, 0, 0], [1, 0, 0], [2, 0, 0]]]))


def lines(count: int) -> Mesh:
    """Return triangles that all lie on one line."""
    at = np.random.default_rng(2).uniform(size=(count, 3, 1))
    return separate(at * np.array([1, 2, 3]))


def far_apart() -> Mesh:
    """Return two triangles a million times smaller than their distance."""
    corners = np.random.default_rng(3).uniform(size=(2, 3, 3)) * 1e-6
    corners[1] += 1.0
    return separate(corners)


def stair(steps: int) -> Mesh:
    """Return a spiral stair: one group of normals, with an overlap at each turn."""
    turn = np.arange(steps) * (2 * np.pi / 12)
    height = np.arange(steps) / steps
    rails = [
        np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1)
        for radius in (0.1, 0.5)
    ]
    i = 2 * np.arange(steps - 1)
    faces = [np.stack([i, i + 1, i + 2], axis=1), np.stack([i + 1, i + 3, i + 2], axis=1)]
    return _placed(np.stack(rails, axis=1).reshape(-1, 3), np.concatenate(faces))


def hub(count: int) -> Mesh:
    """Return a cone whose tip has all faces."""
    angle = 2 * np.pi * np.arange(count) / count
    rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    i = np.arange(count)
    faces = np.stack([0 * i, i + 1, (i + 1) % count + 1], axis=1)
    return _placed(np.concatenate([[[0, 0, 0.3]], rim]), faces)


def fan(count: int) -> Mesh:
    """Return faces that all have one edge in common."""
    angle = 2 * np.pi * np.arange(count) / count
    rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    i = np.arange(count)
    faces = np.stack([0 * i, 0 * i + 1, i + 2], axis=1)
    return _placed(np.concatenate([[[0, 0, -1], [0, 0, 1]], rim]), faces)


def copies(count: int) -> Mesh:
    """Return one triangle many times."""
    return Mesh(shapes.sphere(1).vertices[:3], np.tile(np.array([[0, 1, 2]], np.int32), (count, 1)))


def slivers(count: int) -> Mesh:
    """Return a sphere with needles along the diagonal of the cube."""
    return shapes.joined(shapes.sphere(40), needles(count, 1e5, is_diagonal=True))


def rounded() -> Mesh:
    """Return a sphere whose coordinates are rounded until most faces have no area."""
    sphere = shapes.sphere(40)
    return Mesh(np.round(sphere.vertices * 3) / np.float32(3), sphere.faces)


HOSTILE: dict[str, Callable[[], Mesh]] = {
    "without area": without_area,
    "lines": lambda: lines(300),
    "far apart": far_apart,
    "needles": lambda: needles(1200, 1e4),
    "one needle": lambda: needles(1, 1e7),
    "diagonal needles": lambda: needles(1000, 1e3, is_diagonal=True),
    "stair": lambda: stair(6000),
    "hub": lambda: hub(5000),
    "fan": lambda: fan(5000),
    "copies": lambda: copies(1000),
    "slivers": lambda: slivers(500),
    "rounded": rounded,
}
