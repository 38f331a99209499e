"""Copy large arrays to bytes without blocking other threads.

Does not know: what the arrays contain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes copied at a time; other threads can run between two copies.
_CHUNK_BYTES: Final = 1 << 20


def byte_chunks(array: NDArray[Any]) -> list[bytes]:
    """Return the bytes of the array in chunks of at most 1 MiB.

    `tobytes` holds the interpreter lock for the whole array. `bytes.join` does not.
    """
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [
        flat[start : start + _CHUNK_BYTES].tobytes() for start in range(0, flat.size, _CHUNK_BYTES)
    ]
