"""Texture coordinates of OBJ files, read where a mesh keeps its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import read_scene

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes import Part

#: A square of two triangles that meet in a seam: its two ends have two texture coordinates each.
POINTS = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
COORDINATES = b"vt 0 0\nvt 0.25 0 0\nvt 0.25 1\nvt 0.5 0.125\nvt 1 1\nvt 0.75\n"
FACES = b"f 1/1 2/2 3/3\nf 1/4 3/5 4/6\n"
EXPECTED = [[0, 1], [0.25, 1], [0.25, 0], [0.5, 0.875], [1, 0], [0.75, 1]]


def read(content: bytes) -> Part:
    (part,) = read_scene(content, with_uv=True).parts
    return part


def at_corners(part: Part) -> tuple[list[list[float]], list[list[float]]]:
    """Return the positions and the texture coordinates of the corners of the faces."""
    assert part.uv is not None
    corners = part.faces.reshape(-1)
    return part.positions[corners].tolist(), part.uv[corners].tolist()


@pytest.mark.parametrize(
    "faces",
    [
        FACES,
        b"f 1/1/1 2/2/1 3/3/1\nf 1/4/1 3/5/1 4/6/1\n",
        b"f 1/1/ 2/2/ 3/3/\nf 1/4/ 3/5/ 4/6/\n",
        b"f -4/-6 -3/-5 -2/-4\nf 1/4 3/-2 -1/6\n",
        b"f 1/1/1 2/2/1 \\\n 3/3/+1 # 9/9\nf 1/4/1 3/+5/1 4/6/1\n",
    ],
    ids=["pairs", "triples", "slashes", "relative", "odd"],
)
def test_vertices_are_repeated_along_seams(faces: bytes) -> None:
    content = POINTS + COORDINATES + b"vn 0 0 1\n" + faces
    points, uv = at_corners(read(content))
    assert points == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert uv == EXPECTED
    assert len(read(content).positions) == 6
    # Where a new layout is made, the surface stays in one piece.
    (plain,) = read_scene(content).parts
    assert plain.uv is None
    assert len(plain.positions) == 4


def test_computed_normals_are_smooth_over_seams() -> None:
    roof = b"v 0 0 0\nv 1 0 1\nv 1 1 1\nv 2 0 0\n" + COORDINATES
    part = read(roof + b"f 1/1 2/2 3/3\nf 2/4 4/5 3/6\n")
    assert len(part.positions) == 6
    assert part.normals is not None
    for at in (2, 3):
        same = part.normals[(part.positions == part.positions[part.faces[0, at - 1]]).all(axis=1)]
        assert len(same) == 2
        assert np.ptp(same, axis=0).max() == 0
    flat = read(roof + b"s off\nf 1/1 2/2 3/3\nf 2/4 4/5 3/6\n")
    assert flat.normals is None
    assert flat.uv is not None


def test_only_objects_whose_corners_all_have_coordinates_have_them() -> None:
    content = POINTS + COORDINATES + b"o a\nf 1/1 2/2 3/3\no b\nf 1/1 3/2 4\no c\nf 1 2 3\n"
    content += b"o d\nf 1/1 2/2 3/3\nf 4 4 4\n"  # the second is no face
    assert [part.uv is not None for part in read_scene(content, with_uv=True).parts] == [
        True, False, False, True,
    ]  # fmt: skip


def test_concave_polygons_keep_the_coordinates_of_their_corners() -> None:
    points = b"v 0 0 0\nv 4 0 0\nv 4 4 0\nv 2 1 0\nv 0 4 0\n"
    texture = points.replace(b"v", b"vt")
    part = read(points + texture + b"f 1/1 2/2 3/3 4/4 5/5\n")
    assert part.uv is not None
    assert len(part.faces) == 3
    assert np.array_equal(part.uv * [1, -1] + [0, 1], part.positions[:, :2])


def test_coordinates_that_are_no_numbers_count_as_zero() -> None:
    content = POINTS + COORDINATES.replace(b"vt 0.25 1", b"vt nan 1e999") + FACES
    _, uv = at_corners(read(content))
    assert uv[2] == [0, 0]
    assert uv[:2] == EXPECTED[:2]


@pytest.mark.parametrize(
    ("faces", "line"),
    [
        (b"f 1/1 2/2 3/3\nf 1/1 2/2 4/7\n", 12),
        (b"f 1/1 2/2 3/-7\n", 11),
        (b"f 1/1 2/2 3/3\n" * 50_000 + b"f 1/1 2 3/99999999999999999999\n", 50_011),
    ],
)
def test_coordinates_that_do_not_exist_name_their_line(faces: bytes, line: int) -> None:
    content = POINTS + COORDINATES + faces
    match = rf"^mesh: line {line}: a face refers to texture coordinates that do not exist$"
    with pytest.raises(InputError, match=match):
        read_scene(content, with_uv=True)
    assert read_scene(content).parts[0].uv is None


def test_a_line_of_coordinates_without_a_number_is_named() -> None:
    with pytest.raises(InputError, match=r"^mesh: line 5: no number$"):
        read(POINTS + b"vt # nothing\n" + COORDINATES + FACES)
    with pytest.raises(InputError, match=r'^mesh: line 5: "x": it is no number$'):
        read(POINTS + b"vt 0 x\n" + COORDINATES + FACES)
