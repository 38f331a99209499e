"""File system calls of a store that can fail."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from typing import IO, TYPE_CHECKING

from trellis2_server.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


class FileSystem:
    """Calls on single files; tests replace it to make them fail."""

    def write(self, path: Path, content: bytes) -> None:
        """Write and sync a new file that only this user can read."""
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600
        )
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())

    def replace(self, old: Path, new: Path) -> None:
        """Rename a file, over one of that name."""
        os.replace(old, new)  # noqa: PTH105 - as its siblings here

    def sync_folder(self, path: Path) -> None:
        """Sync the names in a folder: files that were renamed there stay after a power failure."""
        if sys.platform != "win32":
            folder = os.open(path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def size(self, path: Path) -> int | None:
        """Return the size of a file, bytes; None: there is no such file."""
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def entries(self, folder: Path) -> list[Path]:
        """Return the paths of all files and folders in a folder."""
        return list(folder.iterdir())

    def open(self, path: Path) -> int:
        """Open a file for reading; return its descriptor."""
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a folder can be opened, too
            os.close(descriptor)
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return descriptor

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder and all that is in it."""
        shutil.rmtree(path)


class FolderLock:
    """Lock on a folder that one process can hold.

    Args:
        folder: must exist when the lock is acquired.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> None:
        """Acquire the lock; call `release` if this fails.

        A lock file that exists can be locked on a read-only disk, too.

        Raises:
            ConfigError: another process holds the lock.
            OSError: there is no lock file, and none can be made.
        """
        path = self._folder / "lock"
        try:
            self._file = path.open("ab")
        except OSError:
            if sys.platform == "win32" or not path.is_file():
                raise
            self._file = path.open("rb")
        try:
            if sys.platform == "win32":
                import msvcrt

                self._file.seek(0)
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(
                f"worker.result_dir: {self._folder} is in use by another server; "
                "give each a folder of its own"
            ) from error

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def make_private_folder(path: Path) -> None:
    """Make a folder that only this user can use; an existing one stays unchanged."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def error_reason(error: BaseException) -> str:
    """Return an error's message without a path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
