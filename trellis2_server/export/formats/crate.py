"""Write USD scenes in the binary format "crate" (.usdc).

Format: OpenUSD, `pxr/usd/sdf/crateFile.h`, version 0.8.0. A value is stored as 64 bits: the type,
and the value itself or its offset. The tables, which are small, are LZ4 blocks without any match:
valid, and as long as their content. Arrays are stored as they are.

Does not know: meshes, materials.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.chunks import byte_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_VERSION: Final = (0, 8, 0)
_IS_ARRAY, _IS_INLINED = 1 << 63, 1 << 62
#: What follows a path: nothing, a child, a sibling. With both, the distance of the sibling.
_LEAF, _CHILD, _SIBLING = -2, -1, 0
#: Numbers of value types, and of the types of specs.
_BOOL, _INT, _FLOAT, _DOUBLE, _STRING, _TOKEN, _ASSET = 1, 3, 8, 9, 10, 11, 12
_VEC2F, _VEC3F, _VEC4F = 20, 24, 28
_TOKEN_LIST_OP, _PATH_LIST_OP, _TOKEN_VECTOR, _SPECIFIER, _VARIABILITY = 32, 34, 41, 42, 44
_ATTRIBUTE, _PRIM, _PSEUDO_ROOT, _RELATIONSHIP = 1, 6, 7, 8
_DEFINED, _UNIFORM = 0, 1
_EXPLICIT, _PREPENDED = 1 | 2, 32
_NO_FIELD: Final = 0xFFFFFFFF
_HEADER_BYTES: Final = 88
_SMALL: Final = 1e30


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """An attribute of a prim, or a relationship.

    Attributes:
        type: such as "point3f[]" or "token"; "rel": a relationship.
        value: None: no value. A float, bool, str, tuple of floats, `Asset`, or an array: int32 [N],
            float32 [N] or float32 [N, C].
        target: path that it is connected to, or that the relationship has; None: none.
        metadata: further token fields, such as `interpolation`.
        is_uniform: whether it cannot vary over time.
    """

    type: str
    value: Any = None
    target: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    is_uniform: bool = False


@dataclass(frozen=True, slots=True)
class Asset:
    """Path of a file."""

    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Prim:
    """A prim.

    Attributes:
        name: its name.
        type: its schema, such as "Mesh".
        attributes: by their names.
        children: prims in it.
        schemas: applied API schemas.
        metadata: further token fields, such as `kind`.
    """

    name: str
    type: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    children: Sequence[Prim] = ()
    schemas: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def write_crate(root: Prim, *, up_axis: str, metres_per_unit: float) -> list[bytes]:
    """Return the parts of a file with one root prim, which is the default prim."""
    return _Writer().write(root, up_axis, metres_per_unit)


class _Writer:
    """Collects the tables of a file while its values are written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = _HEADER_BYTES
        self._tokens: dict[str, int] = {}
        #: Tokens of strings.
        self._strings: list[int] = []
        self._fields: dict[tuple[int, int], int] = {}
        self._field_sets: list[int] = []
        self._specs: list[tuple[int, int, int]] = []
        #: Path → its index; given out before the paths are written.
        self._paths: dict[str, int] = {}

    def write(self, root: Prim, up_axis: str, metres_per_unit: float) -> list[bytes]:
        self._token("")  # the path of the root has this element
        self._spec(
            "/",
            _PSEUDO_ROOT,
            {
                "defaultPrim": self._inlined(_TOKEN, self._token(root.name)),
                "metersPerUnit": self._number(_DOUBLE, metres_per_unit),
                "primChildren": self._tokens_value([root.name]),
                "upAxis": self._inlined(_TOKEN, self._token(up_axis)),
            },
        )
        self._prim("/", root)
        # Paths add tokens, so they come before these.
        paths = self._path_section(root)
        numbers = np.array(self._specs).T
        sections = [
            ("TOKENS", self._token_section()),
            ("STRINGS", _table("Q", len(self._strings)) + _table("I", *self._strings)),
            ("FIELDS", self._field_section()),
            ("FIELDSETS", _table("Q", len(self._field_sets)) + _integers(self._field_sets)),
            ("PATHS", paths),
            ("SPECS", _table("Q", len(self._specs)) + b"".join(map(_integers, numbers.tolist()))),
        ]
        table: list[bytes] = [struct.pack("<Q", len(sections))]
        for name, content in sections:
            start = self._append([content])
            table.append(struct.pack("<16sqq", name.encode(), start, len(content)))
        start = self._append(table)
        head = b"PXR-USDC" + bytes(_VERSION) + bytes(5) + struct.pack("<q64x", start)
        return [head, *self._parts]

    # ---- values --------------------------------------------------------------------------

    def _append(self, parts: list[bytes]) -> int:
        """Write parts at the next multiple of eight; return their offset."""
        padding = bytes(-self._size % 8)
        start = self._size + len(padding)
        self._parts += [padding, *parts]
        self._size = start + sum(map(len, parts))
        return start

    def _token(self, text: str) -> int:
        return self._tokens.setdefault(text, len(self._tokens))

    @staticmethod
    def _inlined(kind: int, payload: int) -> int:
        return _IS_INLINED | kind << 48 | payload

    def _number(self, kind: int, value: float) -> int:
        """Return a float or a double, inlined if it is a small number that a float can hold."""
        if kind == _FLOAT or (abs(value) < _SMALL and float(np.float32(value)) == value):
            return self._inlined(kind, int.from_bytes(struct.pack("<f", value), "little"))
        return kind << 48 | self._append([struct.pack("<d", value)])

    def _tokens_value(self, names: Sequence[str]) -> int:
        indices = [self._token(name) for name in names]
        content = struct.pack(f"<Q{len(indices)}I", len(indices), *indices)
        return _TOKEN_VECTOR << 48 | self._append([content])

    def _list_op(self, kind: int, header: int, indices: Sequence[int]) -> int:
        content = struct.pack(f"<BQ{len(indices)}I", header, len(indices), *indices)
        return kind << 48 | self._append([content])

    def _value(self, attribute: Attribute) -> int:  # noqa: PLR0911 - one for each type
        value = attribute.value
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, bool):
            return self._inlined(_BOOL, value)
        if isinstance(value, str) and attribute.type == "string":
            self._strings.append(self._token(value))
            return self._inlined(_STRING, len(self._strings) - 1)
        if isinstance(value, str):
            return self._inlined(_TOKEN, self._token(value))
        if isinstance(value, Asset):
            return self._inlined(_ASSET, self._token(value.path))
        if isinstance(value, tuple):
            kind = {2: _VEC2F, 3: _VEC3F, 4: _VEC4F}[len(value)]
            return kind << 48 | self._append([struct.pack(f"<{len(value)}f", *value)])
        return self._number(_DOUBLE if attribute.type == "double" else _FLOAT, value)

    def _array(self, value: NDArray[Any]) -> int:
        if value.dtype == np.int32:
            kind = _INT
        else:
            kind = {1: _FLOAT, 2: _VEC2F, 3: _VEC3F, 4: _VEC4F}[
                1 if value.ndim == 1 else value.shape[1]
            ]
        head = struct.pack("<Q", len(value))
        chunks = byte_chunks(value.astype(value.dtype.newbyteorder("<"), copy=False))
        return _IS_ARRAY | kind << 48 | self._append([head, *chunks])

    # ---- specs ---------------------------------------------------------------------------

    def _path(self, path: str) -> int:
        return self._paths.setdefault(path, len(self._paths))

    def _spec(self, path: str, kind: int, fields: Mapping[str, int]) -> None:
        index = len(self._field_sets)
        for name, value in fields.items():
            key = self._token(name), value
            self._field_sets.append(self._fields.setdefault(key, len(self._fields)))
        self._field_sets.append(_NO_FIELD)
        self._specs.append((self._path(path), index, kind))

    def _prim(self, parent: str, prim: Prim) -> None:
        path = f"{parent.rstrip('/')}/{prim.name}"
        fields = {
            "specifier": self._inlined(_SPECIFIER, _DEFINED),
            "typeName": self._inlined(_TOKEN, self._token(prim.type)),
        }
        for name, word in prim.metadata.items():
            fields[name] = self._inlined(_TOKEN, self._token(word))
        if prim.schemas:
            indices = [self._token(name) for name in prim.schemas]
            fields["apiSchemas"] = self._list_op(_TOKEN_LIST_OP, _PREPENDED, indices)
        if prim.attributes:
            fields["properties"] = self._tokens_value(list(prim.attributes))
        if prim.children:
            fields["primChildren"] = self._tokens_value([child.name for child in prim.children])
        self._spec(path, _PRIM, fields)
        for name, attribute in prim.attributes.items():
            self._attribute(f"{path}.{name}", attribute)
        for child in prim.children:
            self._prim(path, child)

    def _attribute(self, path: str, attribute: Attribute) -> None:
        fields: dict[str, int] = {}
        is_relationship = attribute.type == "rel"
        if not is_relationship:
            fields["typeName"] = self._inlined(_TOKEN, self._token(attribute.type))
        if attribute.is_uniform or is_relationship:
            fields["variability"] = self._inlined(_VARIABILITY, _UNIFORM)
        if attribute.value is not None:
            fields["default"] = self._value(attribute)
        for name, word in attribute.metadata.items():
            fields[name] = self._inlined(_TOKEN, self._token(word))
        if attribute.target is not None:
            name = "targetPaths" if is_relationship else "connectionPaths"
            targets = [self._path(attribute.target)]
            fields[name] = self._list_op(_PATH_LIST_OP, _EXPLICIT, targets)
        self._spec(path, _RELATIONSHIP if is_relationship else _ATTRIBUTE, fields)

    # ---- tables --------------------------------------------------------------------------

    def _token_section(self) -> bytes:
        text = b"".join(token.encode() + b"\0" for token in self._tokens)
        packed = _compressed(text)
        return _table("Q", len(self._tokens), len(text), len(packed)) + packed

    def _field_section(self) -> bytes:
        values = _compressed(_table("Q", *(value for _, value in self._fields)))
        names = _integers([name for name, _ in self._fields])
        return _table("Q", len(self._fields)) + names + _table("Q", len(values)) + values

    def _path_section(self, root: Prim) -> bytes:
        """Return the tree of paths, depth first; tokens of properties are negative."""
        rows = [(self._path("/"), 0, _CHILD)]
        self._add_paths(rows, "/", root, has_sibling=False)
        count = _table("Q", len(rows))
        return count + count + b"".join(map(_integers, np.array(rows).T.tolist()))

    def _add_paths(
        self, rows: list[tuple[int, int, int]], parent: str, prim: Prim, *, has_sibling: bool
    ) -> None:
        path = f"{parent.rstrip('/')}/{prim.name}"
        at = len(rows)
        rows.append((0, 0, 0))
        names = list(prim.attributes)
        for name in names:
            is_last = name == names[-1] and not prim.children
            rows.append(
                (
                    self._path(f"{path}.{name}"),
                    -self._token(name),
                    _LEAF if is_last else _SIBLING,
                )
            )
        for child in prim.children:
            self._add_paths(rows, path, child, has_sibling=child is not prim.children[-1])
        has_child = len(rows) > at + 1
        if has_child and has_sibling:
            jump = len(rows) - at
        else:
            jump = _CHILD if has_child else _SIBLING if has_sibling else _LEAF
        rows[at] = self._path(path), self._token(prim.name), jump


def _table(kind: str, *numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}{kind}", *numbers)


def _integers(numbers: Sequence[int]) -> bytes:
    """Return integers as OpenUSD's `Sdf_IntegerCompression` packs them, with their size.

    That is the most common difference of two neighbours, two bits for each number, which say in how
    many bytes its difference follows (3: four bytes), and these bytes.
    """
    values = np.array(numbers, np.int64).astype(np.uint32).view(np.int32)
    differences = np.diff(values, prepend=np.int32(0)).astype("<i4")
    codes = np.zeros(-(-len(values) // 4) * 4, np.uint8)
    codes[: len(values)] = 3
    bits = (codes.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1).astype(np.uint8)
    packed = _compressed(bytes(4) + bits.tobytes() + differences.tobytes())
    return _table("Q", len(packed)) + packed


def _compressed(content: bytes) -> bytes:
    """Return content as OpenUSD's `TfFastCompression` packs it: one LZ4 block, of literals only."""
    count = len(content)
    head = bytearray([0, min(count, 15) << 4])
    if count >= 15:  # noqa: PLR2004 - of four bits
        full, rest = divmod(count - 15, 255)
        head += b"\xff" * full + bytes([rest])
    return bytes(head) + content
