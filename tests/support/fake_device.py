"""A device that lies in the CPU's memory: it computes, and counts what is copied to it.

Its memory is counted by the weights that are on it, and is otherwise what a test sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trellis2_server.engines.trellis2.residency import DeviceResidency
from trellis2_server.engines.trellis2.weight_copies import Upload, WeightCopies

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

#: More than any test's weights, bytes.
PLENTY = 10**12


class CountingCopies(WeightCopies):
    """Copies within the CPU's memory.

    Attributes:
        to_device: bytes of each upload, in order.
        ahead: whether it was made ahead, of each.
        to_host: bytes that were copied to host memory.
        fails: uploads that fail next.
    """

    def __init__(self, torch: Any) -> None:
        super().__init__(torch, "cpu")
        self.to_device: list[int] = []
        self.ahead: list[bool] = []
        self.to_host = 0
        self.fails = 0

    @property
    def can_copy_ahead(self) -> bool:
        return True

    def store(self, target: Any, source: Any) -> None:
        self.to_host += source.numel() * source.element_size()
        super().store(target, source)

    def upload(self, slabs: Sequence[Any], *, ahead: bool = False) -> Upload:
        if self.fails:
            self.fails -= 1
            raise self._torch.OutOfMemoryError("CUDA out of memory")
        self.to_device.append(sum(slab.numel() for slab in slabs))
        self.ahead.append(ahead)
        with self._torch.inference_mode(mode=False):
            return Upload(tuple(slab.clone() for slab in slabs))


class FakeMemory:
    """Memory of the device.

    Attributes:
        size: bytes that are available to this process.
        residency: whose weights are on it.
        peak: of the next `lap`, besides weights.
    """

    def __init__(self, size: int = PLENTY) -> None:
        self.size = size
        self.residency: DeviceResidency | None = None
        self.peak = 0

    def allocatable(self) -> int | None:
        taken = 0 if self.residency is None else self.residency.device_bytes
        return self.size - taken

    def available(self) -> int | None:
        return self.size

    free = available

    def lap(self) -> int | None:
        weights = 0 if self.residency is None else self.residency.device_bytes
        return weights + self.peak


def fake_residency(torch: Any, size: int = PLENTY) -> tuple[DeviceResidency, CountingCopies, Any]:
    """Residency on such a device, its copies and its memory."""
    copies, memory = CountingCopies(torch), FakeMemory(size)
    memory.residency = DeviceResidency(memory, copies)
    return memory.residency, copies, memory


def use_fake_device(monkeypatch: pytest.MonkeyPatch, torch: Any) -> tuple[CountingCopies, Any]:
    """Let engines that are loaded from now on use such a device instead of the CPU."""
    residency, copies, memory = fake_residency(torch)
    module = "trellis2_server.engines.trellis2.residency"
    monkeypatch.setattr(f"{module}.for_device", lambda *_: residency)
    return copies, memory
