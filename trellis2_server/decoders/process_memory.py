"""How much memory another process uses, for systems that do not limit it.

Does not know: which process it is, what happens when it is too much.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, Final

_PROC_PIDTASKINFO: Final = 4  # macOS, sys/proc_info.h
_PROCESS_QUERY_LIMITED_INFORMATION: Final = 0x1000  # Windows


class _TaskInfo(ctypes.Structure):
    """`struct proc_taskinfo` of macOS; the rest of it is not used."""

    _fields_ = (
        ("virtual", ctypes.c_uint64), ("resident", ctypes.c_uint64), ("rest", ctypes.c_byte * 80),
    )  # fmt: skip


class _Counters(ctypes.Structure):
    """`PROCESS_MEMORY_COUNTERS` of Windows."""

    _fields_ = (
        ("cb", ctypes.c_uint32), ("faults", ctypes.c_uint32),
        *((name, ctypes.c_size_t) for name in (
            "peak_working_set", "working_set", "peak_paged", "paged", "peak_non_paged",
            "non_paged", "page_file", "peak_page_file",
        )),
    )  # fmt: skip


def resident_bytes(pid: int) -> int | None:
    """Return the memory that a process of this user has in use; None: it cannot be read."""
    try:
        if sys.platform == "darwin":
            return _on_macos(pid)
        if sys.platform == "win32":
            return _on_windows(pid)
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _on_macos(pid: int) -> int | None:
    """Ask libproc."""
    info = _TaskInfo()
    size = ctypes.sizeof(info)
    library = ctypes.CDLL("/usr/lib/libproc.dylib")
    got = library.proc_pidinfo(pid, _PROC_PIDTASKINFO, ctypes.c_uint64(0), ctypes.byref(info), size)
    return info.resident if got == size else None


def _on_windows(pid: int) -> int | None:
    """Ask the kernel for the private memory."""
    kernel: Any = ctypes.WinDLL("kernel32")  # pyright: ignore[reportAttributeAccessIssue]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel.OpenProcess(_PROCESS_QUERY_LIMITED_INFORMATION, 0, pid))
    if not handle:
        return None
    counters = _Counters(cb=ctypes.sizeof(_Counters))
    try:
        is_read = kernel.K32GetProcessMemoryInfo(handle, ctypes.byref(counters), counters.cb)
        return counters.page_file if is_read else None
    finally:
        kernel.CloseHandle(handle)
