"""How a loop is compiled, and how its index range is spread over threads.

Kernels release the interpreter's lock and are cached on disk. They are not compiled with
`parallel=True`: numba's built-in threading layer aborts the process when two threads enter
it at once. `spread` cuts the range instead, so a kernel must compute each index
independently of where the range was cut: then the bytes never depend on the machine.

What this module does not know: meshes, textures.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from trellis2_server.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import numba
except ImportError as error:
    raise MissingPackageError("The exporter needs numba: run `pip install numba`.") from error

_F = TypeVar("_F", bound="Callable[..., Any]")

_THREADS: Final = max(1, min(16, os.cpu_count() or 1))
_CHUNKS_PER_THREAD: Final = 4


def kernel(function: _F) -> _F:
    """Compile `function` on its first call, without the interpreter's lock.

    The machine code is cached beside the package or in the user's cache directory
    (numba's rules, `NUMBA_CACHE_DIR` first). Where neither can be written, the kernel is
    compiled in memory, once a process.
    """
    try:
        return cast("_F", numba.njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError:  # numba: "no locator available", no cache directory is writable
        return cast("_F", numba.njit(nogil=True, error_model="numpy")(function))


def spread(
    function: Callable[..., None], count: int, *arguments: object, grain: int = 4096
) -> None:
    """Run `function(start, stop, *arguments)` over `range(count)`, cut among threads.

    Args:
        function: writes only results that belong to its own indices.
        count: length of the range.
        arguments: handed on to every call.
        grain: the fewest indices worth a thread of their own.
    """
    chunks = min(_THREADS * _CHUNKS_PER_THREAD, count // grain)
    if _THREADS == 1 or chunks <= 1:
        function(0, count, *arguments)
        return
    cuts = [count * i // chunks for i in range(chunks + 1)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="export") as pool:
        for done in [
            pool.submit(function, start, stop, *arguments) for start, stop in pairwise(cuts)
        ]:
            done.result()
