"""Memory of the device: how much is used, and how it is freed.

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

    def read(self) -> dict[str, int]:
        """Bytes `used`, `reserved`, `peak` and `total`; empty without a GPU.

        `used`, `reserved` and `peak` are those of PyTorch's allocator.
        """
        backend = self._counting_backend()
        if backend is None:
            return {}
        return {
            "used": int(backend.memory_allocated(self._device)),
            "reserved": int(backend.memory_reserved(self._device)),
            "peak": int(backend.max_memory_allocated(self._device)),
            "total": int(backend.get_device_properties(self._device).total_memory),
        }

    def reset_peak(self) -> None:
        """Count `peak` from now on."""
        backend = self._counting_backend()
        if backend is not None:
            backend.reset_peak_memory_stats(self._device)

    def release(self) -> None:
        """Collect garbage and return the memory that PyTorch caches to the device."""
        gc.collect()
        for kind in _CACHING:
            backend = getattr(self._torch, kind, None)
            if backend is not None and backend.is_available():
                # On another device than this one CUDA would make a context, of 0.5 GB.
                with self.as_current_device():
                    backend.empty_cache()

    def free(self) -> int | None:
        """Bytes that nothing uses, with PyTorch's cache returned; None if they are not counted."""
        backend = self._counting_backend()
        if backend is None or not hasattr(backend, "mem_get_info"):
            return None
        with self.as_current_device():
            backend.empty_cache()
            return int(backend.mem_get_info(self._device)[0])

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

    def _counting_backend(self) -> Any:
        backend = getattr(self._torch, self._kind, None)
        if self._kind not in _COUNTING or backend is None or not backend.is_available():
            return None
        return backend
