"""Counts calls of PyTorch that wait for a GPU, in a run on the CPU.

On a GPU, these calls wait until all earlier work is done: copies of pageable memory to the device
and every read of a result by the CPU.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Generator

#: Operations that read from the device: a number, or the size of their result.
READS = ("_local_scalar_dense", "nonzero", "bincount", "repeat_interleave", "unique_dim")


class _Copies(torch.overrides.TorchFunctionMode):
    def __init__(self, counted: Counter[str]) -> None:
        super().__init__()
        self._counted = counted

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to = [*args[1:], *kwargs.values()] if func is torch.Tensor.to else []
        made = [kwargs.get("device")] if func in {torch.tensor, torch.as_tensor} else []
        if any(isinstance(value, (torch.device, str)) for value in [*to, *made]):
            self._counted["copies"] += 1
        return func(*args, **kwargs)


@contextlib.contextmanager
def counted_waits() -> Generator[Counter[str], None, None]:
    """Count within the block: `copies` to a device, and each of `READS`."""
    counted: Counter[str] = Counter()
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        _Copies(counted),
    ):
        yield counted
    for event in profile.key_averages():
        name = event.key.removeprefix("aten::")
        if name in READS:
            counted[name] += event.count
