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
        allocated, reserved, peak, free: bytes.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.current = "cuda:0"
        self.allocated, self.reserved, self.peak, self.free = 100, 200, 150, 7_000

    def is_available(self) -> bool:
        return True

    def memory_allocated(self, device: str) -> int:
        assert device == "cuda:1"
        return self.allocated

    def memory_reserved(self, device: str) -> int:
        assert device == "cuda:1"
        return self.reserved

    def max_memory_allocated(self, device: str) -> int:
        assert device == "cuda:1"
        return self.peak

    def mem_get_info(self, device: str) -> tuple[int, int]:
        assert device == "cuda:1"
        return self.free, 8_000

    def get_device_properties(self, device: str) -> SimpleNamespace:
        assert device == "cuda:1"
        return SimpleNamespace(total_memory=8_000)

    def reset_peak_memory_stats(self, device: str) -> None:
        self.calls.append(("reset", device))
        self.peak = self.allocated

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
    assert memory.read() == {
        "used": 100,
        "reserved": 200,
        "peak": 150,
        "total": 8_000,
        "outside": 0,
    }
    memory.reset_peak()
    memory.release()
    assert backend.calls == [("reset", "cuda:1"), ("empty", "")]


def test_the_cpu_has_no_device_memory() -> None:
    backend = Backend()
    memory = DeviceMemory(SimpleNamespace(cuda=backend, mps=backend), "cpu")
    assert memory.read() == {}
    assert memory.total() is memory.lap() is memory.available() is memory.allocatable() is None
    memory.reset_peak()
    with memory.as_current_device():
        assert backend.current == "cuda:0"
    assert not backend.calls


def test_cuda_without_a_number_means_the_configured_device_in_a_block() -> None:
    backend = Backend()
    with DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1").as_current_device():
        assert backend.current == "cuda:1"
    assert backend.current == "cuda:0"


def test_memory_outside_of_pytorch_is_counted_from_the_first_reading() -> None:
    backend = Backend()
    memory = DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1")
    memory.read()  # 800 bytes are of the context and of others
    backend.reserved, backend.free = 1_200, 6_000
    assert memory.read()["outside"] == 0
    backend.free = 5_700
    assert memory.read()["outside"] == 300
    backend.free = 6_500
    assert memory.read()["outside"] == 0  # another process ended


def test_a_driver_that_does_not_say_what_is_free_leaves_that_out() -> None:
    backend = Backend()
    vars(backend)["mem_get_info"] = None
    memory = DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1")
    assert "outside" not in memory.read()
    assert memory.available() is memory.allocatable() is None
    memory.trim()
    assert backend.calls == [("empty", "")]


def test_what_tensors_may_take_is_free_or_reserved_and_unused() -> None:
    backend = Backend()
    memory = DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1")
    assert memory.allocatable() == 7_000 + 200 - 100
    assert memory.available() == 7_000 + 200
    assert memory.total() == 8_000


def test_laps_do_not_change_the_peak_that_is_read() -> None:
    backend = Backend()
    memory = DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1")
    backend.peak = 900
    assert memory.lap() == 900
    backend.peak = 400
    assert memory.lap() == 400
    assert memory.read()["peak"] == 900
    memory.reset_peak()
    assert memory.read()["peak"] == 100


def test_cached_memory_is_returned_only_when_little_is_free() -> None:
    backend = Backend()
    memory = DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1")
    memory.trim()
    backend.reserved, backend.free = 4_100, 1_000
    memory.trim()
    assert backend.calls == []
    backend.free = 999
    memory.trim()
    assert backend.calls == [("empty", "")]


def test_pinned_memory_is_returned_where_pytorch_can_do_so() -> None:
    calls: list[str] = []
    accelerator = SimpleNamespace(empty_host_cache=lambda: calls.append("host"))
    for device in ("cpu", "cuda:1"):
        torch = SimpleNamespace(cuda=Backend(), accelerator=accelerator)
        DeviceMemory(torch, device).release_pinned()
    assert calls == ["host"]
    DeviceMemory(SimpleNamespace(cuda=Backend()), "cuda:1").release_pinned()
