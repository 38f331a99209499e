"""What programs and people write into OBJ, PLY and STL files, and what it means."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh

from tests.support.meshes import CORNERS, as_bytes, ply
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import read_scene, to_model_frame

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes import Part

CORNER = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
QUADS = np.array(
    [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
)
TRIANGLES = QUADS[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
VERTICES = "".join(f"v {x:g} {y:g} {z:g}\n" for x, y, z in CORNER)
FACES = "".join("f {} {} {} {}\n".format(*(quad + 1)) for quad in QUADS)


def volume(part: Part) -> float:
    a, b, c = (part.positions[part.faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum()) / 6


def read(content: str | bytes) -> Part:
    (part,) = read_scene(content.encode() if isinstance(content, str) else content).parts
    return part


def is_cube(part: Part) -> bool:
    return len(part.faces) == 12 and volume(part) == pytest.approx(1) and len(part.positions) == 8


# ---- OBJ -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + VERTICES + FACES,
        (VERTICES + FACES).replace("\n", "\r"),
        (VERTICES + FACES).replace("\n", "\r\n"),
        "# a comment of a program\n" * 4000 + VERTICES + FACES,
        "".join(f"\t  {line}\n" for line in (VERTICES + FACES).splitlines()),
        VERTICES + FACES.replace("\n", " # a face\n"),
        VERTICES.replace("\n", " 1.0 0.5 0.25\n") + FACES,
        "# C:\\models\\\n" + VERTICES + FACES,
        "mtllib C:\\models\\\no a\\\n" + VERTICES + FACES,
        VERTICES + FACES.replace(" 2", " \\\n2", 1),
        VERTICES.replace("0\n", "-.0\n").replace("1", "1.0E+00") + FACES,
        FACES + VERTICES,
        VERTICES + "v nan 0 0\nv 1e30 inf 7\n" + FACES,
    ],
    ids=[
        "byte order mark", "carriage returns", "both", "many comments", "indented",
        "comments behind faces", "colours", "a backslash ends a comment", "a backslash ends a name",
        "continued", "exponents", "faces before vertices", "unused vertices",
    ],
)  # fmt: skip
def test_an_obj_of_a_cube_is_a_cube(content: str) -> None:
    assert is_cube(read(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VERTICES + "f 0 1 2\n", "line 9: a face has index 0; OBJ counts vertices from 1"),
        (VERTICES + "f 1 2 -9\n", "line 9: a face refers to a vertex that does not exist"),
        (VERTICES + "f 1 2 9\n", "line 9: a face refers to a vertex that does not exist"),
        ("v 0,5 1 2\n" + VERTICES, 'line 1: "0,5": write a point, not a comma'),
        (VERTICES + "\n\nv 1 2\n", "line 11: fewer than three numbers"),
        (VERTICES + "f 1 2 x\n", 'line 9: "x": it is no number'),
        (VERTICES + "f 1 2 \\\n\\\n3\nf 1 2 3.5\n", 'line 12: "3.5": it is no number'),
    ],
)
def test_an_error_names_the_line_of_an_obj(content: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^mesh: {message}"):
        read_scene(content.encode())


def test_normals_of_an_obj_make_a_cube_flat() -> None:
    normals = "vn -1 0 0\nvn 1 0 0\nvn 0 -2 0\nvn 0 1 0\nvn 0 0 -1\nvn 0 0 1\n"
    faces = "".join(
        f"f {' '.join(f'{corner + 1}//{at + 1}' for corner in quad)}\n"
        for at, quad in enumerate(QUADS.tolist())
    )
    part = read(VERTICES + normals + faces)
    assert len(part.positions) == 24
    assert part.normals is not None
    a, b, c = (part.positions[part.faces[:, k]] for k in range(3))
    for k in range(3):
        expected = np.cross(b - a, c - a)
        np.testing.assert_allclose(part.normals[part.faces[:, k]], expected, atol=1e-6)
    assert len(to_model_frame(read_scene((VERTICES + normals + faces).encode())).vertices) == 8


def test_smoothing_groups_of_an_obj_count() -> None:
    flat = read_scene((VERTICES + "s off\n" + FACES).encode())
    assert not flat.is_smooth
    assert is_cube(flat.parts[0])
    assert read_scene((VERTICES + "s 1\n" + FACES).encode()).is_smooth
    lines = FACES.splitlines()
    mixed = read(VERTICES + "s 1\n" + "\n".join(lines[:3]) + "\ns 0\n" + "\n".join(lines[3:]))
    assert mixed.normals is not None
    flat_corners = mixed.faces[6:]
    a, b, c = (mixed.positions[flat_corners[:, k]] for k in range(3))
    np.testing.assert_allclose(mixed.normals[flat_corners[:, 0]], np.cross(b - a, c - a), atol=1e-6)
    smooth = np.abs(mixed.normals[mixed.faces[:6]]).max(axis=2)
    assert smooth.min() < 0.8


# ---- coordinates ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_coordinates_far_away_keep_their_digits(kind: str) -> None:
    ball, away = trimesh.creation.icosphere(2), np.array([500_000.0, 4_500_000.0, 120.0])
    points = ball.vertices + away
    if kind == "stl":
        ball.vertices = points
        content = as_bytes(ball, "stl_ascii")
    elif kind == "ply":
        rows = b"".join(b"\3" + face.astype("<i4").tobytes() for face in ball.faces)
        content = ply(len(points), len(ball.faces), points.astype("<f8").tobytes() + rows)
        content = content.replace(b"float", b"double")
    else:
        lines = [f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in points.tolist()]
        lines += [f"o half\nf {a} {b} {c}\n" for a, b, c in (ball.faces[:9] + 1).tolist()]
        lines += [f"f {a} {b} {c}\n" for a, b, c in (ball.faces[9:] + 1).tolist()]
        content = "".join(lines).encode()
    scene = read_scene(content)
    placed, _ = scene.merge()
    radius = np.linalg.norm(placed - away, axis=1)
    assert radius == pytest.approx(1, abs=2e-6 if kind != "stl" else 1e-3)
    for node in scene.nodes:
        assert np.float32(node["translation"]).tolist() == node["translation"]


def test_coordinates_nearby_stay_as_they_are() -> None:
    scene = read_scene((VERTICES.replace("1", "10.1") + FACES).encode())
    assert "translation" not in scene.nodes[0]
    assert scene.parts[0].positions.max() == np.float32(10.1)


# ---- PLY -----------------------------------------------------------------------------------

HEADER = (
    "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\n"
    "property float z\nelement face 6\nproperty list uchar int vertex_indices\nend_header\n"
)
POINTS = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in CORNER)
LISTS = "".join("4 {} {} {} {}\n".format(*quad) for quad in QUADS)


@pytest.mark.parametrize(
    "content",
    [
        HEADER.replace("end_header", "end_header ") + POINTS + LISTS,
        (HEADER + POINTS + LISTS).replace("\n", "\r"),
        "\ufeff" + HEADER + POINTS + LISTS,
        HEADER.replace("ply\n", "ply\n" + "comment of a scanner\n" * 4000) + POINTS + LISTS,
        HEADER + POINTS.replace("\n", " 5 6\n") + LISTS,
        HEADER + POINTS.replace("\n", "\n\n") + LISTS,
        HEADER.replace("property float z", "property list uchar int near\nproperty float z")
        + "".join(f"{x:g} {y:g} 2 7 8 {z:g}\n" for x, y, z in CORNER)
        + LISTS,
        HEADER.replace("vertex 8", "vertex 9") + POINTS + "nan 0 0\n" + LISTS,
    ],
    ids=[
        "a blank behind the header", "carriage returns", "byte order mark", "many comments",
        "more values", "empty lines", "lists in vertices", "an unused vertex",
    ],
)  # fmt: skip
def test_a_text_ply_of_a_cube_is_a_cube(content: str) -> None:
    assert is_cube(read(content))


def test_a_binary_ply_may_have_lists_in_vertices() -> None:
    header = HEADER.replace("ascii", "binary_little_endian")
    header = header.replace("property float z", "property list uchar uchar near\nproperty float z")
    for sizes in ([2] * 8, range(8)):
        rows = [
            struct.pack("<2fB", x, y, size) + bytes(size) + struct.pack("<f", z)
            for (x, y, z), size in zip(CORNER.tolist(), sizes, strict=True)
        ]
        lists = b"".join(struct.pack("<B4i", 4, *quad) for quad in QUADS.tolist())
        assert is_cube(read(header.encode() + b"".join(rows) + lists))


@pytest.mark.parametrize("form", ["ascii", "binary_big_endian"])
def test_strips_of_a_ply_are_triangles_with_one_side_outside(form: str) -> None:
    header = (
        f"ply\nformat {form} 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
        "property float z\nelement tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    ).encode()
    points, strip = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)], [0, 1, 2, 3, -1, 2, 1, 3, -1, 0]
    if form == "ascii":
        body = "".join("{} {} {}\n".format(*point) for point in points)
        body += f"{len(strip)} {' '.join(map(str, strip))}\n"
        content = header + body.encode()
    else:
        content = (
            header
            + struct.pack(">12f", *np.ravel(points))
            + struct.pack(f">i{len(strip)}i", len(strip), *strip)
        )
    assert read(content).faces.tolist() == [[0, 1, 2], [2, 1, 3], [2, 1, 3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + POINTS.replace("1 1 1", "1 1,5 1") + LISTS, 'line 17: "1,5": write a point'),
        (HEADER + POINTS.replace("1 0 0", "1 0") + LISTS, "line 14: fewer values than"),
        (HEADER + POINTS + LISTS[:-20], 'cut short in row 5 of 6 of the element "face"$'),
        (
            HEADER + POINTS + LISTS.replace("4 1 5", "4 1 9"),
            'in row 6 of the element "face" .*: there are 8, counted from 0$',
        ),
        (HEADER + POINTS + LISTS.replace("4 1 5", "4 1.5 5"), "line 23: 1.5 is an index or a"),
        (HEADER + POINTS.replace("1 1 1", "1 nan 1") + LISTS, 'row 8 of the element "vertex" .*'),
        (HEADER.replace("float y", "half y"), r'line 5: not a .*: "property half y": "half" is no'),
        (HEADER.replace("vertex 8", "vertex 8.0"), "line 3: .*: the number of rows is not valid"),
        (HEADER.replace("float z", "float"), 'line 6: .*: "property float": a word is missing'),
        (HEADER.replace("element vertex 8\n", ""), "line 3: .*: no element is before it"),
        (HEADER.replace("ascii", "utf8"), 'a known format, but "utf8"; known are ascii, '),
        (HEADER.replace("format ascii 1.0\n", ""), "a known format, but none"),
        (HEADER.replace("element face", "element vertex"), 'declares the element "vertex" twice'),
        (HEADER.replace("face 6", "face 60") + POINTS, '60 rows of the element "face", with'),
    ],
)
def test_an_error_names_the_line_of_a_ply(content: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^mesh: .*{message}"):
        read_scene(content.encode())


# ---- STL -----------------------------------------------------------------------------------

ROWS = b"".join(
    bytes(12) + CORNER[face].astype("<f4").tobytes() + bytes(2) for face in TRIANGLES.tolist()
)
TEXT = (
    "solid cube\n"
    + "".join(
        "facet normal 0 0 1\nouter loop\n"
        + "".join(f"vertex {x:g} {y:g} {z:g}\n" for x, y, z in CORNER[face])
        + "endloop\nendfacet\n"
        for face in TRIANGLES.tolist()
    )
    + "endsolid cube\n"
)


def stl(count: int, head: bytes = b"", behind: bytes = b"") -> bytes:
    return head.ljust(80, b"\0") + struct.pack("<I", count) + ROWS + behind


@pytest.mark.parametrize(
    "content",
    [
        stl(0),
        stl(2**32 - 1),
        stl(99),
        stl(12, behind=b"\0\0"),
        stl(12, behind=bytes(512)),
        stl(12, b"solid x", b"\0\0"),
        stl(12, b"solid facet", b"\n"),
        TEXT.upper(),
        TEXT.replace("solid", "Solid", 1),
        TEXT.replace("\n", "\r"),
        TEXT.replace("cube", "x" * 5000, 1),
        " ".join(TEXT.split()),
        "\ufeff" + TEXT,
        TEXT.replace("outer loop\n", "outer loop "),
        TEXT.replace("normal 0 0 1", "normal nan nan nan"),
        TEXT.replace("vertex 1", "vertex 1.0e+00"),
        TEXT + TEXT.replace("cube", ""),
        TEXT.replace("endsolid cube", "endsolid"),
        TEXT.replace("loop\n", "loop " + "s" * 2000 + "\n", 1),
        TEXT.replace("endloop", "endlupe"),
    ],
    ids=[
        "count 0", "count -1", "a wrong count", "two bytes behind", "padded", "named solid",
        "named facet", "capitals", "Solid", "carriage returns", "a long name", "one line",
        "byte order mark", "vertex behind loop", "no normals", "exponents", "two solids",
        "no name at the end", "many letters of endsolid", "a misspelled word",
    ],
)  # fmt: skip
def test_an_stl_of_a_cube_is_a_cube(content: str | bytes) -> None:
    part = read(content)
    times = 2 if content == TEXT + TEXT.replace("cube", "") else 1
    assert len(part.faces) == 12 * times
    assert len(part.positions) == 8
    assert volume(part) == pytest.approx(times)


@pytest.mark.parametrize("end", [*range(len(TEXT) // 2, len(TEXT) // 2 + 90, 7), len(TEXT) - 15])
def test_a_text_stl_that_is_cut_short_is_refused(end: int) -> None:
    with pytest.raises(InputError, match=r"^mesh: .*(cut short|no number|vertices instead)"):
        read_scene(TEXT[:end].encode())


def test_a_binary_stl_that_is_cut_inside_a_face_is_refused() -> None:
    with pytest.raises(InputError, match="cut short: it declares 12 faces and has 11"):
        read_scene(stl(12)[:-7])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.replace("vertex 1 1 1", "vertex 1 1,0 1"), 'line [0-9]+: "1,0": write a point'),
        (TEXT.replace("vertex 0 0 0\n", "", 1), "line 7: a facet of 2 vertices"),
        (
            TEXT.replace("vertex 0 0 0\n", "vertex 0 0 0 vertex 1 2 3\n", 1),
            "line 8: a facet of 4 vertices",
        ),
    ],
)
def test_an_error_names_the_line_of_an_stl(content: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^mesh: {message}"):
        read_scene(content.encode())


def test_other_binary_files_are_no_stl() -> None:
    random = np.random.default_rng(0).bytes(5000)
    for content in (random, b"\x89PNG\r\n\x1a\n" + random, bytes(5000), CORNERS * 100):
        with pytest.raises(InputError, match="not a GLB, glTF, OBJ, PLY or STL file"):
            read_scene(content)
