"""Binary PLY files that end anywhere: the error names the row where it is."""

from __future__ import annotations

import re
import struct

import pytest

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import read_scene

POINTS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
HEADER = """ply
format binary_{order}_endian 1.0
element vertex 4
property double x
property float y
property short z
element note {notes}
property uchar kind
property list ushort double values
property int number
element face {faces}
property short flags
property list uchar ushort vertex_indices
property float weight
property list int uchar texcoord
end_header
"""


def file_and_rows(
    order: str, notes: list[list[float]], faces: list[list[int]]
) -> tuple[bytes, list[tuple[str, int, int, int]]]:
    """Return a file and of each row its element, number from 1, count and end in bytes."""
    sign = "<" if order == "little" else ">"
    content = HEADER.format(order=order, notes=len(notes), faces=len(faces)).encode()
    rows: list[tuple[str, int, int, int]] = []

    def add(element: str, number: int, count: int, form: str, *values: float) -> None:
        nonlocal content
        content += struct.pack(sign + form, *values)
        rows.append((element, number + 1, count, len(content)))

    for number, point in enumerate(POINTS):
        add("vertex", number, len(POINTS), "dfh", *point)
    for number, values in enumerate(notes):
        form = f"BH{len(values)}di"
        add("note", number, len(notes), form, 7, len(values), *values, 9)
    for number, face in enumerate(faces):
        form = f"hB{len(face)}Hfi{number % 2}B"
        more = [200] * (number % 2)
        add("face", number, len(faces), form, 5, len(face), *face, 0.5, len(more), *more)
    return content, rows


UNIFORM = ([[0.5], [1.5]], [[0, 1, 2]])
RAGGED = ([[0.5, 2.5], [], [1.5]], [[0, 1, 2], [0, 1, 2, 3], [3, 2, 1]])


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("notes", "faces"), [UNIFORM, RAGGED], ids=["uniform", "ragged"])
def test_wherever_a_file_ends_the_error_names_the_row(
    order: str, notes: list[list[float]], faces: list[list[int]]
) -> None:
    content, rows = file_and_rows(order, notes, faces)
    start = content.index(b"end_header\n") + 11
    # The header alone says that these bytes are not enough.
    least = max(14 * len(POINTS), 7 * len(notes), 11 * len(faces)) - 1
    for size in range(start, start + least):
        with pytest.raises(InputError, match=f"it contains: .* with {size - start} bytes behind"):
            read_scene(content[:size])
    for size in range(start + least, len(content)):
        element, row, count, _ = next(each for each in rows if each[3] > size)
        text = f'cut short in row {row} of {count} of the element "{element}", at byte {size}'
        with pytest.raises(InputError, match=re.escape(text) + "$"):
            read_scene(content[:size])
    for more in (b"", b"\n", bytes(100)):
        (part,) = read_scene(content + more).parts
        assert len(part.faces) == sum(len(face) - 2 for face in faces)
        assert sorted(part.positions.tolist()) == sorted(
            map(list, POINTS if faces is RAGGED[1] else POINTS[:3])
        )
