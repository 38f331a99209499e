from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs ray")

from trellis2_server.errors import EngineError
from trellis2_server.ray_serve.engine_monitor import EngineMonitor


def status(value: str, **replicas: int) -> Any:
    """What `serve.status()` says about a deployment."""
    states = {state.upper(): n for state, n in replicas.items()}
    return SimpleNamespace(status=SimpleNamespace(value=value), replica_states=states)


def progress_of_wait(monitor: EngineMonitor) -> list[int]:
    steps: list[int] = []
    monitor.wait(lambda _stage, step, _steps: steps.append(step))
    return steps


def test_the_wait_ends_when_one_engine_runs() -> None:
    monitor = EngineMonitor("app")
    monitor.update(status("UPDATING", starting=2))
    assert monitor.error is None
    monitor.update(status("UPDATING", starting=1, running=1))
    assert progress_of_wait(monitor) == [0, 1]
    assert monitor.replicas == {"starting": 1, "running": 1}


def test_the_wait_fails_when_serve_has_given_up() -> None:
    monitor = EngineMonitor("app")
    monitor.note_load("127.0.0.1", "no weights")
    monitor.update(status("DEPLOY_FAILED"))
    with pytest.raises(EngineError, match="no weights"):
        progress_of_wait(monitor)


def test_each_reason_is_named_once() -> None:
    monitor = EngineMonitor("app")
    monitor.update(status("DEPLOY_FAILED"))
    assert monitor.error == "no engine could be started"
    for node, error in [("a", "no weights"), ("b", "no weights"), ("c", "no GPU")]:
        monitor.note_load(node, error)
    assert monitor.error == "no weights; no GPU"


def test_an_engine_that_runs_leaves_the_failures_of_other_machines_in_the_notes() -> None:
    monitor = EngineMonitor("app")
    monitor.note_load("a", "no weights")
    monitor.note_load("b", "no GPU")
    monitor.note_load("b", None)
    monitor.update(status("DEPLOY_FAILED", running=1))
    assert monitor.error is None
    assert monitor.notes == ["the engine on a could not be loaded: no weights"]
