"""Run a function over an index range, split among threads.

Does not know: what the function computes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_THREADS: Final = max(1, min(16, os.cpu_count() or 1))
_CHUNKS_PER_THREAD: Final = 4


def parallel_for(
    function: Callable[..., None], count: int, *arguments: object, grain: int = 4096
) -> None:
    """Call `function(start, stop, *arguments)` over `range(count)`, split among threads.

    The result of an index must not depend on where the range was split. Then the exported bytes
    do not depend on the number of processors.

    Args:
        function: compiled loop that writes only the results of its own indices.
        count: length of the range.
        arguments: passed on to every call.
        grain: smallest number of indices per call.
    """
    chunks = min(_THREADS * _CHUNKS_PER_THREAD, count // grain)
    if _THREADS == 1 or chunks <= 1:
        function(0, count, *arguments)
        return
    cuts = [count * i // chunks for i in range(chunks + 1)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="export") as pool:
        for future in [
            pool.submit(function, start, stop, *arguments) for start, stop in pairwise(cuts)
        ]:
            future.result()
