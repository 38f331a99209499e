"""Where the nodes of a scene place its meshes; copies of meshes that are placed several times.

Khronos, "glTF 2.0 Specification", chapter 3.5.2.

Does not know: file formats.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.inputs.meshes.scene import MAX_NODES, are_mirrored, density_limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.scene import Part, Scene
    from trellis2_server.request_fields import UpAxis


def local_transform(node: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a glTF node's transform to its parent's frame, float64 [4, 4]."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    out = np.eye(4)
    if "rotation" in node or "scale" in node:
        x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        out[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), np.float64)
    out[:3, 3] = node.get("translation", (0, 0, 0))
    return out


def node_placements(
    nodes: Sequence[Mapping[str, Any]], roots: Sequence[int]
) -> NDArray[np.float64]:
    """Return the transforms from the nodes' frames to the scene's, float64 [N, 4, 4].

    Args:
        nodes: of a scene; they form trees.
        roots: the nodes without a parent.
    """
    out = np.array([local_transform(node) for node in nodes]).reshape(-1, 4, 4)
    stack = list(roots)
    while stack:
        index = stack.pop()
        for child in nodes[index].get("children", ()):
            out[child] = out[index] @ out[child]
            stack.append(child)
    return out


def separate_placements(scene: Scene, file_bytes: int) -> Scene:
    """Give each place of a mesh a mesh of its own, so that a picture can colour each differently.

    Placements that are equal share a mesh. The first mesh is where its parts are, the copies are
    behind all parts. A mesh of which the limits do not allow that many copies stays as it is.

    Args:
        scene: not changed. Its nodes refer to its meshes.
        file_bytes: size of its file; see `scene.density_limits`.
    """
    places = _places(scene)
    if all(len(nodes) <= 1 for nodes in places.values()):
        return scene
    parts: dict[int, list[Part]] = {}
    for part in scene.parts:
        parts.setdefault(part.mesh, []).append(part)
    counts = np.array([len(scene.parts), *_size(scene.parts)])
    limits = np.array([MAX_NODES, *density_limits(file_bytes)])
    added: list[Part] = []
    nodes, meshes = [*scene.nodes], [*scene.meshes]
    for mesh, placed in places.items():
        copies = len(placed) - 1
        size = copies * np.array([len(parts[mesh]), *_size(parts[mesh])])
        if not copies or (counts + size > limits).any():
            continue
        counts += size
        own = _key(parts[mesh][0].placement)
        if own not in placed:
            own, (placement, _) = next(iter(placed.items()))
            parts[mesh] = [replace(part, placement=placement) for part in parts[mesh]]
        for key, (placement, users) in placed.items():
            if key == own:
                continue
            added += [replace(part, mesh=len(meshes), placement=placement) for part in parts[mesh]]
            for user in users:
                nodes[user] = nodes[user] | {"mesh": len(meshes)}
            meshes.append(scene.meshes[mesh])
    first = [part for mesh in sorted(parts) for part in parts[mesh]]
    return replace(scene, parts=(*first, *added), nodes=tuple(nodes), meshes=tuple(meshes))


def placed_bounds(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the greatest coordinates of all places of all meshes, float64 [3]."""
    places = _places(scene)
    corners: list[NDArray[np.float64]] = []
    for part in scene.parts:
        placed = [placement for placement, _ in places.get(part.mesh, {}).values()]
        for placement in placed or [part.placement]:
            positions = part.positions @ placement[:3, :3].T + placement[:3, 3]
            corners += [
                positions.min(axis=0, initial=np.inf),
                positions.max(axis=0, initial=-np.inf),
            ]
    return np.min(corners, axis=0), np.max(corners, axis=0)


def has_shared_meshes(scene: Scene) -> bool:
    """Return whether a mesh has several places that differ."""
    return any(len(placed) > 1 for placed in _places(scene).values())


def prefer_front(scene: Scene, rotation_deg: float = 0.0, up_axis: UpAxis = "auto") -> Scene:
    """Place meshes that have several places where they are not mirrored and face the picture.

    Args:
        scene: not changed.
        rotation_deg: see `model_frame.to_model_frame`.
        up_axis: likewise.
    """
    angle = np.deg2rad(rotation_deg)
    sine, cosine = np.sin(angle), np.cos(angle)
    is_z_up = scene.upward_axis(up_axis) == "z"
    front = np.array([-sine, -cosine, 0] if is_z_up else [-sine, 0, cosine])
    chosen: dict[int, NDArray[np.float64]] = {}
    for mesh, placed in _places(scene).items():
        placements = np.array([placement for placement, _ in placed.values()])
        if len(placements) > 1:
            forward = placements[:, :3, :3] @ front
            # Scaled first: the squares of large numbers exceed the range of numbers.
            size = np.abs(forward).max(axis=1, keepdims=True)
            forward /= np.where(size == 0, 1, size)
            length = np.linalg.norm(forward, axis=1)
            facing = forward @ front / np.where(length == 0, 1, length)
            rank = facing.round(6) - 4 * are_mirrored(placements)
            chosen[mesh] = placements[int(np.argmax(rank))]
    if not chosen:
        return scene
    parts = [replace(each, placement=chosen.get(each.mesh, each.placement)) for each in scene.parts]
    return replace(scene, parts=tuple(parts))


def _places(scene: Scene) -> dict[int, dict[bytes, tuple[NDArray[np.float64], list[int]]]]:
    """Return the placements of each mesh that differ, and the nodes that have them, in order."""
    places: dict[int, dict[bytes, tuple[NDArray[np.float64], list[int]]]] = {}
    used = [node["mesh"] for node in scene.nodes if "mesh" in node]
    if len(used) == len(set(used)):
        return {}
    placements = node_placements(scene.nodes, scene.roots)
    for index, (node, placement) in enumerate(zip(scene.nodes, placements, strict=True)):
        if "mesh" in node:
            placed = places.setdefault(node["mesh"], {})
            placed.setdefault(_key(placement), (placement, []))[1].append(index)
    return places


def _key(placement: NDArray[np.float64]) -> bytes:
    return (placement + 0.0).tobytes()  # without negative zeros


def _size(parts: Sequence[Part]) -> tuple[int, int]:
    """Return the numbers of faces and of vertices."""
    return sum(len(part.faces) for part in parts), sum(len(part.positions) for part in parts)
