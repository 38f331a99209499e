from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trimesh

from tests.support.meshes import CORNERS, as_bytes, egg, glb, triangle, two_nodes
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.export import retexture
from trellis2_server.export.formats import convert
from trellis2_server.inputs.meshes import Axis, model_frame, read_scene, to_model_frame
from trellis2_server.parameters import PlacedFile, Placement


def test_a_scene_fills_the_cube_and_faces_the_front() -> None:
    mesh = to_model_frame(read_scene(as_bytes(egg(), "glb")))
    assert mesh.vertices.min(0) == pytest.approx([-0.25, -0.25, -0.5], abs=1e-3)
    flag = b"v 0 0 1\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"  # its first corner is the frontmost
    front = to_model_frame(read_scene(flag)).vertices
    assert front[:, 1].min() == pytest.approx(-0.5, abs=1e-3)
    turned = to_model_frame(
        read_scene(flag), 90
    ).vertices  # counter-clockwise: the front goes right
    assert turned[np.argmin(np.abs(turned[:, 1] - 0)), 0] == pytest.approx(turned[:, 0].max())


#: Its points name their directions in a file with Z up: the front is -Y.
Z_UP = b"v 0 -1 0\nv 2 0 0\nv 0 0 4\nv -2 0 0\nf 1 2 3\nf 1 3 4\n"


def placed(content: bytes, rotation_deg: float = 0.0, **more: Any) -> list[list[float]]:
    """Return where the first three corners are, from the middle of the box, in sizes of Z_UP."""
    mesh = to_model_frame(read_scene(content), rotation_deg, **more)
    corners = mesh.vertices[[mesh.faces[0, 0], mesh.faces[0, 1], mesh.faces[0, 2]]] * 4
    middle = (mesh.vertices.min(0) + mesh.vertices.max(0)) * 2
    return np.round(corners - middle, 3).tolist()


def test_a_scene_with_z_up_stands_upright_and_faces_the_front() -> None:
    as_y_up = b"v 0 0 1\nv 2 0 0\nv 0 4 0\nv -2 0 0\nf 1 2 3\nf 1 3 4\n"
    for angle in (0, 90, 180, 30):
        expected = placed(as_y_up, angle)
        assert placed(Z_UP, angle, up_axis="z") == expected
        assert placed(as_y_up, angle, up_axis="y") == expected
        assert placed(Z_UP, angle) != expected
    front, _, top = placed(Z_UP, up_axis="z")
    assert front[1] < 0 < top[2]


@pytest.mark.parametrize(
    ("kind", "axis"), [("glb", "y"), ("obj", "y"), ("ply", "y"), ("stl", "z"), ("stl_ascii", "z")]
)
def test_the_axis_that_points_up_is_that_of_the_format(kind: str, axis: str) -> None:
    scene = read_scene(as_bytes(egg(), kind))
    assert scene.up_axis == axis
    one, same = to_model_frame(scene), to_model_frame(scene, up_axis=scene.up_axis)
    assert (one.vertices == same.vertices).all()


@pytest.mark.parametrize("axis", ["y", "z"])
def test_an_stl_that_this_server_wrote_is_taken_as_it_was_written(axis: Axis) -> None:
    scene = read_scene(as_bytes(egg(), "glb"))
    made = to_model_frame(scene)
    plain = retexture.untextured_glb(scene, made, extras={}, generator="test")
    own = read_scene(convert(plain, PlacedFile("stl", Placement(axis))))
    assert own.up_axis == axis
    assert sorted_rows(to_model_frame(own).vertices) == sorted_rows(made.vertices)


def sorted_rows(vertices: Any) -> list[list[float]]:
    return sorted(np.round(vertices + 0.0, 5).tolist())


def test_a_mirrored_part_stays_right_side_out() -> None:
    mesh = to_model_frame(read_scene(as_bytes(two_nodes(), "glb")))
    known = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert all(body.volume > 0 for body in known.split())


