"""Read OBJ files: positions, normals, texture coordinates, faces, object names; no materials.

Wavefront, "Advanced Visualizer Manual", appendix B1.

    v x y z …                 a vertex; what follows is a weight or a colour
    vt u v …                  texture coordinates, v upwards; read only if they are asked for
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
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.inputs.meshes.metadata import MetadataFilter
from trellis2_server.inputs.meshes.numbers import corners, find_words
from trellis2_server.inputs.meshes.obj_blocks import Block, Lines, read_vectors
from trellis2_server.inputs.meshes.obj_lines import join_lines, line_of_large_index
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import (
    Part,
    Scene,
    Vertices,
    check_corners,
    check_size,
    far_offset,
    make_node,
    make_part,
)
from trellis2_server.inputs.meshes.seams import Seams, cut_seams, to_gltf
from trellis2_server.inputs.meshes.shading import FLAT, UNSAID, Polygons, shade
from trellis2_server.inputs.meshes.text import (
    line_blocks,
    line_error,
    number_error,
    plain_text,
    words_in_lines,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.numbers import Words

#: Read of an object's name, bytes and characters.
_NAME_BYTES: Final = 4096
_NAME_LENGTH: Final = 256
#: Without one of these, it is no text.
_VERTEX: Final = re.compile(rb"(?:^|[\r\n]|\xef\xbb\xbf)[ \t]*v[ \t]")
#: Bytes in which binary files have a NUL.
_BINARY_BYTES: Final = 65_536
_LARGEST_INDEX: Final = 2**31 - 1
_NO_INDEX: Final = 2**40
#: Of vectors, by their keyword: how many numbers are read, and how many a line must have.
_SIZES: Final[dict[bytes, tuple[int, int]]] = {b"v": (3, 3), b"vn": (3, 3), b"vt": (2, 1)}
#: Where a corner has the index of such a vector.
_FIELDS: Final[dict[bytes, int]] = {b"v": 0, b"vt": 1, b"vn": 2}
_NAMES: Final[dict[bytes, str]] = {b"v": "a vertex", b"vt": "texture coordinates"}


def is_obj(content: bytes) -> bool:
    """Whether the file is text with a vertex line, and not JSON."""
    start = content[:_BINARY_BYTES]
    if start.lstrip()[:1] == b"{" or b"\0" in start:
        return False
    return bool(_VERTEX.search(content))


def read_obj(content: bytes, *, with_uv: bool = False) -> Scene:
    """Read an OBJ. Each object (`o`) becomes a node with one part.

    Args:
        content: of the file.
        with_uv: whether texture coordinates are read. Vertices are then repeated along seams.
    """
    return _Reader(plain_text(content), with_uv=with_uv).read()


def _bounded(word: bytes) -> int:
    """Return an index; one that no file can have is made smaller, so that it fits int64."""
    return max(min(int(word), _NO_INDEX), -_NO_INDEX)


class _Reader:
    """Reads a file block by block.

    Args:
        content: plain text.
        with_uv: whether texture coordinates are read.
    """

    def __init__(self, content: bytes, *, with_uv: bool) -> None:
        self._content = content
        names: list[bytes] = [b"v", b"vt", b"vn"] if with_uv else [b"v", b"vn"]
        self._vectors = {name: [np.empty((0, _SIZES[name][0]))] for name in names}
        self._counts = dict.fromkeys(names, 0)
        # Of all corners; or how many corners have none.
        self._indices: dict[bytes, list[NDArray[np.int32] | int]] = {name: [] for name in names}
        # Largest index in a block, and where its faces begin.
        self._largest: dict[bytes, list[tuple[int, int]]] = {name: [] for name in names}
        self._sizes = [np.empty(0, np.int32)]
        self._smoothing = [np.empty(0, np.int32)]
        self._smoothing_now = UNSAID
        self._faces = self._polygons = 0
        self._groups: list[tuple[str | None, int]] = [(None, 0)]  # with their first polygon

    def read(self) -> Scene:
        """Read all blocks."""
        # Joined lines have the same size: places in one text are those in the other.
        for offset, text in line_blocks(np.frombuffer(join_lines(self._content), np.uint8)):
            self._read_block(Block(self._content, offset, text))
        return self._scene()

    def _read_block(self, block: Block) -> None:
        count = len(block.starts)
        before = {name: np.zeros(count, np.int64) for name in self._vectors}
        for name, vectors in self._vectors.items():
            is_vector = block.find(name)
            lines = block.take(is_vector, name)
            if lines is not None:
                before[name] = np.cumsum(is_vector, dtype=np.int64)
                vectors.append(read_vectors(self._content, lines, *_SIZES[name]))
        smoothing = self._read_smoothing(block.take(block.find(b"s"), b"s"), count)
        polygons_before = np.zeros(count + 1, np.int64)
        lines = block.take(block.find(b"f"), b"f")
        if lines is not None:
            so_far = {
                name: self._counts[name] + numbers[lines.rows] for name, numbers in before.items()
            }
            is_kept = self._read_faces(lines, so_far)
            rows = lines.rows[is_kept]
            self._smoothing.append(smoothing[rows].astype(np.int32))
            np.cumsum(np.bincount(rows, minlength=count), out=polygons_before[1:])
        for row in np.flatnonzero(block.find(b"o")).tolist():
            line = block.behind(row, b"o", _NAME_BYTES)
            name = line.decode("utf-8", "replace").strip()[:_NAME_LENGTH]
            self._groups.append((name, self._polygons + int(polygons_before[row])))
            check_size(0, 0, len(self._groups))
        self._polygons += int(polygons_before[-1])
        for name, numbers in before.items():
            self._counts[name] += int(numbers[-1])
            check_size(self._counts[name], self._faces)

    def _read_smoothing(self, lines: Lines | None, count: int) -> NDArray[np.int64]:
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
        self, lines: Lines, before: dict[bytes, NDArray[np.int64]]
    ) -> NDArray[np.bool_]:
        """Read faces; return which lines have one, of at least three corners.

        Args:
            lines: `f` lines.
            before: int64 [L], numbers of vectors of each kind before each line.
        """
        words = find_words(lines.text)
        sizes = words_in_lines(words, lines.starts)
        check_corners(int(sizes.max()))
        is_kept = sizes > 2  # noqa: PLR2004 - fewer have no triangle
        self._faces += int((sizes[is_kept] - 2).sum())
        check_size(0, self._faces)
        found = self._corners(lines, words)
        line = np.repeat(np.arange(len(sizes)), sizes)
        for name, stored in found.items():
            if stored is None:
                self._indices[name].append(int(sizes[is_kept].sum()))
                continue
            index = np.where(stored < 0, stored + before[name][line], stored - 1)
            is_none = (index < 0) | (index > _LARGEST_INDEX)
            is_bad = is_none & (stored != 0) if name == b"vt" else is_none
            if name == b"vn":
                index[is_none] = -1
            elif is_bad.any():
                self._refuse_corner(lines, int(is_bad.argmax()), line, name)
            if not is_kept.all():
                index = index[is_kept[line]]
            self._largest[name].append((int(index.max(initial=-1)), int(lines.offsets[0])))
            self._indices[name].append(index.astype(np.int32))
        self._sizes.append(sizes[is_kept].astype(np.int32))
        return is_kept

    def _corners(self, lines: Lines, words: Words) -> dict[bytes, NDArray[np.int64] | None]:
        """Read the corners of faces, as they are in the file; 0 where they have no such index."""
        with_uv = b"vt" in self._indices
        found = corners(words, with_textures=with_uv) if len(words.starts) else None
        if found is None:
            return self._corners_one_by_one(lines)
        columns = {b"v": found.vertices, b"vt": found.textures, b"vn": found.normals}
        return {name: columns[name] for name in self._indices}

    def _corners_one_by_one(self, lines: Lines) -> dict[bytes, NDArray[np.int64] | None]:
        """Read corners of which one is not as usual."""
        found: dict[bytes, list[int]] = {name: [] for name in self._indices}
        for line in range(len(lines.starts)):
            for word in lines.words(line):
                fields = (*word.split(b"/"), b"", b"")
                try:
                    for name, indices in found.items():
                        field = fields[_FIELDS[name]]
                        indices.append(_bounded(field if name == b"v" else field or b"0"))
                except ValueError:
                    raise number_error(self._content, int(lines.offsets[line]), word) from None
        return {name: np.array(indices, np.int64) for name, indices in found.items()}

    def _refuse_corner(
        self, lines: Lines, corner: int, line_of: NDArray[np.int64], name: bytes
    ) -> None:
        line = int(line_of[corner])
        word = lines.words(line)[corner - int(np.searchsorted(line_of, line))]
        text = _no_vector(name)
        if name == b"v" and int(word.split(b"/")[0]) == 0:
            text = "a face has index 0; OBJ counts vertices from 1"
        raise line_error(self._content, int(lines.offsets[line]), text)

    def _check_largest(self, name: bytes) -> None:
        """Check that faces do not refer to vectors behind the last one."""
        count = self._counts[name]
        for largest, start in self._largest[name]:
            if largest >= count:
                place = line_of_large_index(self._content, start, count, _FIELDS[name])
                raise line_error(self._content, place, _no_vector(name))

    def _scene(self) -> Scene:
        """Make a part of each object that has faces."""
        self._check_largest(b"v")
        positions = np.concatenate(self._vectors[b"v"])
        index = self._all_indices(b"v")
        if index is None:
            index = np.empty(0, np.int32)
        polygons = Polygons(
            index, np.concatenate(self._sizes), self._all_indices(b"vn"), self._all_smoothing()
        )
        textures = self._all_indices(b"vt") if b"vt" in self._indices else None
        is_smooth, normals = not polygons.are_flat, None
        # Computed normals are those of the surface, which has no edge along a seam.
        is_as_computed = polygons.are_smooth and textures is None
        if len(index) and not polygons.are_flat and not is_as_computed:
            shaded = shade(polygons, positions, np.concatenate(self._vectors[b"vn"]))
            check_size(len(shaded.source), 0)
            positions, normals, index = positions[shaded.source], shaded.normals, shaded.corners
        uv = None
        if textures is not None:
            seams = self._cut_seams(index, textures)
            positions, index, uv = positions[seams.source], seams.corners, seams.uv
            normals = None if normals is None else normals[seams.source]
        triangles = triangulate(index, polygons.sizes, positions)
        vertices = Vertices(positions, normals, uv)
        return _split(self._groups, vertices, triangles, polygons.sizes, is_smooth=is_smooth)

    def _cut_seams(self, index: NDArray[Any], textures: NDArray[np.int32]) -> Seams:
        self._check_largest(b"vt")
        uv = to_gltf(np.concatenate(self._vectors[b"vt"]))
        seams = cut_seams(index, textures, uv)
        check_size(len(seams.source), 0)
        return seams

    def _all_indices(self, name: bytes) -> NDArray[np.int32] | None:
        """Return the indices of all corners, -1 for none; None if no corner has one."""
        indices = self._indices[name]
        if all(isinstance(each, int) for each in indices):
            return None
        return np.concatenate(
            [np.full(each, -1, np.int32) if isinstance(each, int) else each for each in indices]
        )

    def _all_smoothing(self) -> NDArray[np.int32] | None:
        groups = np.concatenate(self._smoothing)
        return groups if (groups != UNSAID).any() else None


def _no_vector(name: bytes) -> str:
    verb = "do" if name == b"vt" else "does"
    return f"a face refers to {_NAMES[name]} that {verb} not exist"


def _split(
    groups: list[tuple[str | None, int]],
    vertices: Vertices,
    triangles: NDArray[np.int64],
    sizes: NDArray[np.int32],
    *,
    is_smooth: bool,
) -> Scene:
    """Make a scene of the triangles, with a node for each object that has some.

    Args:
        groups: names of objects, and the number of polygons before them.
        vertices: of all triangles.
        triangles: of all polygons.
        sizes: numbers of corners of the polygons.
        is_smooth: whether vertices without normals are smooth.
    """
    offset = far_offset(vertices.positions, triangles)
    before = np.concatenate([[0], np.cumsum(sizes.astype(np.int64) - 2)])
    first = before[[polygon for _, polygon in groups]].tolist()
    metadata = MetadataFilter()
    parts: list[Part] = []
    names: list[str | None] = []
    ends = [*first[1:], len(triangles)]
    for (name, _), start, end in zip(groups, first, ends, strict=True):
        if start == end:
            continue
        faces, own = triangles[start:end], vertices
        if len(faces) < len(triangles):
            rows, inverse = np.unique(faces, return_inverse=True)
            faces, own = inverse.reshape(-1, 3), vertices.take(rows)
        part = make_part(own, faces, len(parts), offset)
        if len(part.faces):
            parts.append(part)
            names.append(metadata.name(name))
    nodes = [make_node(at, name, offset) for at, name in enumerate(names)]
    return Scene(tuple(parts), tuple(nodes), tuple(range(len(nodes))), tuple(names), is_smooth)
