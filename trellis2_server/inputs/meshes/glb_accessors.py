"""The rows of a glTF file's accessors.

Khronos, "glTF 2.0 Specification", chapter 3.6.2; KHR_mesh_quantization.

Does not know: what the rows mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.scene import check_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_container import Glb

COMPONENTS: Final = {
    5120: np.dtype("<i1"),
    5121: np.dtype("<u1"),
    5122: np.dtype("<i2"),
    5123: np.dtype("<u2"),
    5125: np.dtype("<u4"),
    5126: np.dtype("<f4"),
}
WIDTHS: Final = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of an accessor, of which some can be taken: primitives share accessors.

    Attributes:
        count: number of rows.
        base: [count, width], a view of the file with the stored dtype; None: all are zero.
        sparse: int64 [S], ascending, rows that differ from the base, and their values [S, width];
            or None.
        dtype: as stored.
        width: number of columns.
        is_normalized: whether integers stand for numbers from 0 or -1 to 1.
    """

    count: int
    base: NDArray[Any] | None
    sparse: tuple[NDArray[np.int64], NDArray[Any]] | None
    dtype: np.dtype[Any]
    width: int
    is_normalized: bool

    @property
    def is_zero(self) -> bool:
        """Whether nothing is stored."""
        return self.base is None and self.sparse is None

    def take(self, rows: NDArray[np.integer] | None = None) -> NDArray[Any]:
        """Return a copy of some rows, or all.

        Args:
            rows: integers [N] below the count.

        Returns:
            [N, width] with the stored dtype; float32 for normalized integers.
        """
        if self.base is None:
            taken = np.zeros((self.count if rows is None else len(rows), self.width), self.dtype)
        else:
            taken = self.base.copy() if rows is None else self.base[rows]
        if self.sparse is not None:
            index, values = self.sparse
            wanted = np.arange(self.count) if rows is None else rows
            at = np.minimum(np.searchsorted(index, wanted), len(index) - 1)
            is_changed = index[at] == wanted
            taken[is_changed] = values[at[is_changed]]
        return normalize(taken) if self.is_normalized else taken


def normalize(values: NDArray[Any]) -> NDArray[Any]:
    """Return integers as float32, from 0 to 1 or from -1 to 1; other values as they are."""
    if values.dtype.kind not in "iu":
        return values
    largest = np.float32(np.iinfo(values.dtype).max)
    return np.maximum(values / largest, np.float32(-1)).astype(np.float32)


class Accessors:
    """The accessors of a file; each is read once.

    Args:
        file: the file.
        is_own: see `scene.check_size`.
    """

    def __init__(self, file: Glb, *, is_own: bool = False) -> None:
        self.is_own = is_own
        self._file = file
        self._rows: dict[int, Rows] = {}

    def count(self, index: object) -> int:
        """Return the number of rows that an accessor declares."""
        return check_count(self._file.item("accessors", index).get("count"), 1)

    def rows(self, index: object, kind: str) -> Rows:
        """Return the rows of an accessor.

        Args:
            index: of the accessor.
            kind: expected glTF type, such as `VEC3`.

        Raises:
            InputError: the accessor is of another type, or exceeds its buffer view.
        """
        at = check_count(index)
        accessor = self._file.item("accessors", at)
        if accessor.get("type") != kind:
            raise InputError(f"mesh: accessors[{at}] of the GLB should be {kind}")
        if at not in self._rows:
            self._rows[at] = self._read(accessor, f"accessors[{at}]")
        return self._rows[at]

    def provide(self, index: object, values: NDArray[Any], name: str) -> None:
        """Set the rows of an accessor that stores none: they are in a compressed primitive.

        Args:
            index: of the accessor.
            values: [N, width]; unsigned integers of any size for an accessor of indices.
            name: of the primitive, for error messages.

        Raises:
            InputError: the accessor declares rows of another number, width or type.
        """
        at = check_count(index)
        accessor = self._file.item("accessors", at)
        dtype = _dtype(accessor, f"accessors[{at}]")
        is_index = accessor.get("type") == "SCALAR" and dtype.kind == values.dtype.kind == "u"
        stored = values
        if dtype.kind in "iu" and values.dtype.kind in "iu" and not is_index:
            stored = values.astype(dtype)  # libraries may return larger integers than are stored
        if (
            check_count(accessor.get("count"), 1) != len(values)
            or WIDTHS.get(accessor.get("type", "")) != values.shape[1]
            or (dtype.kind in "iu") != (values.dtype.kind in "iu")
            or not (stored is values or np.array_equal(stored, values))
        ):
            raise InputError(
                f"mesh: accessors[{at}] of the GLB declares other rows than {name} contains"
            )
        is_normalized = accessor.get("normalized") is True
        self._rows[at] = Rows(
            len(stored), stored, None, stored.dtype, stored.shape[1], is_normalized
        )

    def _read(self, accessor: dict[str, Any], name: str) -> Rows:
        width, dtype = WIDTHS[accessor["type"]], _dtype(accessor, name)
        count = check_count(accessor.get("count"), 1)
        base = sparse = None
        if "bufferView" in accessor:
            base = self._open(accessor, count, dtype, width, name)
        if "sparse" in accessor:
            sparse = self._read_sparse(accessor["sparse"], count, dtype, width, name)
        return Rows(count, base, sparse, dtype, width, accessor.get("normalized") is True)

    def _open(
        self, item: dict[str, Any], count: int, dtype: np.dtype[Any], width: int, name: str
    ) -> NDArray[Any]:
        """Return rows of a buffer view, [count, width], without copying them.

        Args:
            item: has `bufferView` and `byteOffset`.
            count: number of rows.
            dtype: of the components.
            width: number of columns.
            name: of the accessor, for error messages.
        """
        index = item["bufferView"]
        content, view = self._file.view(index), self._file.item("bufferViews", index)
        offset = check_count(item.get("byteOffset", 0))
        size = dtype.itemsize * width
        stride = check_count(view.get("byteStride", 0)) or size
        if stride < size:
            raise InputError(f"mesh: the rows of {name} of the GLB overlap")
        if offset + stride * (count - 1) + size > len(content):
            raise InputError(f"mesh: {name} of the GLB declares more data than it contains")
        return np.ndarray((count, width), dtype, content, offset, (stride, dtype.itemsize))

    def _read_sparse(
        self, sparse: dict[str, Any], count: int, dtype: np.dtype[Any], width: int, name: str
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return which rows a sparse accessor changes, ascending, and their values."""
        changed = check_count(sparse.get("count"), 1)
        kind = _dtype(sparse["indices"], name)
        if kind.kind != "u":
            raise InputError(f"mesh: the sparse indices of {name} of the GLB are not unsigned")
        index = self._open(sparse["indices"], changed, kind, 1, name)[:, 0].astype(np.int64)
        values = self._open(sparse["values"], changed, dtype, width, name)
        if index.max() >= count:
            raise InputError(f"mesh: {name} of the GLB changes a row that does not exist")
        if (np.diff(index) <= 0).any():  # of equal rows, the last counts
            index, last = np.unique(index[::-1], return_index=True)
            values = values[::-1][last]
        return index, values


def _dtype(item: dict[str, Any], name: str) -> np.dtype[Any]:
    dtype = COMPONENTS.get(item.get("componentType", 0))
    if dtype is None:
        raise InputError(f"mesh: the componentType of {name} of the GLB is not one of glTF's")
    return dtype
