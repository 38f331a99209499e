"""Clock and memory of a device.

Does not know: engines, tables.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30


class Meter:
    """Seconds and memory of work on a device."""

    def __init__(self, torch: Any, device: str) -> None:
        self._cuda: Any = torch.cuda if device.startswith("cuda") else None
        self._mps = torch.mps if device == "mps" else None
        self._earlier_peak = 0
        if self._cuda is not None:
            self._reset_peak = self._cuda.reset_peak_memory_stats
            self._cuda.reset_peak_memory_stats = self._keep_and_reset_peak

    def allocated(self) -> int:
        """Bytes in use."""
        if self._mps:
            return self._mps.current_allocated_memory()
        return self._cuda.memory_allocated() if self._cuda else 0

    def used(self) -> int:
        """Bytes of the device that are not free, by its driver: of every program on it."""
        if self._cuda is None:
            return 0
        free, total = self._cuda.mem_get_info()
        return total - free

    def outside(self) -> int:
        """Bytes that are not free and not held by PyTorch's allocator: libraries, the context."""
        return self.used() - self._cuda.memory_reserved() if self._cuda else 0

    def now(self) -> float:
        """Wait for the device; return the clock, seconds."""
        for backend in (self._cuda, self._mps):
            if backend:
                backend.synchronize()
        return time.perf_counter()

    def peak(self) -> float:
        """Peak since the last call, GiB."""
        if self._cuda is None:
            return 0.0
        self._keep_and_reset_peak()
        peak, self._earlier_peak = self._earlier_peak, 0
        return peak / GIB

    def _keep_and_reset_peak(self, *device: Any) -> None:
        """Reset PyTorch's peak, which the engine does too, within its stages."""
        self._earlier_peak = max(self._earlier_peak, self._cuda.max_memory_allocated(*device))
        self._reset_peak(*device)

    def run(self, work: Callable[[], Any]) -> tuple[Any, float, float]:
        """Run work; return its result, its seconds and its peak, GiB."""
        gc.collect()
        self.peak()
        start = self.now()
        result = work()
        return result, self.now() - start, self.peak()

    def fastest(self, work: Callable[[], Any], times: int = 3) -> float:
        """Shortest of some runs, seconds; results are dropped."""
        best = float("inf")
        for _ in range(times):
            start = self.now()
            work()
            best = min(best, self.now() - start)
        return best


class StageTimes:
    """A report that measures each stage of a job.

    Attributes:
        measured: stage → seconds, and peak in GiB.
    """

    def __init__(self, meter: Meter) -> None:
        self.measured: dict[str, tuple[float, float]] = {}
        self._meter = meter
        self._stage = ""
        self._began = 0.0

    def __call__(self, stage: str, step: int, steps: int) -> None:
        """Wait for the device at the end of a stage, not after its steps."""
        del step, steps
        if stage != self._stage:
            self.end()
            self._stage, self._began = stage, self._meter.now()

    def end(self) -> None:
        """End the last stage."""
        now, peak = self._meter.now(), self._meter.peak()
        if self._stage:
            self.measured[self._stage] = (now - self._began, peak)
        self._stage = ""

    @property
    def gib(self) -> float:
        """Peak of all stages, GiB."""
        return max(peak for _, peak in self.measured.values())
