"""Read STL files, binary and text.

3D Systems, "StereoLithography Interface Specification" (1989).

Binary: many programs leave the number of faces at 0 or all ones, or write something behind the
faces. Text: words, in small or capital letters, with any space and line ends between them.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.numbers import Words, are_words, decimals, find_words
from trellis2_server.inputs.meshes.scene import (
    Scene,
    Vertices,
    check_size,
    far_offset,
    make_node,
    make_part,
)
from trellis2_server.inputs.meshes.text import (
    BLOCK_BYTES,
    line_error,
    number_error,
    plain_text,
    read_number,
)
from trellis2_server.inputs.meshes.welding import weld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_HEADER_BYTES: Final = 84
_FACE: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")])
#: Counts of programs that write the faces before they know their number.
_UNKNOWN_COUNTS: Final = {0, 2**32 - 1}
#: Faces looked at to tell an STL of another size from other files, and sizes that coordinates have.
_SAMPLE: Final = 64
_SMALLEST, _LARGEST = 1e-12, 1e12
#: Where the binary kind has a NUL.
_BINARY_BYTES: Final = 4096

_SOLID: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*solid(?:\s|$)", re.IGNORECASE)
_FIRST_FACET: Final = re.compile(rb"(?<!\S)facet\s+normal(?!\S)")
_END: Final = b"endsolid"
#: A letter of it, what is before that, and how often that is looked for, as in comments.
_END_LETTER: Final = b"s"
_BEFORE_LETTER: Final = _END.index(_END_LETTER)
_MAX_LETTERS: Final = 1000
_FACET_END: Final = b"endfacet"
#: The words of a facet; empty for a number.
_FACET: Final = (
    b"facet", b"normal", b"", b"", b"", b"outer", b"loop", b"vertex", b"", b"", b"",
    b"vertex", b"", b"", b"", b"vertex", b"", b"", b"", b"endloop", b"endfacet",
)  # fmt: skip
_KEYWORDS: Final = [at for at, keyword in enumerate(_FACET) if keyword]
#: Where its numbers are, those of the normal, and those of the corners.
_NUMBERS: Final = np.array([at for at, keyword in enumerate(_FACET) if not keyword])
_NORMAL, _CORNERS = _NUMBERS[:3], _NUMBERS[3:]
_AXES: Final = 3
_SPACE, _CAPITAL_A = b" A"
#: Longest number of a normal, bytes.
_NORMAL_BYTES: Final = 32


def is_binary_stl(content: bytes) -> bool:
    """Whether the file has exactly the size that a binary STL of its face count has."""
    if len(content) < _HEADER_BYTES:
        return False
    (count,) = struct.unpack_from("<I", content, 80)
    return _HEADER_BYTES + count * _FACE.itemsize == len(content)


def is_text_stl(content: bytes) -> bool:
    """Whether the file begins like a text STL."""
    return _SOLID.match(content[:1024]) is not None and b"\0" not in content[:_BINARY_BYTES]


def is_binary_stl_of_other_size(content: bytes) -> bool:
    """Whether the file looks like a binary STL by its first faces, but has another size."""
    rows = _rows(content)[:_SAMPLE]
    if not len(rows) or b"\0" not in content[:_BINARY_BYTES]:
        return False
    size = np.abs(rows["corners"])
    return bool(((size == 0) | ((size >= _SMALLEST) & (size <= _LARGEST))).all() and size.any())


def _rows(content: bytes) -> NDArray[Any]:
    """Return all faces for which the file has room."""
    count = max(len(content) - _HEADER_BYTES, 0) // _FACE.itemsize
    return np.frombuffer(content, _FACE, count, _HEADER_BYTES if count else 0)


def read_binary_stl(content: bytes) -> Scene:
    """Read a binary STL. What is behind the faces is left out."""
    rows = _rows(content)
    (count,) = struct.unpack_from("<I", content, 80)
    is_whole = (len(content) - _HEADER_BYTES) % _FACE.itemsize == 0
    if count > len(rows) and count not in _UNKNOWN_COUNTS and not is_whole:
        raise InputError(
            f"mesh: the STL file is cut short: it declares {count} faces and has {len(rows)}"
        )
    if count not in _UNKNOWN_COUNTS:
        rows = rows[:count]
    check_size(3 * len(rows), len(rows))
    return _scene(rows["corners"].reshape(-1, _AXES))


def read_text_stl(content: bytes) -> Scene:
    """Read a text STL. Several solids become one part."""
    content = _small_letters(plain_text(content))
    facets = [np.empty((0, _AXES))]
    count = 0
    for start, end in _blocks(content):
        corners = _regular_facets(content[start:end])
        if corners is None:
            corners = _any_facets(content, start, end)
        facets.append(corners)
        count += len(corners) // 3
        check_size(3 * count, count)
    return _scene(np.concatenate(facets))


def _small_letters(content: bytes) -> bytes:
    """Return text without capital letters; several times faster than `bytes.lower`."""
    text = np.frombuffer(content, np.uint8)
    changed: NDArray[np.uint8] | None = None
    for start in range(0, len(text), BLOCK_BYTES):
        block = text[start : start + BLOCK_BYTES]
        is_capital = (block - np.uint8(_CAPITAL_A)) < 26  # noqa: PLR2004 - wraps around
        if is_capital.any():
            changed = text.copy() if changed is None else changed
            changed[start : start + len(block)] += is_capital.view(np.uint8) << np.uint8(5)
    return content if changed is None else changed.tobytes()


def _blocks(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where blocks of whole facets begin and end.

    Raises:
        InputError: the last solid has no end.
    """
    solid = _SOLID.match(content)
    begin = solid.end() if solid is not None else 0
    while (first := _FIRST_FACET.search(content, begin)) is not None:
        start = first.start()
        found = _find_end(content, start)
        stop = len(content) if found < 0 else found
        while start < stop:
            end = stop
            if start + BLOCK_BYTES < stop:
                last = content.rfind(_FACET_END, start, start + BLOCK_BYTES)
                if last < 0:
                    last = content.find(_FACET_END, start, stop)
                end = last + len(_FACET_END) if last >= 0 else stop
            if content[start:end].strip():
                yield start, end
            start = end
        if found < 0:
            raise InputError("mesh: the STL file is cut short: it has no endsolid")
        begin = stop + 1


