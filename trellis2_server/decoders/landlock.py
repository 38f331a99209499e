"""Landlock for a decoder on Linux: it reads only the files that its libraries need.

So a file that takes over a decoder cannot read the server's configuration, its keys, results, or
the memory and environment of its process. Needs no privileges, and cannot be removed.

Numbers: Linux, include/uapi/linux/landlock.h.

Does not know: what is decoded.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CREATE_RULESET: Final = 444  # the same on all architectures
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

_EXECUTE, _READ, _READ_FOLDER = 1, 4, 8
#: All rights on files that each version knows; a version that is not listed has at least these.
_FILE_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
#: The version that also restricts connections, and the rights to bind and connect.
_NETWORK_VERSION: Final = 4
_NETWORK_RIGHTS: Final = 3
#: The version that also restricts abstract sockets and signals.
_SCOPE_VERSION: Final = 6
_SCOPES: Final = 3

#: What libraries read besides their own files: the linker, zones, processors, devices.
_SYSTEM: Final = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64",
    "/usr/share/zoneinfo", "/nix/store", "/gnu/store", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/alternatives",
    "/sys/devices/system", "/sys/fs/cgroup", "/dev/null", "/dev/zero", "/dev/urandom",
    "/dev/random", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
    "/proc/sys", "/proc/mounts",
)  # fmt: skip


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64),
    )  # fmt: skip


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def restrict_files(folders: Iterable[str] = ()) -> bool:
    """Restrict this process to reading what it needs; return whether it is restricted.

    Other threads stay as they are; those that start later are restricted too.

    Args:
        folders: further files and folders that may be read.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version: int = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    rights = max(value for known, value in _FILE_RIGHTS.items() if known <= version)
    rules = _Ruleset(
        rights,
        _NETWORK_RIGHTS if version >= _NETWORK_VERSION else 0,
        _SCOPES if version >= _SCOPE_VERSION else 0,
    )
    size = 8 if version < _NETWORK_VERSION else 16 if version < _SCOPE_VERSION else 24
    ruleset: int = libc.syscall(
        _CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    if ruleset < 0:
        return False
    try:
        for path in _paths(folders):
            _allow(libc, ruleset, path)
        return (
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            and libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0
        )
    finally:
        os.close(ruleset)


def _paths(folders: Iterable[str]) -> Iterator[str]:
    """Yield what may be read."""
    own = f"/proc/{os.getpid()}"
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values())
    yield from dict.fromkeys((*_SYSTEM, own, *filter(None, libraries), *python, *folders))
    for folder in map(Path, sys.path):
        if folder.name in {"site-packages", "dist-packages"}:
            yield str(folder)
        elif folder.is_dir():
            # A folder of programs: their packages, but not the files that lie beside them.
            for path in folder.iterdir():
                if path.suffix in {".py", ".so", ".zip"} or (path / "__init__.py").is_file():
                    yield str(path)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    """Allow reading of a file, or of everything in a folder; of nothing if it does not exist."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = _READ | _EXECUTE
        if Path(path).is_dir():
            rights |= _READ_FOLDER
        rule = _PathBeneath(rights, descriptor)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(descriptor)
