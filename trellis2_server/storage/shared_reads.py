"""`SharedReads`: opens and reads files on a few threads, each file once at a time.

Does not know: which files are listed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import StoreError, shutting_down
from trellis2_server.storage.content import BytesContent, FileContent
from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.storage.content import Content, OpenFile
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
        self._opening: dict[Artifact, asyncio.Future[bytes | OpenFile]] = {}
        self._executor = ThreadPoolExecutor(_THREADS, "reader", lower_priority)

    @property
    def is_idle(self) -> bool:
        """Whether no file is being opened and verified."""
        return not self._opening

    async def open_file(self, artifact: Artifact) -> Content:
        """Return the content of a file, verified. All contents of one file share it.

        Raises:
            StoreError: the file is lost or cannot be read at the moment.
            ShuttingDownError: the reader is closed.
        """
        opening = self._opening.get(artifact)
        if opening is None:
            loop = asyncio.get_running_loop()
            try:
                opening = loop.run_in_executor(self._executor, self._store.open_file, artifact)
            except RuntimeError as error:  # the executor is shut down
                raise shutting_down() from error
            self._opening[artifact] = opening
            opening.add_done_callback(partial(self._finish, artifact))
        opened = await asyncio.shield(opening)
        if isinstance(opened, bytes):
            return BytesContent(opened)
        return FileContent(opened, self._executor, partial(self._on_lost, artifact))

    def close(self) -> None:
        """Open no more files; those that are open can still be read."""
        self._executor.shutdown(wait=False)

    def _finish(self, artifact: Artifact, opening: asyncio.Future[bytes | OpenFile]) -> None:
        del self._opening[artifact]
        error = None if opening.cancelled() else opening.exception()
        if isinstance(error, StoreError) and error.is_lost:
            self._on_lost(artifact, error)
