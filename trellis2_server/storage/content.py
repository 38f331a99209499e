"""`Content`: the content of a file, which any number of responses send without copies of it.

    BytesContent    in memory; the responses share the bytes
    FileContent     on a disk; each response reads a chunk when the one before is sent

`OpenFile` is the file of a `FileContent`. `sendfile` is not used: uvicorn, as other ASGI servers,
sends only what an application hands over.

Does not know: HTTP, which files exist.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple

from trellis2_server.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from concurrent.futures import Executor

#: Default size of a chunk, bytes. Of a slow response, about two are in memory.
CHUNK_BYTES: Final = 131_072
#: Bytes that are hashed at a time.
_HASHED_BYTES: Final = 2**20


class Content(ABC):
    """The content of a file. It does not change, and stays when the file is deleted."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Size, bytes."""

    @abstractmethod
    def chunks(
        self, first: int = 0, last: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> AsyncGenerator[bytes]:
        """Yield the bytes from `first` to `last`, both included.

        Args:
            first: position of the first byte.
            last: position of the last byte; None: that of the file.
            chunk_bytes: size of a chunk but the last one, bytes.

        Raises:
            StoreError: the file was damaged in the meantime, or cannot be read.
        """

    @abstractmethod
    async def read(self) -> bytes:
        """Return all bytes.

        Raises:
            StoreError: as in `chunks`.
        """

    @abstractmethod
    def load(self) -> bytes:
        """Return all bytes; blocks, for a thread that may wait for a disk.

        Raises:
            StoreError: as in `chunks`.
        """


class BytesContent(Content):
    """Content in memory.

    Args:
        content: the bytes.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """Size, bytes."""
        return len(self._content)

    async def chunks(
        self, first: int = 0, last: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> AsyncGenerator[bytes]:
        """Yield the bytes; see `Content.chunks`.

        Not as views: uvicorn copies them anyway, and Ray Serve cannot pickle them.
        """
        end = self.size if last is None else last + 1
        for start in range(first, end, chunk_bytes):
            yield self._content[start : min(start + chunk_bytes, end)]
            # A client that reads as fast as it is sent to would hold the event loop.
            await asyncio.sleep(0)

    async def read(self) -> bytes:
        """Return the bytes themselves, no copy."""
        return self._content

    def load(self) -> bytes:
        """Return the bytes themselves, no copy."""
        return self._content


class FileIdentity(NamedTuple):
    """What changes when a file is replaced or written to.

    Attributes:
        device: the file system's.
        inode: number of the file there.
        size: bytes.
        modified_ns: time of the last write, nanoseconds.
    """

    device: int
    inode: int
    size: int
    modified_ns: int


class OpenFile:
    """A file that is open until nothing refers to this object. Thread-safe.

    A deleted file stays readable. On Windows, it is the deletion that fails: the file is removed
    at the next start.

    Args:
        descriptor: of the file; closed by this object.
        name: for messages.

    Attributes:
        identity: of the file when it was opened.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor
        self._name = name
        self._lock = threading.Lock()
        self.identity = self._current_identity()

    @property
    def size(self) -> int:
        """Size when it was opened, bytes."""
        return self.identity.size

    def read_at(self, start: int, count: int) -> bytes:
        """Return that many bytes from that position on.

        Raises:
            StoreError: the file has changed since it was opened, or cannot be read.
        """
        try:
            content = self._read_at(start, count)
            is_changed = len(content) < count or self._current_identity() != self.identity
        except OSError as error:
            raise StoreError(f"{self._name} cannot be read: {error.strerror}") from error
        if is_changed:
            raise StoreError(f"{self._name} was damaged on the disk", is_lost=True)
        return content

    def read(self) -> bytes:
        """Return all bytes; see `read_at`."""
        return self.read_at(0, self.size)

    def sha256(self) -> bytes:
        """Return the SHA-256 of the content; see `read_at`."""
        digest = hashlib.sha256()
        for start in range(0, self.size, _HASHED_BYTES):
            digest.update(self.read_at(start, min(_HASHED_BYTES, self.size - start)))
        return digest.digest()

    def _current_identity(self) -> FileIdentity:
        status = os.fstat(self._descriptor)
        return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def _read_at(self, start: int, count: int) -> bytes:
        parts: list[bytes] = []
        while count and (part := self._read_part(start, count)):
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_part(self, start: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, start)
        with self._lock:  # Windows: the position belongs to all readers
            os.lseek(self._descriptor, start, os.SEEK_SET)
            return os.read(self._descriptor, count)


class FileContent(Content):
    """Content of an open file. Its coroutines belong to the event loop's thread.

    Args:
        file: the file.
        executor: where it is read.
        on_lost: called with the error if the file turns out to be damaged.
    """

    def __init__(
        self, file: OpenFile, executor: Executor, on_lost: Callable[[StoreError], None]
    ) -> None:
        self._file = file
        self._executor = executor
        self._on_lost = on_lost

    @property
    def size(self) -> int:
        """Size, bytes."""
        return self._file.size

    async def chunks(
        self, first: int = 0, last: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> AsyncGenerator[bytes]:
        """Yield the bytes as they are read; see `Content.chunks`."""
        end = self.size if last is None else last + 1
        for start in range(first, end, chunk_bytes):
            yield await self._read(start, min(chunk_bytes, end - start))

    async def read(self) -> bytes:
        """Return all bytes."""
        return await self._read(0, self.size)

    def load(self) -> bytes:
        """Return all bytes, read on this thread."""
        return self._file.read()

    async def _read(self, start: int, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            reading = loop.run_in_executor(self._executor, self._file.read_at, start, count)
        except RuntimeError:  # the executor is shut down; responses are sent to their end
            reading = loop.run_in_executor(None, self._file.read_at, start, count)
        try:
            return await reading
        except StoreError as error:
            if error.is_lost:
                self._on_lost(error)
            raise
