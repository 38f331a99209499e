from __future__ import annotations

import contextlib
import importlib
from typing import Any

import pytest

from trellis2_server.engines.trellis2.compilation.externals import recording, visible


@pytest.fixture
def compiled(torch: Any) -> Any:
    """A compiled function of two tensors, `runs` of which are counted."""
    runs: list[int] = []

    def backend(module: Any, _: Any) -> Any:
        def run(*args: Any) -> Any:
            runs.append(1)
            return module.forward(*args)

        return run

    def function(x: Any, y: Any) -> Any:
        return x * y + 1

    importlib.import_module("torch._dynamo").reset()
    call = torch.compile(function, backend=backend, fullgraph=True)
    call(torch.ones(2), torch.ones(2))
    runs.clear()
    return call, runs


def addresses(memories: list[Any]) -> set[int]:
    return {memory.data_ptr() for memory in memories}


def test_memory_that_was_there_before_is_recorded_once(torch: Any) -> None:
    x, weight, externals = torch.ones(2), torch.ones(2), list[Any]()
    with recording(torch, externals):
        made = x * weight
        result = made + weight[:1]
    assert result.tolist() == [2, 2]
    assert addresses(externals) == {x.data_ptr(), weight.data_ptr()}
    assert len(externals) == 2


def test_nothing_is_recorded_outside(torch: Any) -> None:
    externals: list[Any] = []
    with recording(torch, externals):
        pass
    torch.ones(2).mul(2)
    assert externals == []


def test_a_compiled_function_runs_compiled_and_is_seen(torch: Any, compiled: Any) -> None:
    call, runs = compiled
    seen = visible(call)
    x, y, externals = torch.ones(2), torch.full((2,), 3.0), list[Any]()
    with recording(torch, externals):
        made = seen(x, y)
        again = seen(made, y) - made
    assert again.tolist() == [9, 9]
    assert len(runs) == 2
    assert addresses(externals) == {x.data_ptr(), y.data_ptr()}
    seen(x, y)
    assert len(runs) == 3


def test_a_function_that_is_not_wrapped_does_not_run_compiled(torch: Any, compiled: Any) -> None:
    call, runs = compiled
    with recording(torch, []), contextlib.suppress(RuntimeError):  # of newer versions of PyTorch
        call(torch.ones(2), torch.ones(2))
    assert runs == []  # if this changes, `visible` is no longer needed


def test_recording_ends_with_an_error(torch: Any, compiled: Any) -> None:
    call, runs = compiled
    externals: list[Any] = []
    with pytest.raises(ValueError, match="no"), recording(torch, externals):
        raise ValueError("no")
    visible(call)(torch.ones(2), torch.ones(2))
    assert len(runs) == 1
    assert externals == []
