"""Normals and texture coordinates of the vertices of PLY files."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trellis2_server.inputs.meshes import read_scene

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes import Part

#: A ridge of two triangles; the normals are leaned, as a file that smooths by hand has them.
ROWS = (
    (0, 0, 0, 0, 0, 2, 0, 0),
    (1, 0, 1, 0, 0.6, 0.8, 0.25, 1),
    (1, 1, 1, 0, -0.6, 0.8, 0.5, 0.125),
    (2, 0, 0, 0.6, 0, 0.8, 1, 1),
)
FACES = ((0, 1, 2), (1, 3, 2))
UP = [[0, 0, 1], [0, 0.6, 0.8], [0, -0.6, 0.8], [0.6, 0, 0.8]]


def ply(names: str, rows: object = ROWS, *, encoding: str = "ascii") -> bytes:
    """Return a PLY whose vertices have these properties, in this order.

    Args:
        names: `x`, `y`, `z`, then any.
        rows: of numbers, as many as there are names.
        encoding: as PLY names it.
    """
    table = np.array(rows, float)[:, : len(names.split())]
    lines = ["ply", f"format {encoding} 1.0", f"element vertex {len(table)}"]
    lines += [f"property float {name}" for name in names.split()]
    lines += [
        f"element face {len(FACES)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    content = "\n".join(lines).encode()
    if encoding == "ascii":
        text = [" ".join(map(repr, row)) for row in table.tolist()]
        text += [f"3 {a} {b} {c}" for a, b, c in FACES]
        return content + "\n".join(text).encode()
    order = "<" if encoding == "binary_little_endian" else ">"
    content += table.astype(f"{order}f4").tobytes()
    return content + b"".join(struct.pack(f"{order}B3i", 3, *face) for face in FACES)


def read(content: bytes, *, with_uv: bool = False) -> Part:
    (part,) = read_scene(content, with_uv=with_uv).parts
    return part


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_the_normals_of_vertices_are_kept(encoding: str) -> None:
    part = read(ply("x y z nx ny nz u v", encoding=encoding))
    assert part.normals is not None
    assert part.normals == pytest.approx(np.array(UP))
    assert part.uv is None
    assert part.faces.tolist() == [list(face) for face in FACES]


def test_normals_may_stand_anywhere_in_a_row() -> None:
    rows = np.array(ROWS)[:, [5, 0, 6, 1, 2, 3, 4]]
    names = ["nz", "x", "quality", "y", "z", "nx", "ny"]
    part = read(ply(" ".join(names), rows))
    assert part.positions.tolist() == np.array(ROWS)[:, :3].tolist()
    assert part.normals == pytest.approx(np.array(UP))


def test_normals_without_a_length_are_computed() -> None:
    rows = np.array(ROWS)
    rows[3, 3:6] = 0
    rows[0, 3:6] = np.nan
    part = read(ply("x y z nx ny nz", rows))
    assert part.normals is not None
    assert part.normals[part.positions[:, 0] == 1] == pytest.approx(np.array(UP[1:3]))
    corners = part.positions[part.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert part.normals[part.faces[0, 0]] == pytest.approx(flat[0])
    assert part.normals[part.faces[1, 1]] == pytest.approx(flat[1])


def test_normals_that_are_all_zero_are_none() -> None:
    rows = np.array(ROWS)
    rows[:, 3:6] = 0
    scene = read_scene(ply("x y z nx ny nz", rows))
    assert scene.parts[0].normals is None
    assert scene.is_smooth
    assert read(ply("x y z nx ny other")).normals is None


@pytest.mark.parametrize("names", ["s t", "u v", "texture_u texture_v"])
@pytest.mark.parametrize("encoding", ["ascii", "binary_big_endian"])
def test_texture_coordinates_of_vertices_are_read_if_they_are_kept(
    names: str, encoding: str
) -> None:
    content = ply(f"x y z nx ny nz {names}", encoding=encoding)
    part = read(content, with_uv=True)
    assert part.uv is not None
    assert part.uv.tolist() == [[0, 1], [0.25, 0], [0.5, 0.875], [1, 0]]
    assert part.normals == pytest.approx(np.array(UP))
    rows = np.array(ROWS)[:, [0, 1, 2, 6, 7]]
    alone = read(ply(f"x y z {names}", rows, encoding=encoding), with_uv=True)
    assert np.array_equal(part.uv, alone.uv if alone.uv is not None else [])
    assert alone.normals is None


def test_a_ply_without_texture_coordinates_has_none_to_keep() -> None:
    assert read(ply("x y z nx ny nz s"), with_uv=True).uv is None
