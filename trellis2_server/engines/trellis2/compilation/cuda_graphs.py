"""Captures evaluations as CUDA graphs: the backend of `graphs` for CUDA devices.

Ran on an H100 (docs/gpu.md). What is written here follows PyTorch's documentation and sources:

- A capture needs a stream of its own. Libraries allocate a workspace for each stream on first
  use; within a capture the graph's pool would keep it. A small product on the stream before
  each capture avoids that.
- `torch.cuda.graph` empties the allocator's cache before each capture, 0.05 to 0.2 s. Here the
  cache is emptied only if the free memory might not hold a second copy of the activations,
  since a capture cannot free cached memory itself.
- Other threads may use CUDA during a capture (`capture_error_mode="thread_local"`), but not wait
  for the whole device: `torch.cuda.synchronize` fails there and breaks the capture. Seen on an
  H200; the job went on without graphs. Nothing in this server does it outside the device thread.
- After a failed capture, PyTorch without pytorch/pytorch#180395 believes that it still captures,
  and every `empty_cache` fails. `_abandon` ends that. Without pytorch/pytorch#190348 the memory
  of the failed capture stays reserved: once for each class of model.
- TRELLIS.2 draws no random numbers on the device, so generators need no care.

Does not know: models, what is captured.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class CudaGraphs:
    """Captures on one CUDA device.

    Args:
        torch: PyTorch.
        device: PyTorch's name of the device, for example "cuda:1".
    """

    def __init__(self, torch: Any, device: str) -> None:
        self._torch = torch
        self._device = torch.device(device)
        self._stream: Any = None

    def new_pool(self) -> Any:
        """Memory that several graphs share; freed with the last of them."""
        return self._torch.cuda.graph_pool_handle()

    def rehearse(self, evaluate: Callable[[], Any]) -> Any:
        """Return the result of a call.

        Raises:
            RuntimeError: the call waits for the device.
        """
        cuda = self._torch.cuda
        before = cuda.get_sync_debug_mode()
        cuda.set_sync_debug_mode("error")
        try:
            return evaluate()
        finally:
            cuda.set_sync_debug_mode(before)

    def capture(self, evaluate: Callable[[], Any], pool: Any) -> tuple[_CudaGraph, Any]:
        """Record a call; return the graph and the call's result, whose values are undefined.

        Raises:
            RuntimeError: the call cannot be captured, or there is no memory for it.
        """
        cuda = self._torch.cuda
        self._make_room()
        if self._stream is None:
            self._stream = cuda.Stream(self._device)
        self._stream.wait_stream(cuda.current_stream(self._device))
        graph = cuda.CUDAGraph()
        with cuda.stream(self._stream):
            self._allocate_workspaces()
            cuda.synchronize(self._device)
            with _without_garbage_collection():
                try:
                    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                    result = evaluate()
                    graph.capture_end()
                except BaseException:
                    self._abandon(graph, pool)
                    raise
        return _CudaGraph(graph), result

    def _make_room(self) -> None:
        """Empty the allocator's cache if a second copy of the activations might not fit."""
        cuda = self._torch.cuda
        free, _ = cuda.mem_get_info(self._device)
        cached = cuda.memory_reserved(self._device) - cuda.memory_allocated(self._device)
        if free < cached:
            cuda.empty_cache()

    def _allocate_workspaces(self) -> None:
        torch = self._torch
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            ones = torch.ones(16, 16, device=self._device, dtype=dtype)
            torch.nn.functional.linear(ones, ones)
            torch.nn.functional.linear(ones, ones, ones[0])

    def _abandon(self, graph: Any, pool: Any) -> None:
        """End a failed capture.

        Raises:
            RuntimeError: the device cannot be used any more.
        """
        with contextlib.suppress(RuntimeError):
            graph.capture_end()
        internals: Any = importlib.import_module("torch._C")
        end = getattr(internals, "_cuda_endAllocateToPool", None)
        if end is not None:
            # Fails if `capture_end` did it.
            with contextlib.suppress(RuntimeError):
                end(self._stream.device_index, pool)
        with contextlib.suppress(RuntimeError):
            graph.reset()
        self._torch.cuda.synchronize(self._device)


class _CudaGraph:
    """A captured call."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()

    def release(self) -> None:
        """Destroy the graph; PyTorch frees its memory when it needs it or empties its cache."""
        self._graph.reset()


@contextlib.contextmanager
def _without_garbage_collection() -> Generator[None, None, None]:
    """Collect no garbage: it could free events or graphs, which a capture does not allow."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
