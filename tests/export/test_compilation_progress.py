"""What a compilation tells of its progress; nothing is compiled here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.server import until
from trellis2_server.engines.preview import PreviewEngine, kernels
from trellis2_server.export import compilation
from trellis2_server.export.compilation import COMMON, Compilation

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.reports import Report

#: Programs of processes that compile a part.
ENDS = "pass"
FAILS = "raise SystemExit(1)"
HANGS = "import threading; threading.Event().wait()"


def recorded() -> tuple[list[tuple[str, int, int]], Report]:
    """Return a list of reports, and the function that adds to it."""
    reports: list[tuple[str, int, int]] = []

    def report(stage: str, step: int, steps: int) -> None:
        reports.append((stage, step, steps))

    return reports, report


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[subprocess.Popen[bytes]]]:
    """Sets what the processes run, and which parts are compiled; returns the processes.

    Loading a part, and compiling it in this process, takes no time.
    """

    def set_up(program: str, *compiled: str) -> list[subprocess.Popen[bytes]]:
        started: list[subprocess.Popen[bytes]] = []

        def start(part: str, niceness: int = 0) -> subprocess.Popen[bytes]:
            del part, niceness
            started.append(subprocess.Popen([sys.executable, "-c", program]))
            return started[-1]

        monkeypatch.setattr(compilation, "_start", start)
        monkeypatch.setattr(compilation, "_compile", str)
        monkeypatch.setattr(compilation, "is_compiled", compiled.__contains__)
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
        return started

    return set_up


@pytest.mark.parametrize("program", [ENDS, FAILS], ids=["end", "fail"])
@pytest.mark.parametrize("compiled", [(), COMMON[:2], COMMON], ids=["none", "two", "all"])
def test_each_part_that_is_loaded_is_a_step(
    processes: Callable[..., list[subprocess.Popen[bytes]]], compiled: tuple[str, ...], program: str
) -> None:
    started = processes(program, *compiled)
    reports, report = recorded()
    with Compilation() as work:
        work.finish(report)
    steps = len(COMMON)
    # The same progress may be reported several times.
    assert list(dict.fromkeys(reports)) == [("exporter", step, steps) for step in range(steps + 1)]
    assert len(started) <= steps - len(compiled)


def test_a_report_that_raises_ends_a_compilation_whose_processes_hang(
    processes: Callable[..., list[subprocess.Popen[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_REPORT_S", 0.01)
    started = processes(HANGS)
    times = iter(range(len(COMMON) + 4))  # it is called again and again while it waits

    def stop_later(stage: str, step: int, steps: int) -> None:
        if next(times, None) is None:
            raise InterruptedError(f"{stage}: {step} of {steps}")

    def compile_all() -> None:
        with Compilation() as work:
            # Both processes have begun before this one takes the last part.
            until(lambda: len(started) == 2, "both processes")
            work.finish(stop_later)

    with pytest.raises(InterruptedError, match="exporter"):
        compile_all()
    assert [each.returncode is not None for each in started] == [True, True]


@pytest.mark.parametrize(("compiled", "said"), [(COMMON[:1], 1), (COMMON, 0)], ids=["some", "all"])
def test_the_log_says_when_loops_have_to_be_compiled(
    processes: Callable[..., list[subprocess.Popen[bytes]]],
    compiled: tuple[str, ...],
    said: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    processes(ENDS, *compiled)
    with caplog.at_level(logging.INFO), Compilation() as work:
        work.finish()
    lines = [each for each in caplog.records if each.getMessage().startswith("Compiling loops")]
    assert [vars(each)["parts"] for each in lines] == [list(COMMON[1:])] * said


def test_the_preview_engine_reports_each_module_of_loops() -> None:
    reports, report = recorded()
    PreviewEngine().load(report)
    count = len(kernels.MODULES)
    assert reports == [("compile", step, count) for step in range(count + 1)]
