"""A disk that fails at a chosen call, below the store's files and below SQLite.

`FaultyFileSystem` stands in for the calls on files. `faulty_sqlite` wraps SQLite's own access to
files (its VFS) by ctypes, as SQLite's own tests do, so that every write, sync and open of the
database, its log and its shared memory can fail.
"""

from __future__ import annotations

import _sqlite3
import contextlib
import ctypes
import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trellis2_server.storage.file_system import FileSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

#: Kinds of failures; "short" writes half and fails.
KINDS = ("EIO", "ENOSPC", "EROFS", "short")


@dataclass
class Disk:
    """Counts calls, and fails from one of them on.

    Attributes:
        fails_at: number of the first call that fails, from 0; None: none does.
        count: how many calls fail; None: all further ones.
        kind: how.
        calls: what was called, in order.
        folder: databases elsewhere never fail; None: all do.
    """

    fails_at: int | None = None
    count: int | None = 1
    kind: str = "EIO"
    calls: list[str] = field(default_factory=list[str])
    folder: Path | None = None

    def fails(self, call: str) -> bool:
        """Whether this call is to fail."""
        at = len(self.calls)
        self.calls.append(call)
        if self.fails_at is None or at < self.fails_at:
            return False
        return self.count is None or at < self.fails_at + self.count

    def set(self, fails_at: int | None, *, count: int | None = 1, kind: str = "EIO") -> None:
        """Start to count anew."""
        self.calls.clear()
        self.fails_at, self.count, self.kind = fails_at, count, kind

    def error(self) -> OSError:
        """The failure, as the system reports it."""
        number = getattr(errno, self.kind, errno.ENOSPC)
        return OSError(number, os.strerror(number))


class FaultyFileSystem(FileSystem):
    """Calls on files that fail when the disk does, some of them halfway."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def write(self, path: Path, content: bytes) -> None:
        if self.disk.fails("write"):
            if self.disk.kind == "short":
                path.write_bytes(content[: len(content) // 2])
            raise self.disk.error()
        super().write(path, content)
        if self.disk.fails("fsync"):
            raise self.disk.error()

    def replace(self, old: Path, new: Path) -> None:
        if self.disk.fails("rename"):
            raise self.disk.error()
        super().replace(old, new)

    def sync_folder(self, path: Path) -> None:
        if self.disk.fails("fsync of the folder"):
            raise self.disk.error()
        super().sync_folder(path)

    def size(self, path: Path) -> int | None:
        if self.disk.fails("stat"):
            raise self.disk.error()
        return super().size(path)

    def entries(self, folder: Path) -> list[Path]:
        if self.disk.fails("list"):
            raise self.disk.error()
        return super().entries(folder)

    def open(self, path: Path) -> int:
        if self.disk.fails("open"):
            raise self.disk.error()
        return super().open(path)

    def remove(self, path: Path) -> None:
        if self.disk.fails("unlink"):
            raise self.disk.error()
        super().remove(path)


# ---- SQLite --------------------------------------------------------------------------------

_POINTER, _INT, _INT64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_WRITE = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, _INT64)
_SYNC = ctypes.CFUNCTYPE(_INT, _POINTER, _INT)
_TRUNCATE = ctypes.CFUNCTYPE(_INT, _POINTER, _INT64)
_SHM_MAP = ctypes.CFUNCTYPE(_INT, _POINTER, _INT, _INT, _INT, _POINTER)
# Names are passed on as pointers: SQLite keeps them.
_OPEN = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)
_DELETE = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT)

#: SQLite's results for each kind of failure: of a write, a sync, an open.
_RESULTS = {
    "EIO": (778, 1034, 14),
    "ENOSPC": (13, 1034, 14),
    "EROFS": (778, 1034, 14),
    "short": (778, 1034, 14),
}
_SHM_FAILED, _TRUNCATE_FAILED, _DELETE_FAILED = 4874, 1546, 2570


class _Methods(ctypes.Structure):
    """sqlite3_io_methods."""

    _fields_ = [
        ("version", _INT), ("close", _POINTER), ("read", _POINTER), ("write", _WRITE),
        ("truncate", _TRUNCATE), ("sync", _SYNC), ("size", _POINTER), ("lock", _POINTER),
        ("unlock", _POINTER), ("check_lock", _POINTER), ("control", _POINTER),
        ("sector", _POINTER), ("characteristics", _POINTER), ("shm_map", _SHM_MAP),
        ("shm_lock", _POINTER), ("shm_barrier", _POINTER), ("shm_unmap", _POINTER),
        ("fetch", _POINTER), ("unfetch", _POINTER),
    ]  # fmt: skip


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, as far as it is replaced; the rest is copied."""

    _fields_ = [
        ("version", _INT), ("file_size", _INT), ("max_path", _INT), ("next", _POINTER),
        ("name", ctypes.c_char_p), ("data", _POINTER), ("open", _OPEN), ("delete", _DELETE),
        ("rest", _POINTER * 14),
    ]  # fmt: skip


