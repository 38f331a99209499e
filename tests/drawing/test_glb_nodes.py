"""Nodes that mirror and flatten, and files in another frame: which side is out, and what is up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.built_glb import CORNERS, FACES, Glb
from trellis2_server.drawing import draw_model, load_glb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.drawing import DrawnModel


def outward(model: DrawnModel) -> NDArray[np.float64]:
    """How far the faces' own normals, and those of their corners, point away from the middle."""
    corners = model.positions[model.faces].astype(np.float64)
    middle = model.positions.mean(0)
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    away = corners.mean(1) - middle
    normals = model.normals[model.normal_faces].mean(1)
    return np.concatenate([(flat * away).sum(1), (normals * away).sum(1)])


@pytest.mark.parametrize("has_normals", [False, True])
@pytest.mark.parametrize(
    "scales", [[(-1, 1, 1)], [(1, -2, 1), (1, 1, 1)], [(-1, -1, -1)], [(-1, 1, 1), (1, 1, -3)]]
)
def test_a_mirrored_part_is_not_inside_out(
    scales: list[tuple[int, int, int]],
    has_normals: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    glb = Glb()
    corners = CORNERS[FACES]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    primitive = glb.primitive()
    primitive["attributes"]["POSITION"] = glb.accessor(corners.reshape(-1, 3))
    del primitive["indices"]
    if has_normals:
        primitive["attributes"]["NORMAL"] = glb.accessor(np.repeat(flat, 3, axis=0))
    glb.document["nodes"] = [
        {"scale": scale, "children": [k + 1]} for k, scale in enumerate(scales)
    ]
    glb.document["nodes"].append({"mesh": 0, "rotation": [0.5, 0.5, 0.5, 0.5]})
    model = load_glb(bytes(glb))
    assert (outward(model) > 0).all()
    assert draw_model(model, size_px=32, shading="clay")[..., 3].max() == 255


def test_a_part_that_a_node_flattens_has_normals() -> None:
    glb = Glb()
    glb.primitive(attributes={"NORMAL": glb.accessor(CORNERS + 1)})
    glb.document["nodes"][0]["scale"] = [1, 0, 1]
    normals = load_glb(bytes(glb)).normals
    assert normals == pytest.approx(np.tile([0, 1, 0], (4, 1)))


def test_a_mesh_that_this_server_wrote_with_z_up_is_turned_upright() -> None:
    glb = Glb()
    glb.primitive()
    glb.document["asset"]["extras"] = {"up_axis": "z"}
    upright = load_glb(bytes(glb)).positions
    assert upright.tolist() == np.stack([CORNERS[:, 0], CORNERS[:, 2], -CORNERS[:, 1]], 1).tolist()
