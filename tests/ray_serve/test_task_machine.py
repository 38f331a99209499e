"""Tasks whose machine is lost while nobody closes their connections."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs ray")

from ray.exceptions import NodeDiedError

from trellis2_server.ray_serve import task_machine
from trellis2_server.ray_serve.task_machine import TaskMachine

_PATIENCE_S = 30.0


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether each machine of a cluster is alive; a test changes it."""
    machines = {"a": True, "b": True}

    def nodes() -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": is_alive} for node, is_alive in machines.items()]

    def wait(references: list[threading.Event], timeout: float) -> tuple[list[Any], list[Any]]:
        [reference] = references
        return ([reference], []) if reference.wait(timeout) else ([], [reference])

    monkeypatch.setattr(task_machine.ray, "nodes", nodes)
    monkeypatch.setattr(task_machine.ray, "wait", wait)
    monkeypatch.setattr(task_machine.ray, "get", lambda _: "bytes")
    monkeypatch.setattr(task_machine, "CHECK_INTERVAL_S", 0.001)
    return machines


def run_until(machine: TaskMachine, change: Any) -> Any:
    """Watch a task that ends when `change` returns its outcome, called while it runs."""

    async def main() -> Any:
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        watching = asyncio.ensure_future(machine.watch(outcome))
        await asyncio.sleep(0)
        found = change()
        if found is not None:
            outcome.set_result(found)
        try:
            return await asyncio.wait_for(watching, _PATIENCE_S)
        finally:
            assert outcome.done()

    return asyncio.run(main())


def test_a_task_ends_with_an_error_when_its_machine_is_lost(alive: dict[str, bool]) -> None:
    with pytest.raises(NodeDiedError):
        run_until(TaskMachine("a"), lambda: alive.update(a=False))


def test_it_is_the_machine_on_which_the_task_has_started(alive: dict[str, bool]) -> None:
    machine = TaskMachine("a")
    machine.note("b")
    alive["a"] = False
    assert run_until(machine, lambda: "outcome") == "outcome"
    with pytest.raises(NodeDiedError):
        run_until(machine, lambda: alive.update(b=False))


def test_a_task_that_prefers_a_lost_machine_runs_on_another_one(alive: dict[str, bool]) -> None:
    alive["a"] = False
    assert TaskMachine("a").node is None
    assert TaskMachine(None).node is None
    assert run_until(TaskMachine("a"), lambda: "outcome") == "outcome"


def test_a_thread_that_waits_for_a_task_notices_too(alive: dict[str, bool]) -> None:
    reference = threading.Event()
    machine = TaskMachine("a")
    alive["a"] = False
    with pytest.raises(NodeDiedError):
        machine.get(reference)
    reference.set()
    assert machine.get(reference) == "bytes"
