"""`SharedReads`: reads files on a few threads, each file once at a time.

Does not know: which files are listed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import StoreError, shutting_down
from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.storage.store import Artifact, Store

_THREADS: Final = 2


class SharedReads:
    """Reads from a store. All methods belong to the event loop's thread.

    Args:
        store: where to read.
        on_lost: called with a file that the store has lost, and the error.
    """

    def __init__(self, store: Store, on_lost: Callable[[Artifact, StoreError], None]) -> None:
        self._store = store
        self._on_lost = on_lost
        self._reads: dict[Artifact, asyncio.Future[bytes]] = {}
        self._executor = ThreadPoolExecutor(_THREADS, "reader", lower_priority)

    @property
    def is_idle(self) -> bool:
        """Whether no file is being read."""
        return not self._reads

    async def read(self, artifact: Artifact) -> bytes:
        """Read a file. Concurrent reads of one file share the bytes.

        Raises:
            StoreError: the file is lost or cannot be read at the moment.
            ShuttingDownError: the reader is closed.
        """
        read = self._reads.get(artifact)
        if read is None:
            loop = asyncio.get_running_loop()
            try:
                read = loop.run_in_executor(self._executor, self._store.read, artifact)
            except RuntimeError as error:  # the executor is shut down
                raise shutting_down() from error
            self._reads[artifact] = read
            read.add_done_callback(partial(self._finish, artifact))
        return await asyncio.shield(read)

    def close(self) -> None:
        """Accept no more reads; running ones continue."""
        self._executor.shutdown(wait=False)

    def _finish(self, artifact: Artifact, read: asyncio.Future[bytes]) -> None:
        del self._reads[artifact]
        error = None if read.cancelled() else read.exception()
        if isinstance(error, StoreError) and error.is_lost:
            self._on_lost(artifact, error)
