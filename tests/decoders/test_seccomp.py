"""What the filter of system calls answers, run by an interpreter of its instructions.

The numbers of calls are held against those of the kernel's headers, in `tests/data`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from trellis2_server.decoders import seccomp
from trellis2_server.decoders.seccomp import _ARCHITECTURES, _REFUSED, _instructions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

PID = 4711
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, MISSING = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
#: Calls that only x86_64 has, and that are refused.
OLD = (
    "fork", "vfork", "rename", "mkdir", "rmdir", "creat", "link", "unlink", "symlink", "chmod",
    "chown", "lchown", "utime", "mknod", "uselib", "iopl", "ioperm", "modify_ldt", "utimes",
    "inotify_init", "futimesat", "tuxcall",
)  # fmt: skip
#: Newer than the headers; from 424 on, all architectures have the same numbers.
NEW = {
    "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467,
    "file_setattr": 469,
}  # fmt: skip


def headers() -> dict[str, tuple[str, str]]:
    lines = (Path(__file__).parents[1] / "data" / "system_calls.txt").read_text().splitlines()
    return {
        name: (x86_64, aarch64)
        for name, x86_64, aarch64 in (line.split() for line in lines if line[0] != "#")
    }


CALLS = headers()
MACHINES = ("x86_64", "aarch64")


def number(name: str, machine: str) -> int:
    return NEW[name] if name in NEW else int(CALLS[name][MACHINES.index(machine)])


def answer(machine: str, call: int, *arguments: int, audit: int | None = None) -> int:
    """Run the filter on a call, as the kernel does: Linux, Documentation/networking/filter.rst."""
    architecture = _ARCHITECTURES[machine]
    program = [struct.unpack("=HBBI", line) for line in _instructions(architecture, PID)]
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", call, architecture.audit if audit is None else audit, 0, *values)
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:  # load a word
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code in {0x15, 0x35}:
            is_true = accumulator == value if code == 0x15 else accumulator >= value
            at += if_true if is_true else if_false
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("machine", MACHINES)
def test_each_call_that_is_to_be_refused_is(machine: str) -> None:
    names = [*_REFUSED, *(OLD if machine == "x86_64" else ())]
    allowed = [name for name in names if answer(machine, number(name, machine)) != REFUSE]
    assert allowed == []
    assert len(set(names)) == len(names) > 110
    assert len(_ARCHITECTURES[machine].refused) == (len(OLD) if machine == "x86_64" else 0)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_computes_and_reads_is_allowed_and_other_tables_are_not(machine: str) -> None:
    for name in ("read", "write", "mmap", "futex", "close", "exit_group"):
        assert answer(machine, number(name, machine)) == ALLOW
    for name in ("clone3", "openat2"):  # libraries use the older ones then
        assert answer(machine, number(name, machine)) == MISSING
    read = number("read", machine)
    assert answer(machine, read | 0x40000000) == REFUSE  # the x32 table
    assert answer(machine, read | 0x3FFFFFFF) == ALLOW
    assert answer(machine, read, audit=0x40000003) == KILL  # 32 bits
    assert _ARCHITECTURES[machine].audit == {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    assert _ARCHITECTURES[machine].seccomp == number("seccomp", machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_files_are_opened_for_reading_only(machine: str) -> None:
    opens = {"openat": 2, **({"open": 1} if machine == "x86_64" else {})}
    read_only, flags = (0, 0o2000000, 0o200000), (0o1, 0o2, 0o100, 0o1000, 0o20000000)
    for name, at in opens.items():
        for value, expected in (
            *((each, ALLOW) for each in read_only),
            *((f, REFUSE) for f in flags),
        ):
            arguments = [0xFFFF, 0xFFFF, 0xFFFF]
            arguments[at] = value
            assert answer(machine, number(name, machine), *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_start_and_processes_do_not(machine: str) -> None:
    clone = number("clone", machine)
    assert answer(machine, clone, 0x003D0F00) == ALLOW  # as glibc starts a thread
    assert answer(machine, clone, 0x00010000) == ALLOW
    for flags in (0x11, 0x4111, 0x01200011, 0x003C0F00):
        assert answer(machine, clone, flags) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_signals_and_limits_are_for_the_process_itself(machine: str) -> None:
    for name in ("kill", "tgkill"):
        call = number(name, machine)
        assert answer(machine, call, PID, 9) == ALLOW
        for other in (PID + 1, 0, 1, 2**32 - 1):
            assert answer(machine, call, other, 9) == REFUSE
    limit = number("prlimit64", machine)
    assert [answer(machine, limit, pid) for pid in (0, PID, 1)] == [ALLOW, ALLOW, REFUSE]


@pytest.mark.parametrize("machine", MACHINES)
def test_descriptors_can_be_asked_but_send_no_signals(machine: str) -> None:
    fcntl = pytest.importorskip("fcntl", reason="needs the numbers of a Unix")
    control, request = number("fcntl", machine), number("ioctl", machine)
    for name in ("F_GETFD", "F_SETFD", "F_GETFL", "F_SETFL", "F_DUPFD", "F_DUPFD_CLOEXEC"):
        assert answer(machine, control, 3, getattr(fcntl, name)) == ALLOW
    for name in ("F_SETOWN", "F_SETSIG", "F_SETLEASE", "F_NOTIFY"):
        assert answer(machine, control, 3, getattr(fcntl, name)) == REFUSE
    assert answer(machine, control, 3, 15) == REFUSE  # F_SETOWN_EX
    termios = pytest.importorskip("termios", reason="needs the numbers of a Unix")
    for name in ("TIOCGWINSZ", "FIONREAD", "FIONBIO", "FIONCLEX", "FIOCLEX"):
        assert answer(machine, request, 3, getattr(termios, name)) == ALLOW
    assert answer(machine, request, 3, 0x5401) == ALLOW  # TCGETS
    assert answer(machine, request, 3, 0x802C542A) == ALLOW  # TCGETS2
    for name in ("TIOCSTI", "FIOASYNC", "TIOCSPGRP", "TIOCSCTTY"):
        assert answer(machine, request, 3, getattr(termios, name)) == REFUSE


class Kernel:
    """Takes a filter, or does not; installs nothing."""

    def __init__(self, *, fails: str = "") -> None:
        self._fails = fails
        self.calls: list[tuple[object, ...]] = []

    def prctl(self, *arguments: int) -> int:
        self.calls.append(arguments)
        return -1 if self._fails == "prctl" else 0

    def syscall(self, number: int, mode: int, flags: int, program: Any) -> int:
        self.calls.append((number, mode, flags, program._obj.length))
        return -1 if self._fails == "seccomp" else 0


@pytest.mark.parametrize("fails", ["", "prctl", "seccomp"])
def test_the_filter_is_for_all_threads_and_cannot_be_left(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    kernel = Kernel(fails=fails)
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: kernel)
    assert seccomp.filter_calls() is (not fails)
    length = len(_instructions(_ARCHITECTURES["x86_64"], os.getpid()))
    installed = [] if fails == "prctl" else [(317, 1, 1 | 4, length)]
    assert kernel.calls == [(38, 1, 0, 0, 0), *installed]


def test_an_unknown_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    assert seccomp.filter_calls() is False
    assert _ARCHITECTURES["AMD64"] is _ARCHITECTURES["x86_64"]
    assert _ARCHITECTURES["arm64"] is _ARCHITECTURES["aarch64"]
