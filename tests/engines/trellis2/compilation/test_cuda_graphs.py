from __future__ import annotations

import contextlib
import gc
import importlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from trellis2_server.engines.trellis2.compilation.cuda_graphs import CudaGraphs

if TYPE_CHECKING:
    from collections.abc import Generator


class Stream:
    device_index = 1

    def __init__(self, calls: list[Any]) -> None:
        self._calls = calls

    def wait_stream(self, other: object) -> None:
        assert other == "current"
        self._calls.append("wait for the current stream")


class Graph:
    """PyTorch's; `fails` names the call that raises."""

    def __init__(self, calls: list[Any], fails: str) -> None:
        self._calls = calls
        self._fails = fails

    def capture_begin(self, *, pool: object, capture_error_mode: str) -> None:
        self._calls.append(("begin", pool, capture_error_mode))

    def capture_end(self) -> None:
        self._calls.append("end")
        if self._fails == "end":
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    def replay(self) -> None:
        self._calls.append("replay")

    def reset(self) -> None:
        self._calls.append("reset")


class Cuda:
    """`torch.cuda` that records calls."""

    def __init__(self, *, free: int = 100, fails: str = "") -> None:
        self.calls: list[Any] = []
        self.mode: int | str = 0
        self._free = free
        self.fails = fails

    def Stream(self, device: object) -> Stream:  # noqa: N802 - PyTorch's name
        del device
        return Stream(self.calls)

    def CUDAGraph(self) -> Graph:  # noqa: N802 - PyTorch's name
        return Graph(self.calls, self.fails)

    def current_stream(self, device: object) -> str:
        del device
        return "current"

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Generator[None, None, None]:
        assert isinstance(stream, Stream)
        self.calls.append("enter stream")
        yield
        self.calls.append("leave stream")

    def synchronize(self, device: object) -> None:
        self.calls.append(f"synchronize {device}")
        if self.fails == "synchronize":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def mem_get_info(self, device: object) -> tuple[int, int]:
        del device
        return self._free, 1000

    def memory_reserved(self, device: object) -> int:
        del device
        return 80

    def memory_allocated(self, device: object) -> int:
        del device
        return 30

    def empty_cache(self) -> None:
        self.calls.append("empty cache")

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 7)

    def get_sync_debug_mode(self) -> int | str:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = mode


def graphs(torch: Any, cuda: Cuda) -> CudaGraphs:
    """The backend on the CPU, but for what `cuda` records."""

    def name_of(device: str) -> str:
        return device

    def ones(*shape: int, device: str, dtype: Any) -> Any:
        assert device == "cuda:1"
        return torch.ones(*shape, dtype=dtype)

    names = ("nn", "float32", "float16", "bfloat16")
    same = {name: getattr(torch, name) for name in names}
    return CudaGraphs(SimpleNamespace(cuda=cuda, device=name_of, ones=ones, **same), "cuda:1")


def test_a_capture_follows_the_order_that_pytorch_asks_for(torch: Any) -> None:
    cuda = Cuda()
    backend = graphs(torch, cuda)
    assert gc.isenabled()

    def evaluate() -> str:
        cuda.calls.append("evaluate")
        assert not gc.isenabled()
        return "output"

    graph, output = backend.capture(evaluate, backend.new_pool())
    assert output == "output"
    assert gc.isenabled()
    assert cuda.calls == [
        "wait for the current stream",
        "enter stream",
        "synchronize cuda:1",
        ("begin", (0, 7), "thread_local"),
        "evaluate",
        "end",
        "leave stream",
    ]
    cuda.calls.clear()
    graph.replay()
    graph.release()
    assert cuda.calls == ["replay", "reset"]


@pytest.mark.parametrize(("free", "emptied"), [(49, 1), (50, 0)])
def test_the_cache_is_emptied_only_if_memory_is_short(torch: Any, free: int, emptied: int) -> None:
    cuda = Cuda(free=free)
    backend = graphs(torch, cuda)
    backend.capture(lambda: None, backend.new_pool())
    assert cuda.calls.count("empty cache") == emptied


@pytest.mark.parametrize("fails", ["evaluate", "end"])
def test_a_failed_capture_is_ended_for_the_allocator_too(
    torch: Any, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(fails=fails)
    backend = graphs(torch, cuda)

    def end(device: int, pool: object) -> None:
        cuda.calls.append(("end allocations", device, pool))
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    def evaluate() -> None:
        if fails == "evaluate":
            raise ValueError("the model's")

    internals = importlib.import_module("torch._C")
    monkeypatch.setattr(internals, "_cuda_endAllocateToPool", end, raising=False)
    with pytest.raises(ValueError if fails == "evaluate" else RuntimeError):
        backend.capture(evaluate, backend.new_pool())
    begun = cuda.calls.index(("begin", (0, 7), "thread_local"))
    assert cuda.calls[begun + 1 :] == [
        *(["end"] if fails == "end" else []),
        "end",
        ("end allocations", 1, (0, 7)),
        "reset",
        "synchronize cuda:1",
    ]
    assert gc.isenabled()


def test_a_device_that_a_capture_broke_is_found(torch: Any) -> None:
    cuda = Cuda()
    backend = graphs(torch, cuda)

    def evaluate() -> None:
        cuda.fails = "synchronize"
        raise ValueError("the model's")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        backend.capture(evaluate, backend.new_pool())


def test_a_rehearsal_refuses_calls_that_wait_and_puts_the_mode_back(torch: Any) -> None:
    cuda = Cuda()
    cuda.mode = "warn"
    backend = graphs(torch, cuda)
    assert backend.rehearse(lambda: cuda.mode) == "error"
    assert cuda.mode == "warn"

    def wait() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        backend.rehearse(wait)
    assert cuda.mode == "warn"
