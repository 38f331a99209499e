"""Graphs of calls on the CPU, for `compilation.graphs`: what a CUDA graph is, in PyTorch's calls.

A capture records each operation with the tensors that it read and wrote. A replay runs the
operations again on the same tensors and the same memory: it sees inputs only if they were copied
there, and no Python code. As with a device:

- a capture computes nothing: floating-point results are NaN until the first replay;
- operations that wait for the device, or copy from Python data, are refused if asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: Operations that wait for a CUDA device, or copy to it from pageable memory.
WAITING = (
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::lift_fresh",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique",
)


class RecordedGraphs:
    """Captures by recording.

    Args:
        refuses_waiting: whether operations that wait for a device fail in a capture.
        errors: number of the capture, from 0 → error that it raises at its end.
        computes: whether replays compute.

    Attributes:
        captured: graphs that were captured.
        replays: replays of all graphs.
        live: graphs that were not released.
        pools: pools that were made.
        operations: names of all captured operations.
    """

    def __init__(
        self,
        *,
        refuses_waiting: bool = False,
        errors: dict[int, Exception] | None = None,
        computes: bool = True,
    ) -> None:
        self.refuses_waiting = refuses_waiting
        self.computes = computes
        self.errors = errors or {}
        self.attempts = self.captured = self.replays = self.live = self.pools = 0
        self.operations: set[str] = set()

    def new_pool(self) -> object:
        self.pools += 1
        return object()

    def rehearse(self, evaluate: Callable[[], Any]) -> Any:
        with recorder([], "called a synchronizing CUDA operation", self.refuses_waiting):
            return evaluate()

    def capture(self, evaluate: Callable[[], Any], pool: object) -> tuple[RecordedGraph, Any]:
        assert pool is not None
        calls: list[Any] = []
        refused = "CUDA error: operation not permitted when stream is capturing"
        self.attempts += 1
        with recorder(calls, refused, self.refuses_waiting):
            result = evaluate()
        if self.attempts - 1 in self.errors:
            raise self.errors[self.attempts - 1]
        self.captured += 1
        self.live += 1
        self.operations |= {func.name() for func, *_ in calls}
        for value in made(calls):
            if value.is_floating_point() or value.is_complex():
                value.fill_(float("nan"))
        return RecordedGraph(self, calls), result


class RecordedGraph:
    """Operations that were recorded."""

    def __init__(self, graphs: RecordedGraphs, calls: list[Any]) -> None:
        self._graphs = graphs
        self._calls: list[Any] | None = calls

    def replay(self) -> None:
        assert self._calls is not None, "a released graph is replayed"
        self._graphs.replays += 1
        if not self._graphs.computes:
            return
        for func, args, kwargs, result in self._calls:
            for new, old in zip(
                tensors(func(*args, **kwargs)), tensors(result), strict=True
            ):  # fmt: skip
                if new.data_ptr() != old.data_ptr():
                    old.copy_(new)

    def release(self) -> None:
        assert self._calls is not None, "a graph is released twice"
        self._calls = None
        self._graphs.live -= 1


def tensors(values: Any) -> list[Any]:
    torch: Any = importlib.import_module("torch")
    leaves: Any = importlib.import_module("torch.utils._pytree").tree_leaves
    return [value for value in leaves(values) if isinstance(value, torch.Tensor)]


def made(calls: list[Any]) -> list[Any]:
    """Tensors of a recording that no operation read before they were made."""
    before: set[int] = set()
    found: dict[int, Any] = {}
    for _, args, kwargs, result in calls:
        before |= {v.untyped_storage().data_ptr() for v in tensors((args, kwargs))} - found.keys()
        for value in tensors(result):
            address = value.untyped_storage().data_ptr()
            if address not in before:
                found[address] = value
    return list(found.values())


def recorder(calls: list[Any], refused: str, refuses_waiting: bool) -> Any:  # noqa: FBT001
    modes: Any = importlib.import_module("torch.utils._python_dispatch")

    class Recorder(modes.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            if refuses_waiting and func.name().startswith(WAITING):
                raise RuntimeError(f"{refused} ({func.name()})")
            result = func(*args, **(kwargs or {}))
            calls.append((func, args, kwargs or {}, result))
            return result

    return Recorder()
