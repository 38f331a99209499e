"""Large arrays as bytes, without holding up other threads.

What this module does not know: what the arrays are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes that are copied at a time: the interpreter is free for others in between.
_PIECE: Final = 1 << 20


def pieces(array: NDArray[Any]) -> list[bytes]:
    """The array's bytes, cut: `tobytes` holds the interpreter as long as it takes.

    Joining them does not.
    """
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [flat[at : at + _PIECE].tobytes() for at in range(0, flat.size, _PIECE)]
