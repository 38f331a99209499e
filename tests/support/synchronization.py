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
#: Functions that copy a number to the device, and wait for the copy.
_WRITERS = {"tensor", "as_tensor", "new_tensor"}


class _Operators(TorchDispatchMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        if any(i is not None and i.dtype in {torch.bool, torch.uint8} for i in indices):
            self._waits.append("mask")
        # A list that becomes a tensor, as an index too, is copied. Single numbers are arguments.
        elif name == "lift_fresh" and args[0].dim():
            self._waits.append("list")
        elif name in _OPERATORS or (
            func is torch.ops.aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        ):
            self._waits.append(name)
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        result = func(*args, **(kwargs or {}))
        is_number = name in _WRITERS and not isinstance(args[-1], torch.Tensor) and not result.dim()
        if name in _READERS or is_number:
            self._waits.append(name)
        return result


@contextlib.contextmanager
def waits_for_device() -> Iterator[list[str]]:
    """Collect a name for each operator or function that would wait for the device."""
    waits: list[str] = []
    with _Functions(waits), _Operators(waits):
        yield waits
