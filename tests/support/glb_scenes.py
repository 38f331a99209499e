"""Scenes of a tetrahedron in glTF, and what a reader makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.built_glb import CORNERS as POINTS
from tests.support.built_glb import Glb
from trellis2_server.inputs.meshes import Scene, read_scene
from trellis2_server.inputs.meshes.placements import node_placements

CORNERS = np.asarray(POINTS, np.float32)


def built(**attributes: Any) -> Glb:
    file = Glb()
    file.primitive(attributes=attributes)
    return file


def read(file: Glb) -> Scene:
    file.document["buffers"] = [{"byteLength": len(file.data)}]
    return read_scene(bytes(file))


def origins(scene: Scene) -> list[list[float]]:
    """Return where the nodes with a mesh are."""
    places = node_placements(scene.nodes, scene.roots)
    return [
        place[:3, 3].tolist()
        for node, place in zip(scene.nodes, places, strict=True)
        if "mesh" in node
    ]


def world(scene: Scene) -> np.ndarray:
    return scene.merge()[0]


def skinned(joints: Any, weights: Any, *, nodes: list[dict[str, Any]], inverse: Any = None) -> Glb:
    """A tetrahedron whose node is nodes[0]; the others are its joints."""
    file = built()
    attributes = file.document["meshes"][0]["primitives"][0]["attributes"]
    attributes["JOINTS_0"] = file.accessor(np.array(joints), "u1")
    attributes["WEIGHTS_0"] = file.accessor(np.array(weights, np.float32))
    skin: dict[str, Any] = {"joints": [*range(1, len(nodes))]}
    if inverse is not None:
        matrices = np.array(inverse, np.float32).transpose(0, 2, 1).reshape(-1, 16)
        skin["inverseBindMatrices"] = file.accessor_of(
            file.view(matrices.astype("<f4").tobytes()), len(matrices), 4, "<f4", type="MAT4"
        )
    nodes[0] |= {"mesh": 0, "skin": 0}
    file.document |= {"nodes": nodes, "skins": [skin], "scenes": [{"nodes": [*range(len(nodes))]}]}
    return file


ONE = [[0, 0, 0, 0]] * 4, [[1, 0, 0, 0]] * 4
BOTH = [[0, 1, 0, 0]] * 4, [[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]
