"""Copy large arrays to bytes without blocking other threads.

Does not know: what the arrays contain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.cancellation import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

#: Bytes copied at a time; other threads can run between two copies.
_CHUNK_BYTES: Final = 1 << 20
#: Rows made at a time.
_CHUNK_ROWS: Final = 1 << 15


def byte_chunks(array: NDArray[Any]) -> list[bytes]:
    """Return the bytes of the array in chunks of at most 1 MiB.

    `tobytes` holds the interpreter lock for the whole array. `bytes.join` does not.
    """
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    chunks: list[bytes] = []
    for start in range(0, flat.size, _CHUNK_BYTES):
        check()
        chunks.append(flat[start : start + _CHUNK_BYTES].tobytes())
    return chunks


def row_chunks(rows: Callable[[int, int], NDArray[Any]], count: int) -> Iterator[bytes]:
    """Yield the bytes of rows that are made in chunks; can be cancelled between two.

    Args:
        rows: returns the rows from a start to a stop.
        count: number of all rows.
    """
    for start in range(0, count, _CHUNK_ROWS):
        check()
        yield rows(start, min(start + _CHUNK_ROWS, count)).tobytes()
