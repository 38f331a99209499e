"""Memory that an evaluation reads and did not make itself: what a CUDA graph must keep alive.

A graph has only addresses. Caches of the model may drop a tensor that the graph still reads.

PyTorch's dispatcher shows each call with its tensors. It does not see into a function of
`torch.compile`, and such a function does not even run while somebody watches the dispatcher:
PyTorch runs the uncompiled one, or raises. So compiled functions are wrapped in `visible`.

Does not know: graphs, models.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_recorders = threading.local()


def visible(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function that runs compiled, and is seen, within `recording`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        recorder: _Recorder | None = getattr(_recorders, "current", None)
        if recorder is None:
            return function(*args, **kwargs)
        with _unwatched():
            result = function(*args, **kwargs)
        recorder.note((args, kwargs), result)
        return result

    return call


@contextlib.contextmanager
def recording(torch: Any, externals: list[Any]) -> Generator[None, None, None]:
    """Add the memory that calls in this thread read and did not make themselves.

    Args:
        torch: PyTorch.
        externals: gets untyped storages, each once.
    """
    modes: Any = importlib.import_module("torch.utils._python_dispatch")
    recorder = _Recorder(torch, externals)

    class Watch(modes.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            recorder.note((args, kwargs), result)
            return result

    _recorders.current = recorder
    try:
        with Watch():
            yield
    finally:
        _recorders.current = None


class _Recorder:
    """What calls read and what they made."""

    def __init__(self, torch: Any, externals: list[Any]) -> None:
        self._tensor: type = torch.Tensor
        self._leaves: Any = importlib.import_module("torch.utils._pytree").tree_leaves
        self._externals = externals
        self._made: set[int] = set()
        self._seen: set[int] = set()

    def note(self, arguments: Any, result: Any) -> None:
        """Note a call that ended."""
        for memory in self._memories(arguments):
            address = memory.data_ptr()
            if address not in self._made and address not in self._seen:
                self._seen.add(address)
                self._externals.append(memory)
        self._made.update({memory.data_ptr() for memory in self._memories(result)} - self._seen)

    def _memories(self, values: Any) -> Generator[Any, None, None]:
        for value in self._leaves(values):
            if isinstance(value, self._tensor):
                yield value.untyped_storage()


def _unwatched() -> Any:
    """Return a context in which no dispatch mode is active."""
    modes: Any = importlib.import_module("torch.utils._python_dispatch")
    return modes._disable_current_modes()  # noqa: SLF001 - PyTorch has no public one
