"""The decorators that compile the loops with numba."""

# pyright: basic
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba as nb

if TYPE_CHECKING:
    from collections.abc import Callable


def kernel(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile for one signature with the GIL released; cache on disk if possible."""
    jit: Any = nb.njit

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return jit(signature, nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError:  # "no locator available": there is no folder for a cache
            return jit(signature, nogil=True, error_model="numpy")(function)

    return compile_


#: For loops that only other loops of the same file call.
inner_kernel = nb.njit(nogil=True, error_model="numpy")