def _library() -> Any:
    """SQLite's library, the one that Python's module uses; None: it cannot be reached."""
    try:
        library: Any = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    except (AttributeError, OSError):
        return None
    library.sqlite3_vfs_register.argtypes = [ctypes.POINTER(_Vfs), _INT]
    library.sqlite3_vfs_unregister.argtypes = [ctypes.POINTER(_Vfs)]
    return library


LIBRARY = _library()


class _FaultyVfs:
    """The system's VFS, with calls that fail when the disk does."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.real = LIBRARY.sqlite3_vfs_find(None)
        self.vfs = _Vfs.from_buffer_copy(self.real.contents)
        self.vfs.name = b"faulty"
        self.vfs.open, self.vfs.delete = _OPEN(self._open), _DELETE(self._delete)
        #: The methods that stand in for each of the system's, by address.
        self.methods: dict[int, _Methods] = {}
        self.stand_ins: dict[int, int] = {}

    def _result(self, index: int) -> int:
        return _RESULTS[self.disk.kind][index]

    def _open(self, vfs: Any, name: int | None, file: int, flags: int, out: Any) -> int:
        folder = self.disk.folder
        path = b"" if name is None else ctypes.string_at(name)
        if folder is not None and not path.startswith(bytes(folder)):
            return self.real.contents.open(vfs, name, file, flags, out)
        if self.disk.fails("open of the database"):
            ctypes.cast(file, ctypes.POINTER(_POINTER))[0] = None
            return self._result(2)
        result: int = self.real.contents.open(vfs, name, file, flags, out)
        slot = ctypes.cast(file, ctypes.POINTER(_POINTER))
        if result == 0 and slot[0]:
            slot[0] = self._stand_in(slot[0])
        return result

    def _delete(self, vfs: Any, name: int, sync: int) -> int:
        if self.disk.fails("unlink of the log"):
            return _DELETE_FAILED
        return self.real.contents.delete(vfs, name, sync)

    def _stand_in(self, address: int) -> int:
        if address not in self.stand_ins:
            real = _Methods.from_address(address)
            made = _Methods.from_buffer_copy(real)
            made.write = _WRITE(self._guarded(real.write, "write of the database", self._short))
            made.sync = _SYNC(self._guarded(real.sync, "fsync of the database", 1))
            made.truncate = _TRUNCATE(
                self._guarded(real.truncate, "truncation of the database", _TRUNCATE_FAILED)
            )
            if real.version >= 2:
                made.shm_map = _SHM_MAP(
                    self._guarded(real.shm_map, "shared memory of the database", _SHM_FAILED)
                )
            self.methods[address] = made
            self.stand_ins[address] = ctypes.addressof(made)
        return self.stand_ins[address]

    def _guarded(self, real: Any, call: str, failure: int | Callable[..., int]) -> Any:
        def guarded(*arguments: Any) -> int:
            if not self.disk.fails(call):
                return real(*arguments)
            if callable(failure):
                return failure(real, *arguments)
            return failure if failure > 1 else self._result(failure)

        return guarded

    def _short(self, real: Any, file: Any, data: Any, size: int, offset: int) -> int:
        if self.disk.kind == "short":
            real(file, data, size // 2, offset)
        return self._result(0)


@contextlib.contextmanager
def faulty_sqlite(disk: Disk) -> Generator[None]:
    """Have all databases that are opened meanwhile fail when the disk does."""
    faulty = _FaultyVfs(disk)
    LIBRARY.sqlite3_vfs_register(ctypes.byref(faulty.vfs), 1)
    try:
        yield
    finally:
        LIBRARY.sqlite3_vfs_unregister(ctypes.byref(faulty.vfs))
        _KEPT.append(faulty)  # a connection may be closed later


_KEPT: list[_FaultyVfs] = []
