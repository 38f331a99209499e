"""`DeferredFiles`: files that are made on threads and stored when they are made.

Does not know: where they are stored.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Threads that make files; two, so that a picture need not wait for a geometry.
_THREADS: Final = 2


class DeferredFiles:
    """Files that are being made. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._making: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._executor = ThreadPoolExecutor(_THREADS, "deferred", lower_priority)

    def __len__(self) -> int:
        return len(self._making)

    def start(
        self, uid: str, name: str, make: Callable[[], bytes], store: Callable[[bytes], None]
    ) -> None:
        """Make a file, then store it.

        Args:
            uid: its job's.
            name: file name.
            make: returns the content, on a thread. If it raises, the file is not stored.
            store: called with the content.
        """
        making = self._make(uid, name, make, store)
        task = asyncio.get_running_loop().create_task(making)
        self._making[task] = (uid, name)
        task.add_done_callback(self._making.pop)

    async def _make(
        self, uid: str, name: str, make: Callable[[], bytes], store: Callable[[bytes], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            content = await loop.run_in_executor(self._executor, make)
        except Exception as error:  # noqa: BLE001 - the job itself is not affected
            logger.warning("File not stored: %s", error, extra={"uid": uid, "file": name})
            return
        store(content)

    def has(self, uid: str, name: str) -> bool:
        """Whether a file of a job is being made."""
        return (uid, name) in self._making.values()

    async def wait_for(self, uid: str, name: str) -> None:
        """Wait until a file of a job is stored, or could not be made."""
        while making := [task for task, file in self._making.items() if file == (uid, name)]:
            await asyncio.wait(making)

    async def wait(self) -> None:
        """Wait until no file is being made."""
        while self._making:
            await asyncio.wait(self._making)

    def close(self) -> None:
        """Start to make no more files."""
        self._executor.shutdown(wait=False)
