"""The decorator that compiles the exporter's loops.

Compiled loops release the interpreter lock and are cached on disk.

Does not know: meshes, textures, threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from trellis2_server.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import numba
except ImportError as error:
    raise MissingPackageError("The exporter needs numba: run `pip install numba`.") from error

_F = TypeVar("_F", bound="Callable[..., Any]")


def kernel(function: _F) -> _F:
    """Compile `function` on its first call, without the interpreter lock.

    `parallel=True` is not used: numba's built-in threading layer aborts the process when two
    threads enter it at the same time. See `parallel.parallel_for`.

    The machine code is cached beside the package or in the user's cache directory (numba's rules,
    `NUMBA_CACHE_DIR` first). If neither is writable, each process compiles the kernel in memory.
    """
    try:
        return cast("_F", numba.njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError:  # numba: "no locator available", no cache directory is writable
        return cast("_F", numba.njit(nogil=True, error_model="numpy")(function))
