"""Texture coordinates of the corners of a PLY's faces, as MeshLab writes them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import read_scene

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes import Part

#: A roof of two triangles that meet in a seam.
POINTS = ((0, 0, 0), (1, 0, 1), (1, 1, 1), (2, 0, 0))
FACES = ((0, 1, 2), (1, 3, 2))
UV = ((0, 0, 0.25, 0, 0.25, 1), (0.5, 0.125, 1, 1, 0.75, 0))
#: As glTF has them: v from the top.
EXPECTED = [[[0, 1], [0.25, 1], [0.25, 0]], [[0.5, 0.875], [1, 0], [0.75, 1]]]


def ply(
    uv: object = UV, *, encoding: str = "ascii", normals: str = "", faces: object = FACES
) -> bytes:
    """Return a PLY with these numbers for the corners of each face."""
    lines = [f"ply\nformat {encoding} 1.0\nelement vertex {len(POINTS)}"]
    lines += [f"property float {name}" for name in f"x y z {normals}".split()]
    lines += [f"element face {len(FACES)}", "property list uchar int vertex_indices"]
    lines += ["property list uchar float texcoord", "property int texnumber", "end_header\n"]
    content = "\n".join(lines).encode()
    rows = [(*point, *(0, 0.6, 0.8)[: len(normals.split())]) for point in POINTS]
    lists = [*zip(faces, uv, strict=True)]  # pyright: ignore[reportArgumentType]
    if encoding == "ascii":
        text = [" ".join(map(str, row)) for row in rows]
        text += [
            " ".join(map(str, (len(face), *face, len(pair), *pair, 0))) for face, pair in lists
        ]
        return content + "\n".join(text).encode()
    order = "<" if encoding == "binary_little_endian" else ">"
    content += np.array(rows, f"{order}f4").tobytes()
    for face, pair in lists:
        content += struct.pack(f"{order}B{len(face)}i", len(face), *face)
        content += struct.pack(f"{order}B{len(pair)}fi", len(pair), *pair, 0)
    return content


def read(content: bytes, *, with_uv: bool = True) -> Part:
    (part,) = read_scene(content, with_uv=with_uv).parts
    return part


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_the_coordinates_of_corners_are_read_if_they_are_kept(encoding: str) -> None:
    part = read(ply(encoding=encoding))
    assert part.uv is not None
    assert part.uv[part.faces].tolist() == EXPECTED
    assert part.positions[part.faces].tolist() == np.array(POINTS)[np.array(FACES)].tolist()
    assert len(part.positions) == 6
    plain = read(ply(encoding=encoding), with_uv=False)
    assert plain.uv is None
    assert len(plain.positions) == 4


def test_corners_with_the_same_coordinates_share_a_vertex() -> None:
    part = read(ply(((0, 0, 0.25, 0, 0.25, 1), (0.25, 0, 1, 1, 0.25, 1))))
    assert len(part.positions) == 4


def test_normals_are_those_of_the_surface_across_seams() -> None:
    for content in (ply(), ply(normals="nx ny nz")):
        part = read(content)
        assert part.normals is not None
        for point in (1, 2):
            same = part.normals[(part.positions == POINTS[point]).all(axis=1)]
            assert len(same) == 2
            assert np.ptp(same, axis=0).max() == 0
    assert part.normals == pytest.approx(np.tile([0, 0.6, 0.8], (6, 1)))


def test_polygons_keep_the_coordinates_of_their_corners() -> None:
    faces = ((0, 1, 3, 2), (1, 2, 0))
    uv = ((0, 0, 0.5, 0, 1, 0.5, 0.5, 1), (0.5, 0, 0.5, 1, 0, 0))
    for encoding in ("ascii", "binary_little_endian"):
        part = read(ply(uv, encoding=encoding, faces=faces))
        assert part.uv is not None
        found = {
            (*point, u, 1 - v)
            for point, (u, v) in zip(part.positions.tolist(), part.uv.tolist(), strict=True)
        }
        expected = {
            (*POINTS[corner], *pair[2 * at : 2 * at + 2])
            for face, pair in zip(faces, uv, strict=True)
            for at, corner in enumerate(face)
        }
        assert found == expected


def test_a_face_without_coordinates_leaves_none_to_keep() -> None:
    assert read(ply((UV[0], ()))).uv is None
    assert read(ply(((), ()))).uv is None
    assert len(read(ply(((), ()))).positions) == 4


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_a_wrong_number_of_coordinates_names_the_face(encoding: str) -> None:
    match = (
        r'^mesh: in row 2 of the element "face" of the PLY file, texcoord has 5 numbers, '
        "not two for each of 3 corners$"
    )
    content = ply((UV[0], UV[1][:5]), encoding=encoding)
    with pytest.raises(InputError, match=match):
        read(content)
    assert len(read(content, with_uv=False).faces) == 2