def _find_end(content: bytes, start: int) -> int:
    """Return where the first `endsolid` begins; -1 if there is none.

    Facets have no s: looking for that letter alone is ten times faster than for the word.
    """
    at = start
    for _ in range(_MAX_LETTERS):
        at = content.find(_END_LETTER, at + 1)
        if at < 0 or content.startswith(_END, at - _BEFORE_LETTER):
            return max(at - _BEFORE_LETTER, -1)
    return content.find(_END, at - _BEFORE_LETTER)


def _regular_facets(block: bytes) -> NDArray[np.float64] | None:
    """Return the corners of facets, float64 [3 F, 3]; None if one is not as usual.

    Normals may be any words.
    """
    text = np.frombuffer(block, np.uint8)
    words = find_words(text)
    count, rest = divmod(len(words.starts), len(_FACET))
    if rest or not count:
        return None
    starts, ends = words.starts.reshape(count, -1), words.ends.reshape(count, -1)
    keywords = Words(text, starts[:, _KEYWORDS].ravel(), ends[:, _KEYWORDS].ravel())
    if not are_words(keywords, [_FACET[place] for place in _KEYWORDS]):
        return None
    values = decimals(Words(text, starts[:, _NUMBERS].ravel(), ends[:, _NUMBERS].ravel()))
    if values is not None:
        return values.reshape(count, -1)[:, _AXES:].reshape(-1, _AXES)
    sizes = (ends - starts)[:, _NORMAL]
    if int(sizes.max()) > _NORMAL_BYTES:
        return None
    text = text.copy()
    for shift in range(int(sizes.max())):
        text[starts[:, _NORMAL][sizes > shift] + shift] = _SPACE
    values = decimals(Words(text, starts[:, _CORNERS].ravel(), ends[:, _CORNERS].ravel()))
    return None if values is None else values.reshape(-1, _AXES)


def _any_facets(content: bytes, start: int, end: int) -> NDArray[np.float64]:
    """Return the corners of facets, float64 [3 F, 3], word by word.

    Args:
        content: of the file.
        start: of a block of facets.
        end: of the block.
    """
    words = content[start:end].split()
    corners: list[float] = []
    before = at = 0
    is_open = False
    while at < len(words):
        word = words[at]
        at += 1
        if word == b"vertex":
            for _ in range(_AXES):
                if at == len(words):
                    raise InputError("mesh: the STL file is cut short")
                try:
                    corners.append(read_number(words[at]))
                except ValueError:
                    offset = _place(content, start, end, at)
                    raise number_error(content, offset, words[at]) from None
                at += 1
        elif word == b"facet":
            is_open = True
        elif word == _FACET_END:
            is_open = False
            if len(corners) - before != 3 * _AXES:
                text = f"a facet of {(len(corners) - before) // _AXES} vertices instead of three"
                raise line_error(content, _place(content, start, end, at - 1), text)
            before = len(corners)
    if is_open or len(corners) != before:
        raise InputError("mesh: the STL file is cut short")
    return np.array(corners).reshape(-1, _AXES)


def _place(content: bytes, start: int, end: int, word: int) -> int:
    """Return where a word of a block is in the file."""
    found = find_words(np.frombuffer(content[start:end], np.uint8))
    return start + int(found.starts[word])


def _scene(corners: NDArray[Any]) -> Scene:
    """Make a scene of corners [3 F, 3]; corners at the same position become one vertex."""
    corners = np.ascontiguousarray(corners)
    faces = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    offset = far_offset(corners, faces)
    if offset is not None:
        corners = corners - offset
    welded = weld(corners.astype(np.float32), faces)
    part = make_part(Vertices(welded.vertices), welded.faces)
    if offset is not None:
        part.placement[:3, 3] = offset
    return Scene((part,), (make_node(0, None, offset),), (0,), (None,), is_smooth=False)
