"""Count what would make the CPU wait for a GPU, while the tensors are on the CPU; needs torch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Operators of ATen whose result on the CPU, or its size, depends on the device's data. CUDA's
#: `bincount` reads the largest value; `_linalg_check_errors` reads whether a solver failed.
_OPERATORS = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
#: Methods that read the data of a tensor on the CPU without an operator.
_READERS = {"tolist", "numpy", "__array__"}
#: Functions that copy Python's numbers to the device, and wait for the copy.
_WRITERS = {"tensor", "as_tensor", "new_tensor"}


class _Operators(TorchDispatchMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        is_masked = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype in {torch.bool, torch.uint8}
            for index in (args[1] if isinstance(args[1], list | tuple) else [])
        )
        is_open = func is torch.ops.aten.repeat_interleave.Tensor and not kwargs.get("output_size")
        if name in _OPERATORS or is_masked or is_open:
            self._waits.append(f"{name} with a mask" if is_masked else name)
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READERS or (name in _WRITERS and not isinstance(args[-1], torch.Tensor)):
            self._waits.append(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def waits_for_device() -> Iterator[list[str]]:
    """Collect the names of operators and functions that would wait for the device."""
    waits: list[str] = []
    with _Functions(waits), _Operators(waits):
        yield waits
