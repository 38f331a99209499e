"""Memory of the device: how much is used, how much is left, and how it is freed.

Two counts exist. PyTorch's allocator knows the tensors, and the memory that it has reserved
from the driver for them. The driver knows what is free on the device: what is missing there is
PyTorch's, that of other libraries in this process (the CUDA context, CuMesh, nvdiffrast,
cuDNN's plans, loaded kernels), and that of other processes.

Does not know: models, stages.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

#: Backends of PyTorch that cache freed memory.
_CACHING: Final = ("cuda", "mps", "xpu")
#: Backends of PyTorch with a current device.
_NUMBERED: Final = ("cuda", "xpu")
#: Backends of PyTorch that count memory.
_COUNTING: Final = ("cuda", "xpu")
#: Reserved but unused memory is returned when it is so many times the device's free memory.
_TOO_MUCH_UNUSED: Final = 4


class DeviceMemory:
    """Memory of one device.

    Args:
        torch: PyTorch.
        device: PyTorch's name of the device, for example "cuda:1".
    """

    def __init__(self, torch: Any, device: str) -> None:
        self._torch = torch
        self._device = device
        self._kind = device.partition(":")[0]
        # PyTorch's peak is reset by `lap`; this is the peak before that.
        self._earlier_peak = 0
        self._outside_at_first: int | None = None

    def read(self) -> dict[str, int]:
        """Bytes `used`, `reserved`, `peak`, `total` and `outside`; empty without a GPU.

        `used`, `reserved` and `peak` are those of PyTorch's allocator. `outside` is what is used
        on the device but not reserved by PyTorch, above that at the first reading: libraries
        that allocate by themselves, and other processes that came later. It is absent where the
        driver does not say what is free.
        """
        backend = self._counting_backend()
        if backend is None:
            return {}
        memory = {
            "used": int(backend.memory_allocated(self._device)),
            "reserved": int(backend.memory_reserved(self._device)),
            "peak": max(int(backend.max_memory_allocated(self._device)), self._earlier_peak),
            "total": _total(backend, self._device),
        }
        free = self._free()
        if free is not None:
            outside = memory["total"] - free - memory["reserved"]
            if self._outside_at_first is None:
                self._outside_at_first = outside
            memory["outside"] = max(0, outside - self._outside_at_first)
        return memory

    def reset_peak(self) -> None:
        """Count `peak` from now on."""
        self._earlier_peak = 0
        backend = self._counting_backend()
        if backend is not None:
            backend.reset_peak_memory_stats(self._device)

    def lap(self) -> int | None:
        """Peak of PyTorch's tensors since the last call, bytes; None without a GPU.

        `peak` of `read` is not changed by this.
        """
        backend = self._counting_backend()
        if backend is None:
            return None
        peak = int(backend.max_memory_allocated(self._device))
        backend.reset_peak_memory_stats(self._device)
        self._earlier_peak = max(self._earlier_peak, peak)
        return peak

    def total(self) -> int | None:
        """Bytes of the device; None without a GPU."""
        backend = self._counting_backend()
        return None if backend is None else _total(backend, self._device)

    def allocatable(self) -> int | None:
        """Bytes that tensors may still take; None if the driver does not say.

        Free on the device, or reserved by PyTorch and unused. Memory that is reserved in too
        small pieces is counted, too.
        """
        available = self.available()
        if available is None:
            return None
        return available - int(self._counting_backend().memory_allocated(self._device))

    def available(self) -> int | None:
        """Bytes that all of this process's tensors together may take; None if unknown."""
        backend, free = self._counting_backend(), self._free()
        if backend is None or free is None:
            return None
        return free + int(backend.memory_reserved(self._device))

    def release(self) -> None:
        """Collect garbage and return the memory that PyTorch caches to the device.

        It takes 0.05 to 0.2 s, and the next stage has to reserve its memory again: for errors
        and retries. `trim` is for the end of a stage.
        """
        gc.collect()
        for kind in _CACHING:
            backend = getattr(self._torch, kind, None)
            if backend is not None and backend.is_available():
                # On another device than this one CUDA would make a context, of 0.5 GB.
                with self.as_current_device():
                    backend.empty_cache()

    def free(self) -> int | None:
        """Bytes that nothing uses, with PyTorch's cache returned; None if they are not counted."""
        if self._free() is None:
            return None
        with self.as_current_device():
            self._counting_backend().empty_cache()
            return self._free()

    def release_pinned(self) -> None:
        """Return pinned memory of the CPU, which PyTorch caches, to the system.

        Versions of PyTorch before 2.9 or so keep it, and use it again for the next weights.
        """
        release = getattr(getattr(self._torch, "accelerator", None), "empty_host_cache", None)
        if self._kind == "cuda" and release is not None:
            release()

    def trim(self) -> None:
        """Collect garbage; return cached memory only if others may lack it.

        PyTorch takes its cached memory back by itself when it needs it; other libraries and
        processes cannot.
        """
        backend, free = self._counting_backend(), self._free()
        if backend is None or free is None:
            self.release()
            return
        gc.collect()
        unused = backend.memory_reserved(self._device) - backend.memory_allocated(self._device)
        if unused > _TOO_MUCH_UNUSED * free:
            with self.as_current_device():
                backend.empty_cache()

    @contextlib.contextmanager
    def as_current_device(self) -> Generator[None, None, None]:
        """Make this the device that "cuda" or "xpu" without a number means, in this thread.

        PyTorch's own operators follow their tensors. Kernels of Triton, FlexGEMM, CuMesh and
        o_voxel start on the current device, whatever device their tensors are on.
        """
        if self._kind not in _NUMBERED:
            yield
            return
        current = getattr(self._torch, self._kind).device(self._device)
        current.__enter__()
        try:
            yield
        except BaseException:
            # On a broken device this raises too, and would hide the first error.
            with contextlib.suppress(Exception):
                current.__exit__(None, None, None)
            raise
        current.__exit__(None, None, None)

    def _free(self) -> int | None:
        """Bytes that are free on the device, as its driver counts them; None if unknown."""
        backend = self._counting_backend()
        ask = getattr(backend, "mem_get_info", None)
        return None if ask is None else int(ask(self._device)[0])

    def _counting_backend(self) -> Any:
        backend = getattr(self._torch, self._kind, None)
        if self._kind not in _COUNTING or backend is None or not backend.is_available():
            return None
        return backend


def _total(backend: Any, device: str) -> int:
    return int(backend.get_device_properties(device).total_memory)