def test_a_mesh_without_extent_is_refused() -> None:
    with pytest.raises(InputError, match="no size"):
        to_model_frame(read_scene(glb(triangle(), bytes(36))))


@pytest.mark.parametrize("factor", [1e-44, 1e-30, 1.0, 1e30, 3e38])
def test_a_mesh_of_any_finite_size_fills_the_cube(factor: float) -> None:
    mesh = to_model_frame(
        read_scene(f"v 0 0 0\nv {factor} 0 0\nv 0 {factor} 0\nf 1 2 3\n".encode())
    )
    assert np.ptp(mesh.vertices, axis=0).max() == pytest.approx(1, abs=1e-3)


def test_a_vertex_that_no_face_uses_is_left_out() -> None:
    face = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n%sf 1 2 3\n"
    without = to_model_frame(read_scene(face % b""))
    content = glb(
        triangle(
            accessors=[{"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
                       {"bufferView": 1, "componentType": 5121, "count": 3, "type": "SCALAR"}],
            bufferViews=[{"buffer": 0, "byteLength": 48},
                         {"buffer": 0, "byteOffset": 48, "byteLength": 3}],
            meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        ),
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1e38, 1e38, 1e38]], "<f4").tobytes()
        + bytes([0, 1, 2]),
    )  # fmt: skip
    mesh = to_model_frame(read_scene(content))
    assert mesh.vertices.tolist() == without.vertices.tolist()
    assert mesh.faces.tolist() == without.faces.tolist()


@pytest.mark.parametrize(
    "lines",
    ["v 0 0 0\nv 1 1 1\nv 2 2 2", "v 0 0 0\nv 1 0 0\nv .5 1e-18 0", "v 0 0 0\nv 1 0 0\nv 1 0 0"],
)
def test_faces_without_area_are_no_surface(lines: str) -> None:
    with pytest.raises(InputError, match="no surface"):
        to_model_frame(read_scene(f"{lines}\nf 1 2 3\n".encode()))


def test_faces_without_area_stay_beside_others() -> None:
    corners = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv .5 0 0\n"
    mesh = to_model_frame(read_scene(corners + b"f 1 4 2\nf 1 2 3\n"))
    assert len(mesh.faces) == 2


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"scale": [1e300] * 3, "translation": [1e308] * 3}, "range of numbers"),
        ({"scale": [1e-320] * 3}, "no size"),
        ({"scale": [1, 0, 0]}, "no surface"),
        ({"translation": [1e30, 0, 0]}, "no s(ize|urface)"),
    ],
)
def test_a_placement_that_leaves_nothing_is_refused(
    node: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        to_model_frame(read_scene(glb(triangle(nodes=[{"mesh": 0} | node]), CORNERS)))


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_a_mirrored_part_is_recognized_at_any_scale(scale: float) -> None:
    for sign in (1, -1):
        node = {"mesh": 0, "scale": [scale * sign, scale, scale]}
        (part,) = read_scene(glb(triangle(nodes=[node]), CORNERS)).parts
        assert part.is_mirrored == (sign < 0)


def test_a_mesh_of_too_many_layers_is_too_large() -> None:
    layer = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf -4 -3 -2 -1\n"
    assert len(to_model_frame(read_scene(layer * 199)).faces) == 2 * 199
    with pytest.raises(TooLargeError, match="201 times the area of the side of a cube"):
        to_model_frame(read_scene(layer * 201))


def test_a_mesh_of_too_many_long_faces_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_frame, "MAX_LENGTH", 90.0)
    needle = b"v 0 0 0\nv 1 0 0\nv .5 1e-4 0\nf -3 -2 -1\n"
    assert len(to_model_frame(read_scene(needle * 89)).faces) == 89
    with pytest.raises(TooLargeError, match="91 times as long as the side of a cube"):
        to_model_frame(read_scene(needle * 91))
