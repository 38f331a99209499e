"""Copies of weights between the CPU's memory and the device's.

On CUDA, host memory is pinned: the device then copies by itself, at the bus's full speed,
while the device computes and this process goes on. Copies ahead of their use run on a stream
of their own. Where memory cannot be pinned, and on other devices, copies are ordinary ones,
and none is made ahead.

No test on a CPU can show that copies overlap with computing, nor their speed. The order of
allocations, copies, events and waits is tested with a fake device.

Does not know: models, when weights move.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

logger = logging.getLogger(__name__)

Tensor = Any

#: Share of the machine's memory that may be pinned: the system cannot swap it out.
_PINNED_SHARE: Final = 0.75
#: Limits of a container: control groups, versions 2 and 1.
_CONTAINER_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(slots=True, eq=False)
class Upload:
    """Slabs on the device.

    Attributes:
        slabs: uint8 [bytes] each.
        copied: event on the device after which they are complete; None: in stream order.
    """

    slabs: tuple[Tensor, ...]
    copied: Any = None


class WeightCopies:
    """Makes copies for one device.

    Args:
        torch: PyTorch.
        device: PyTorch's name of the device, for example "cuda:1".

    Attributes:
        device: that name.
    """

    def __init__(self, torch: Any, device: str) -> None:
        self.device = device
        self._torch = torch
        self._stream: Any = None
        self._may_pin = device.partition(":")[0] == "cuda"
        self._pinnable = _PINNED_SHARE * _machine_memory()

    @property
    def can_copy_ahead(self) -> bool:
        """Whether copies can run beside the device's computing."""
        return self._may_pin

    def host_slab(self, size: int) -> Tensor:
        """Return host memory, uint8 [size], uninitialised."""
        torch = self._torch
        with torch.inference_mode(mode=False):
            if self._may_pin and size <= self._pinnable:
                try:
                    slab = torch.empty(size, dtype=torch.uint8, pin_memory=True)
                except RuntimeError as error:  # the driver's or the system's limit
                    self._stop_pinning(str(error).partition("\n")[0])
                else:
                    self._pinnable -= size
                    return slab
            elif self._may_pin:
                self._stop_pinning(f"{_PINNED_SHARE:.0%} of this machine's memory would be pinned")
            return torch.empty(size, dtype=torch.uint8)

    def store(self, target: Tensor, source: Tensor) -> None:
        """Copy a tensor of a model, from wherever it is, to host memory."""
        with self._torch.inference_mode(mode=False):
            target.copy_(source)

    def upload(self, slabs: Sequence[Tensor], *, ahead: bool = False) -> Upload:
        """Copy slabs to the device.

        Args:
            slabs: host memory, which does not change as long as the copies exist.
            ahead: whether the copies may run beside what the device computes now.
        """
        torch = self._torch
        with torch.inference_mode(mode=False):
            if not (ahead and self.can_copy_ahead):
                return Upload(
                    tuple(slab.to(self.device, non_blocking=self._may_pin) for slab in slabs)
                )
            # The memory is of the computing stream, which frees it. What that stream has queued
            # may still use it: the copies wait for that, and then run beside what follows.
            targets = tuple(torch.empty_like(slab, device=self.device) for slab in slabs)
            stream = self._copy_stream()
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                for target, slab in zip(targets, slabs, strict=True):
                    target.copy_(slab, non_blocking=True)
                    # A copy that is dropped before it is complete must not be overwritten.
                    target.record_stream(stream)
                copied = torch.cuda.Event()
                copied.record(stream)
            return Upload(targets, copied)

    def wait(self, upload: Upload) -> None:
        """Let what the device computes next wait for an upload; this process does not wait."""
        if upload.copied is not None:
            self._torch.cuda.current_stream(self.device).wait_event(upload.copied)
            upload.copied = None

    @contextlib.contextmanager
    def ordinary_tensors(self) -> Generator[None, None, None]:
        """Let tensors be made in the block that are usable outside of inference mode, too."""
        with self._torch.inference_mode(mode=False), self._torch.no_grad():
            yield

    def _copy_stream(self) -> Any:
        if self._stream is None:
            self._stream = self._torch.cuda.Stream(device=self.device)
        return self._stream

    def _stop_pinning(self, why: str) -> None:
        self._may_pin = False
        logger.warning(
            "Weights stay in memory that is not pinned: copies to the device are slower",
            extra={"why": why},
        )


def _machine_memory() -> float:
    """Bytes of the machine's or the container's memory; infinite where nothing says it."""
    try:
        machine = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        machine = float("inf")
    return min(machine, *map(_limit_in, _CONTAINER_LIMITS))


def _limit_in(file: Path) -> float:
    """Bytes in a file of Linux' control groups; infinite without a limit."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):  # no such file; "max"
        return float("inf")
