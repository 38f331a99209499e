from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

from trellis2_server.engines.trellis2.device_memory import DeviceMemory

if TYPE_CHECKING:
    from collections.abc import Iterator


class Backend:
    """A GPU with 8 GB, as PyTorch counts it.

    Attributes:
        calls: what was called for which device.
        current: current device.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.current = "cuda:0"

    def is_available(self) -> bool:
        return True

    def memory_allocated(self, device: str) -> int:
        assert device == "cuda:1"
        return 100

    def memory_reserved(self, device: str) -> int:
        assert device == "cuda:1"
        return 200

    def max_memory_allocated(self, device: str) -> int:
        assert device == "cuda:1"
        return 150

    def get_device_properties(self, device: str) -> SimpleNamespace:
        assert device == "cuda:1"
        return SimpleNamespace(total_memory=8_000)

    def reset_peak_memory_stats(self, device: str) -> None:
        self.calls.append(("reset", device))

    def empty_cache(self) -> None:
        self.calls.append(("empty", ""))

    @contextlib.contextmanager
    def device(self, device: str) -> Iterator[None]:
        before, self.current = self.current, device
        yield
        self.current = before


def test_the_memory_of_a_gpu_is_read_in_bytes() -> None:
    backend = Backend()
    memory = DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1")
    assert memory.read() == {"used": 100, "reserved": 200, "peak": 150, "total": 8_000}
    memory.reset_peak()
    memory.release()
    assert backend.calls == [("reset", "cuda:1"), ("empty", "")]


def test_the_cpu_has_no_device_memory() -> None:
    backend = Backend()
    memory = DeviceMemory(SimpleNamespace(cuda=backend, mps=backend), "cpu")
    assert memory.read() == {}
    memory.reset_peak()
    with memory.as_current_device():
        assert backend.current == "cuda:0"
    assert not backend.calls


def test_cuda_without_a_number_means_the_configured_device_in_a_block() -> None:
    backend = Backend()
    with DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1").as_current_device():
        assert backend.current == "cuda:1"
    assert backend.current == "cuda:0"
