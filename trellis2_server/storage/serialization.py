"""Serialize arrays to compressed bytes and back, bit for bit.

    magic, length of the header, the header as JSON, one zstd frame for each array

Arrays are stored as byte planes, column by column; integers as differences before that. For a
mesh of 1.8 million faces and a field of 5.7 million voxels with full mantissas, zstd level 1
takes 0.3 s of one thread for 237 MB → 110 MB; zlib takes 2.8 s for 112 MB, blosc2's shuffle
0.4 s for 118 MB.

Does not know: the meaning of the arrays.
"""

from __future__ import annotations

import importlib
import json
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import MissingPackageError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_MAGIC: Final = b"T2A1"
_LEVEL: Final = 1


def serialize_arrays(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, object] | None = None
) -> bytes:
    """Serialize named arrays.

    Args:
        arrays: int32, float32 or uint8, of one or two dimensions. Values that are similar to
            their predecessors, such as a mesh's indices, compress best as one dimension.
        metadata: JSON values to store with the arrays.

    Raises:
        MissingPackageError: zstandard is not installed.
    """
    zstandard = _zstandard()
    frames: list[bytes] = []
    entries: list[dict[str, object]] = []
    for name, array in arrays.items():
        stream = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=array.nbytes)
        frame = [stream.compress(planes) for planes in _split_planes(array)]
        frames.append(b"".join([*frame, stream.flush()]))
        entries.append(
            {
                "name": name,
                "dtype": array.dtype.str,
                "shape": array.shape,
                "bytes": len(frames[-1]),
            }
        )
    header = json.dumps({"arrays": entries, "says": dict(metadata or {})}).encode()
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *frames])


def deserialize_arrays(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the metadata given to `serialize_arrays`.

    Raises:
        StoreError: the bytes are not from `serialize_arrays`, or are damaged.
        MissingPackageError: zstandard is not installed.
    """
    zstandard = _zstandard()
    view = memoryview(content)
    at = len(_MAGIC) + 4
    if content[: len(_MAGIC)] != _MAGIC or len(view) < at:
        raise StoreError("the stored geometry has an unknown format")
    (size,) = struct.unpack("<I", view[len(_MAGIC) : at])
    try:
        header = json.loads(bytes(view[at : at + size]))
        at += size
        arrays: dict[str, NDArray[Any]] = {}
        for entry in header["arrays"]:
            frame, at = view[at : at + entry["bytes"]], at + entry["bytes"]
            dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
            count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            planes = zstandard.ZstdDecompressor().decompress(frame, max_output_size=count)
            arrays[entry["name"]] = _join_planes(planes, dtype, shape)
        return arrays, header["says"]
    except (ValueError, TypeError, KeyError, zstandard.ZstdError) as error:
        raise StoreError("the stored geometry is damaged") from error


def _zstandard() -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise MissingPackageError(
            "storing geometry needs zstandard: pip install zstandard"
        ) from error


def _split_planes(array: NDArray[Any]) -> Iterator[bytes]:
    """Yield each column as byte planes: all first bytes, all second bytes, and so on."""
    for column in _columns(array).T:
        values = np.ascontiguousarray(column)
        if values.dtype.kind == "i":
            # Differences can overflow; the sum overflows back.
            values = np.diff(values, prepend=values.dtype.type(0))
        yield np.ascontiguousarray(values.view(np.uint8).reshape(-1, values.itemsize).T).tobytes()


def _join_planes(planes: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Undo `_split_planes`."""
    out = np.empty(shape, dtype)
    columns = _columns(out)
    size = shape[0] * dtype.itemsize
    if len(planes) != size * columns.shape[1]:
        raise ValueError("too few bytes")
    for i in range(columns.shape[1]):
        plane = np.frombuffer(planes, np.uint8, size, i * size).reshape(dtype.itemsize, -1)
        values = np.ascontiguousarray(plane.T).reshape(-1).view(dtype)
        columns[:, i] = np.cumsum(values, dtype=dtype) if dtype.kind == "i" else values
    return out


def _columns(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(len(array), 1) if array.ndim == 1 else array
