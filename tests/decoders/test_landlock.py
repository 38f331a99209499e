"""What a decoder asks of the kernel's Landlock, of each of its versions.

Rights: Linux, include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.descriptors import open_files
from trellis2_server.decoders import landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3


class Kernel:
    """Answers as a kernel with a version of Landlock; restricts nothing.

    Attributes:
        handled: the rights on files, on the network, and the scopes of the ruleset.
        allowed: rights by path.
        calls: what was asked besides, in order.
    """

    def __init__(self, version: int, *, fails: str = "") -> None:
        self._version = version
        self._fails = fails
        self.handled: tuple[int, ...] = ()
        self.allowed: dict[str, int] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.ruleset = -1

    def syscall(self, number: int, *arguments: Any) -> int:
        if number == 444:
            return self._create(*arguments)
        if number == 445:
            ruleset, kind, rule, flags = arguments
            assert (ruleset, kind, flags.value) == (self.ruleset, 1, 0)
            rights, folder = struct.unpack("=Qi", bytes(rule._obj))
            self.allowed[str(Path(f"/proc/self/fd/{folder}").readlink())] = rights
            return 0
        assert number == 446
        self.calls.append(("restrict", arguments[0], arguments[1].value))
        return -1 if self._fails == "restrict" else 0

    def _create(self, rules: Any, size: Any, flags: Any) -> int:
        if rules is None:
            assert (size.value, flags) == (0, 1)
            return self._version
        assert flags.value == 0
        self.handled = struct.unpack("=QQQ", bytes(rules._obj))[: size.value // 8]
        if self._fails == "create":
            return -1
        self.ruleset = os.open("/dev/null", os.O_RDONLY)
        return self.ruleset

    def prctl(self, option: int, *arguments: int) -> int:
        self.calls.append(("prctl", option, *arguments))
        return -1 if self._fails == "prctl" else 0


def restricted(
    monkeypatch: pytest.MonkeyPatch, kernel: Kernel, folders: tuple[str, ...] = ()
) -> bool:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: kernel)
    return landlock.restrict_files(folders)


@pytest.mark.parametrize(
    ("version", "handled"),
    [
        (1, (0x1FFF,)),
        (2, (0x3FFF,)),  # to move files to other folders
        (3, (0x7FFF,)),  # to truncate them
        (4, (0x7FFF, 3)),  # to bind and connect
        (5, (0xFFFF, 3)),  # to control devices
        (6, (0xFFFF, 3, 3)),  # abstract sockets and signals
        (9, (0xFFFF, 3, 3)),
    ],
)
def test_all_rights_that_a_version_knows_are_taken_away(
    monkeypatch: pytest.MonkeyPatch, version: int, handled: tuple[int, ...]
) -> None:
    kernel = Kernel(version)
    assert restricted(monkeypatch, kernel) is True
    assert kernel.handled == handled
    assert kernel.calls == [("prctl", 38, 1, 0, 0, 0), ("restrict", kernel.ruleset, 0)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.ruleset)


def test_files_may_be_read_and_run_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    kernel = Kernel(6)
    wanted = tuple(str(tmp_path / name) for name in ("folder", "file", "none"))
    before = open_files()
    assert restricted(monkeypatch, kernel, wanted)
    assert open_files() == before
    assert kernel.allowed[wanted[0]] == EXECUTE | READ_FILE | READ_DIR
    assert kernel.allowed[wanted[1]] == EXECUTE | READ_FILE
    assert wanted[2] not in kernel.allowed
    assert str(tmp_path) not in kernel.allowed
    assert set(kernel.allowed.values()) == {
        EXECUTE | READ_FILE | READ_DIR, EXECUTE | READ_FILE,
    }  # fmt: skip
    assert {"/", "/etc", "/home", "/root", "/proc", "/dev"}.isdisjoint(kernel.allowed)


@pytest.mark.parametrize("version", [0, -1])
def test_a_kernel_without_it_is_told(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    kernel = Kernel(version)
    assert restricted(monkeypatch, kernel) is False
    assert kernel.calls == []


@pytest.mark.parametrize("fails", ["create", "prctl", "restrict"])
def test_a_kernel_that_refuses_is_told_and_nothing_stays_open(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    kernel = Kernel(6, fails=fails)
    before = open_files()
    assert restricted(monkeypatch, kernel) is False
    assert open_files() == before
