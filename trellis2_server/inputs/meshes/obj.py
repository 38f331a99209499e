"""Read OBJ files: positions, normals, faces and object names; no materials.

Wavefront, "Advanced Visualizer Manual", appendix B1.

    v x y z …                 a vertex; what follows is a weight or a colour
    vn x y z                  a normal
    f a b c …                 a face; a corner is `vertex`, `vertex/texture` or
                              `vertex/texture/normal`, from 1, or from -1 for the last so far
    s off, s 0, s 1 …         the faces that follow are flat, or smooth within their group
    o name                    an object
    # …                       a comment; a backslash at its end does not continue it

Other lines are left out. A backslash at the end of a line of numbers continues it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.inputs.meshes.metadata import MetadataFilter
from trellis2_server.inputs.meshes.numbers import corners, decimals, find_words
from trellis2_server.inputs.meshes.obj_lines import join_lines, line_of_large_index
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import (
    Part,
    Scene,
    check_corners,
    check_size,
    far_offset,
    make_node,
    make_part,
)
from trellis2_server.inputs.meshes.shading import FLAT, UNSAID, Polygons, shade
from trellis2_server.inputs.meshes.text import (
    blank_comments,
    check_line,
    first_words,
    line_blocks,
    line_error,
    line_starts,
    number_error,
    plain_text,
    read_number,
    words_in_lines,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Read of an object's name, bytes and characters.
_NAME_BYTES: Final = 4096
_NAME_LENGTH: Final = 256
#: Without one of these, it is no text.
_VERTEX: Final = re.compile(rb"(?:^|[\r\n]|\xef\xbb\xbf)[ \t]*v[ \t]")
#: Bytes in which binary files have a NUL.
_BINARY_BYTES: Final = 65_536
_AXES: Final = 3
_SPACE: Final = ord(" ")
_V, _N, _F, _O, _S = b"vnfos"
_LARGEST_INDEX: Final = 2**31 - 1
_NO_INDEX: Final = 2**40
_NO_VERTEX: Final = "a face refers to a vertex that does not exist"


def is_obj(content: bytes) -> bool:
    """Whether the file is text with a vertex line, and not JSON."""
    start = content[:_BINARY_BYTES]
    if start.lstrip()[:1] == b"{" or b"\0" in start:
        return False
    return bool(_VERTEX.search(content))


def read_obj(content: bytes) -> Scene:
    """Read an OBJ. Each object (`o`) becomes a node with one part."""
    return _Reader(plain_text(content)).read()


def _bounded(word: bytes) -> int:
    """Return an index; one that no file can have is made smaller, so that it fits int64."""
    return max(min(int(word), _NO_INDEX), -_NO_INDEX)


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """Lines of one kind in a block, without their first word and without comments.

    Attributes:
        text: uint8 [B], of these lines only.
        starts: int64 [L], in the text.
        offsets: int64 [L], in the file.
        rows: int64 [L], which lines of the block they are.
    """

    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    def words(self, line: int) -> list[bytes]:
        """Return the words of a line."""
        end = self.starts[line + 1] if line + 1 < len(self.starts) else len(self.text)
        return self.text[self.starts[line] : end].tobytes().split()


class _Reader:
    """Reads a file block by block.

    Args:
        content: plain text.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._points = [np.empty((0, _AXES))]
        self._directions = [np.empty((0, _AXES))]
        self._corners = [np.empty(0, np.int32)]
        self._normals: list[NDArray[np.int32] | int] = []  # or a number of corners without
        self._sizes = [np.empty(0, np.int32)]
        self._smoothing = [np.empty(0, np.int32)]
        self._smoothing_now = UNSAID
        self._largest: list[tuple[int, int]] = []  # index of a block, and where its faces begin
        self._vertices = self._direction_count = self._faces = self._polygons = 0
        self._groups: list[tuple[str | None, int]] = [(None, 0)]  # with their first polygon

    def read(self) -> Scene:
        """Read all blocks."""
        # Joined lines have the same size: places in one text are those in the other.
        for offset, block in line_blocks(np.frombuffer(join_lines(self._content), np.uint8)):
            self._read_block(offset, block)
        return self._scene()

    def _read_block(self, offset: int, block: NDArray[np.uint8]) -> None:
        starts = line_starts(block)
        first, last = starts, len(block) - 1
        letters = block[first]
        if (letters <= _SPACE).any():
            first = first_words(block, starts)
            letters = block[first]
        second = block[np.minimum(first + 1, last)]
        is_one_letter = second <= _SPACE
        is_vertex = (letters == _V) & is_one_letter
        is_direction = (
            (letters == _V) & (second == _N) & (block[np.minimum(first + 2, last)] <= _SPACE)
        )

        def take(is_wanted: NDArray[np.bool_], keyword_length: int = 1) -> _Lines | None:
            return self._take(offset, block, starts, first, is_wanted, keyword_length)

        vertices_before = directions_before = np.zeros(len(starts), np.int64)
        if (lines := take(is_vertex)) is not None:
            vertices_before = np.cumsum(is_vertex)
            self._points.append(self._vectors(lines))
        if (lines := take(is_direction, 2)) is not None:
            directions_before = np.cumsum(is_direction)
            self._directions.append(self._vectors(lines))
        smoothing = self._read_smoothing(take((letters == _S) & is_one_letter), len(starts))
        polygons_before = np.zeros(len(starts) + 1, np.int64)
        if (lines := take((letters == _F) & is_one_letter)) is not None:
            is_kept = self._read_faces(
                lines,
                self._vertices + vertices_before[lines.rows],
                self._direction_count + directions_before[lines.rows],
            )
            rows = lines.rows[is_kept]
            self._smoothing.append(smoothing[rows].astype(np.int32))
            np.cumsum(np.bincount(rows, minlength=len(starts)), out=polygons_before[1:])
        for row in np.flatnonzero((letters == _O) & is_one_letter).tolist():
            start = offset + int(first[row]) + 1
            line = self._content[start : start + _NAME_BYTES].partition(b"\n")[0]
            name = line.decode("utf-8", "replace").strip()[:_NAME_LENGTH]
            self._groups.append((name, self._polygons + int(polygons_before[row])))
            check_size(0, 0, len(self._groups))
        self._polygons += int(polygons_before[-1])
        self._vertices += int(is_vertex.sum())
        self._direction_count += int(is_direction.sum())
        check_size(self._vertices, self._faces)
        check_size(self._direction_count, 0)

    def _take(  # noqa: PLR0913, PLR0917 - a block is three arrays
        self,
        offset: int,
        block: NDArray[np.uint8],
        starts: NDArray[np.int64],
        first: NDArray[np.int64],
        is_wanted: NDArray[np.bool_],
        keyword_length: int,
    ) -> _Lines | None:
        """Return the wanted lines of a block, or None if there are none."""
        rows = np.flatnonzero(is_wanted)
        if not len(rows):
            return None
        lengths = np.diff(np.append(starts, len(block)))
        longest = rows[lengths[rows].argmax()]
        check_line(self._content, offset + int(starts[longest]), int(lengths[longest]))
        heads = first[rows]
        if len(rows) == len(starts):
            text, begin = block.copy(), starts
        else:
            text = block[np.repeat(is_wanted, lengths)]
            begin = np.cumsum(lengths[rows]) - lengths[rows]
            heads = heads - starts[rows] + begin
        for shift in range(keyword_length):
            text[heads + shift] = _SPACE
        blank_comments(text)
        return _Lines(text, begin, offset + starts[rows], rows)

    def _vectors(self, lines: _Lines) -> NDArray[np.float64]:
        """Return the first three numbers of each line, float64 [L, 3]."""
        words = find_words(lines.text)
        counts = words_in_lines(words, lines.starts)
        if counts.min() < _AXES:
            offset = int(lines.offsets[counts.argmin()])
            raise line_error(self._content, offset, "fewer than three numbers")
        values = decimals(words)
        if values is None:
            return np.array([self._vector(lines, line) for line in range(len(counts))])
        if (counts == counts[0]).all():
            return values.reshape(len(counts), -1)[:, :_AXES]
        return values[np.searchsorted(words.starts, lines.starts)[:, None] + np.arange(_AXES)]

    def _vector(self, lines: _Lines, line: int) -> list[float]:
        """Return the first three numbers of a line, which may be NaN or infinite."""
        values: list[float] = []
        for word in lines.words(line)[:_AXES]:
            try:
                values.append(read_number(word))
            except ValueError:  # noqa: PERF203 - says which
                raise number_error(self._content, int(lines.offsets[line]), word) from None
        return values

    def _read_smoothing(self, lines: _Lines | None, count: int) -> NDArray[np.int64]:
        """Return the smoothing group at each line of a block.

        Args:
            lines: `s` lines of the block.
            count: number of all lines.
        """
        before = self._smoothing_now
        if lines is None:
            return np.full(count, before)
        values = [before]
        for line in range(len(lines.rows)):
            word = (*lines.words(line), b"")[0]
            if word == b"off":
                values.append(FLAT)
            elif word.isdigit() and len(word) < 10:  # noqa: PLR2004 - fits into int32
                values.append(int(word))
            else:
                values.append(values[-1])
        self._smoothing_now = values[-1]
        is_change = np.zeros(count, np.int64)
        is_change[lines.rows] = 1
        return np.array(values)[np.cumsum(is_change)]

    def _read_faces(
        self, lines: _Lines, vertices: NDArray[np.int64], directions: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Read faces; return which lines have one, of at least three corners.

        Args:
            lines: `f` lines.
            vertices: int64 [L], number of vertices before each line.
            directions: of normals, likewise.
        """
        words = find_words(lines.text)
        sizes = words_in_lines(words, lines.starts)
        check_corners(int(sizes.max()))
        is_kept = sizes > 2  # noqa: PLR2004 - fewer have no triangle
        self._faces += int((sizes[is_kept] - 2).sum())
        check_size(0, self._faces)
        found = corners(words) if len(words.starts) else None
        index, normal = (
            self._corners_one_by_one(lines) if found is None else (found.vertices, found.normals)
        )
        line = np.repeat(np.arange(len(sizes)), sizes)
        index = np.where(index < 0, index + vertices[line], index - 1)
        if normal is not None:
            normal = np.where(normal < 0, normal + directions[line], normal - 1)
            normal[(normal < 0) | (normal > _LARGEST_INDEX)] = -1
        is_bad = (index < 0) | (index > _LARGEST_INDEX)
        if is_bad.any():
            self._refuse_corner(lines, int(is_bad.argmax()), line)
        if not is_kept.all():
            index = index[is_kept[line]]
            normal = None if normal is None else normal[is_kept[line]]
        self._largest.append((int(index.max(initial=-1)), int(lines.offsets[0])))
        self._corners.append(index.astype(np.int32))
        self._normals.append(len(index) if normal is None else normal.astype(np.int32))
        self._sizes.append(sizes[is_kept].astype(np.int32))
        return is_kept

    def _corners_one_by_one(
        self, lines: _Lines
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Read corners of which one is not as usual."""
        index: list[int] = []
        normals: list[int] = []
        for line in range(len(lines.starts)):
            for word in lines.words(line):
                fields = word.split(b"/")
                try:
                    index.append(_bounded(fields[0]))
                    normals.append(_bounded((*fields, b"", b"")[2] or b"0"))
                except ValueError:
                    raise number_error(self._content, int(lines.offsets[line]), word) from None
        return np.array(index, np.int64), np.array(normals, np.int64)

    def _refuse_corner(self, lines: _Lines, corner: int, line_of: NDArray[np.int64]) -> None:
        line = int(line_of[corner])
        word = lines.words(line)[corner - int(np.searchsorted(line_of, line))]
        text = _NO_VERTEX
        if int(word.split(b"/")[0]) == 0:
            text = "a face has index 0; OBJ counts vertices from 1"
        raise line_error(self._content, int(lines.offsets[line]), text)

    def _scene(self) -> Scene:
        """Make a part of each object that has faces."""
        positions = np.concatenate(self._points)
        polygons = Polygons(
            np.concatenate(self._corners),
            np.concatenate(self._sizes),
            self._all_normals(),
            self._all_smoothing(),
        )
        for largest, start in self._largest:
            if largest >= len(positions):
                place = line_of_large_index(self._content, start, len(positions))
                raise line_error(self._content, place, _NO_VERTEX)
        is_smooth, normals = not polygons.are_flat, None
        index = polygons.corners
        if len(index) and not polygons.are_flat and not polygons.are_smooth:
            shaded = shade(polygons, positions, np.concatenate(self._directions))
            check_size(len(shaded.source), 0)
            positions, normals, index = positions[shaded.source], shaded.normals, shaded.corners
        triangles = triangulate(index, polygons.sizes, positions)
        return _split(
            self._groups, positions, normals, triangles, polygons.sizes, is_smooth=is_smooth
        )

    def _all_normals(self) -> NDArray[np.int32] | None:
        if all(isinstance(each, int) for each in self._normals):
            return None
        return np.concatenate(
            [
                np.full(each, -1, np.int32) if isinstance(each, int) else each
                for each in self._normals
            ]
        )

    def _all_smoothing(self) -> NDArray[np.int32] | None:
        groups = np.concatenate(self._smoothing)
        return groups if (groups != UNSAID).any() else None


def _split(  # noqa: PLR0913 - arrays of one mesh
    groups: list[tuple[str | None, int]],
    positions: NDArray[np.float64],
    normals: NDArray[np.float32] | None,
    triangles: NDArray[np.int64],
    sizes: NDArray[np.int32],
    *,
    is_smooth: bool,
) -> Scene:
    """Make a scene of the triangles, with a node for each object that has some.

    Args:
        groups: names of objects, and the number of polygons before them.
        positions: float64 [N, 3].
        normals: of the vertices.
        triangles: of all polygons.
        sizes: numbers of corners of the polygons.
        is_smooth: whether vertices without normals are smooth.
    """
    offset = far_offset(positions, triangles)
    before = np.concatenate([[0], np.cumsum(sizes.astype(np.int64) - 2)])
    first = before[[polygon for _, polygon in groups]].tolist()
    metadata = MetadataFilter()
    parts: list[Part] = []
    names: list[str | None] = []
    ends = [*first[1:], len(triangles)]
    for (name, _), start, end in zip(groups, first, ends, strict=True):
        if start == end:
            continue
        faces, rows = triangles[start:end], slice(None)
        if len(faces) < len(triangles):
            rows, inverse = np.unique(faces, return_inverse=True)
            faces = inverse.reshape(-1, 3)
        own = None if normals is None else normals[rows]
        part = make_part(positions[rows], faces, len(parts), offset, own)
        if len(part.faces):
            parts.append(part)
            names.append(metadata.name(name))
    nodes = [make_node(at, name, offset) for at, name in enumerate(names)]
    return Scene(tuple(parts), tuple(nodes), tuple(range(len(nodes))), tuple(names), is_smooth)
