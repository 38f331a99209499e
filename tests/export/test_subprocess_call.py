from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export import cancellation, subprocess_call

if TYPE_CHECKING:
    import subprocess


def _arrays() -> dict[str, np.ndarray]:
    mesh = shapes.torus(300, 200)
    return {
        "vertices": mesh.vertices, "faces": mesh.faces,
        "size_px": np.array(64), "gap_px": np.array(1),
    }  # fmt: skip


def test_a_library_is_stopped_at_its_deadline_and_its_failure_is_an_error() -> None:
    with pytest.raises((ExportError, MissingPackageError)):
        subprocess_call.call("xatlas", _arrays(), 0.01)
    with pytest.raises((ExportError, MissingPackageError)):
        subprocess_call.call("xatlas", {"nothing": np.zeros(1)}, 60)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess_call.subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess_call.subprocess, "Popen", start)
    return started


def test_a_library_is_killed_when_the_export_is_cancelled(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    class StopError(Exception):
        pass

    def report(_stage: str, _step: int, _steps: int) -> None:
        if processes:
            raise StopError

    # 120,000 faces take xatlas seconds; importing the packages alone takes longer than a check.
    with pytest.raises(StopError), cancellation.cancellable(report, "unwrap"):
        subprocess_call.call("xatlas", _arrays(), 600)
    (process,) = processes
    assert process.returncode not in (None, 0)


def test_input_and_output_larger_than_a_pipe_arrive_whole_after_many_checks() -> None:
    pytest.importorskip("xatlas")
    checks = threading.Semaphore(0)

    def report(_stage: str, _step: int, _steps: int) -> None:
        checks.release()

    mesh = shapes.torus(60, 40)
    arrays = _arrays() | {
        "vertices": mesh.vertices,
        "faces": mesh.faces,
        "ballast": np.zeros(10**6),
    }
    with cancellation.cancellable(report, "unwrap"):
        result = subprocess_call.call("xatlas", arrays, 600)
    assert len(result["faces"]) == len(mesh.faces)
    assert checks.acquire(blocking=False)
