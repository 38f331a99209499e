"""Run a function over an index range, split among threads.

All exports of the process share these threads, so that several exports at once do not start
several times as many threads as there are processors.

Does not know: what the function computes.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from trellis2_server.export import cancellation
from trellis2_server.thread_priority import EXPORT_NICENESS, lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable

#: More threads than this are not faster.
_MAX_THREADS: Final = 16
_CHUNKS_PER_THREAD: Final = 4


def thread_count(processors: int) -> int:
    """Return the number of threads for a machine with that many processors.

    From eight processors on, two are left to the event loop and to the thread that drives the
    device; from four on, one.
    """
    return max(1, min(_MAX_THREADS, processors - min(2, processors // 4)))


_THREADS: Final = thread_count(os.cpu_count() or 1)


def parallel_for(
    function: Callable[..., None], count: int, *arguments: object, grain: int = 4096
) -> None:
    """Call `function(start, stop, *arguments, flag)` over `range(count)`, split among threads.

    The result of an index must not depend on where the range was split. Then the exported bytes
    do not depend on the number of processors.

    Args:
        function: compiled loop that writes only the results of its own indices; it must not
            call `parallel_for`. It polls the flag, see `cancellation`.
        count: length of the range.
        arguments: passed on to every call.
        grain: smallest number of indices per call.

    Raises:
        Exception: that of the export's report, if it has raised one. No call runs any more.
    """
    flag = cancellation.flag()
    chunks = min(_THREADS * _CHUNKS_PER_THREAD, count // grain)
    if _THREADS == 1 or chunks <= 1:
        function(0, count, *arguments, flag)
        cancellation.check()
        return
    cuts = [count * i // chunks for i in range(chunks + 1)]
    pool = _pool(_THREADS)
    futures = [
        pool.submit(function, start, stop, *arguments, flag) for start, stop in pairwise(cuts)
    ]
    try:
        for future in futures:
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)  # no call writes into the arguments any more
        raise
    cancellation.check()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "export", lower_priority, (EXPORT_NICENESS,))


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
