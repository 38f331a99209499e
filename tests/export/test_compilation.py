from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.export.test_export import ROOT, python
from trellis2_server.export import compilation
from trellis2_server.export.compilation import PARTS, Compilation

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

ASK = (
    "from trellis2_server.export.compilation import PARTS, is_compiled\n"
    "print([part for part in PARTS if is_compiled(part)])"
)


def test_the_parts_together_are_all_that_an_export_needs() -> None:
    code = """
import importlib
from trellis2_server.export import compilation
names = [name for names in compilation.PARTS.values() for name in names]
modules = [importlib.import_module(f'trellis2_server.export.kernels.{name}') for name in names]
loops = {k for m in modules for k in vars(m).values() if hasattr(k, 'signatures')}
for part in compilation.PARTS:
    compilation._compile(part)
before = {k: len(k.signatures) for k in loops}
assert sum(before.values()) > 50
compilation._export(remesh=True)
print({k.__name__ for k in loops if len(k.signatures) > before[k]})
"""
    done = python(code)
    assert done.stdout.strip() == "set()", done.stderr


def test_what_is_compiled_is_known_without_compiling_it(tmp_path: Path) -> None:
    assert python("from trellis2_server import export; export.warm_up(remesh=True)").stderr == ""
    assert python(ASK).stdout.strip() == str(list(PARTS))
    assert python(ASK, NUMBA_CACHE_DIR=str(tmp_path)).stdout.strip() == "[]"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, subprocess.Popen[bytes]]]:
    """The processes that a compilation begins as if nothing were compiled yet."""
    processes: list[tuple[str, subprocess.Popen[bytes]]] = []
    real = compilation._begin

    def begin(part: str) -> subprocess.Popen[bytes] | None:
        process = real(part)
        if process is not None:
            processes.append((part, process))
        return process

    monkeypatch.setattr(compilation, "_begin", begin)
    monkeypatch.setattr(compilation, "is_compiled", lambda _: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    return processes


def test_other_processes_take_their_share(
    begun: list[tuple[str, subprocess.Popen[bytes]]],
) -> None:
    with Compilation() as work:
        work.finish()
    assert 1 <= len(begun) <= 3
    assert [process.returncode for _, process in begun] == [0] * len(begun)
    assert {part for part, _ in begun} <= {"prepare", "unwrap", "paint"}


def test_nobody_compiles_on_when_the_loading_has_ended(
    begun: list[tuple[str, subprocess.Popen[bytes]]],
) -> None:
    with Compilation(remesh=True):
        pass
    assert all(process.returncode is not None for _, process in begun)


def test_a_process_that_cannot_be_started_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "is_compiled", lambda _: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(sys, "executable", str(ROOT / "no such interpreter"))
    with Compilation() as work:
        work.finish()
