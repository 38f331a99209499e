"""Which convolutions run as a Triton kernel, and what happens if it fails.

The kernel is used where Triton can be imported and compiles for the device. NVIDIA's GPUs
before Ampere are left out: compiled for Turing, the kernel keeps up to 10 KB a thread in memory
instead of registers. The first failure in a process is a warning, and the last use. Lack of
memory is no failure of the kernel: it is raised, so that the engine can retry with less.

The environment variable `TRELLIS2_SERVER_CONVOLUTION` or `select` override this.

Does not know: how convolutions are computed.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

if TYPE_CHECKING:
    from trellis2_server.engines.portable.neighbors import NeighborMap

torch: Any = importlib.import_module("torch")
Tensor = Any
logger = logging.getLogger(__name__)

#: auto: as this module's text says; gather: PyTorch only; triton: always, and its errors are
#: raised.
Algorithm = Literal["auto", "gather", "triton"]
#: Environment variable with an `Algorithm`; read at the first convolution.
VARIABLE: Final = "TRELLIS2_SERVER_CONVOLUTION"
_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32)
#: Kinds of devices that Triton compiles for; AMD's are "cuda", too.
_DEVICES: Final = frozenset({"cuda", "xpu"})
#: Lowest compute capability of NVIDIA's GPUs for which the kernel is used.
_AMPERE: Final = (8, 0)


class KernelChoice:
    """The kernel of one process, imported at its first use."""

    def __init__(self) -> None:
        self._algorithm: Algorithm | None = None
        self._kernel: Any = None
        self._has_failed = False

    def select(self, algorithm: Algorithm) -> None:
        """Choose the algorithm of this process; a failure is forgotten.

        Raises:
            ValueError: there is no such algorithm.
        """
        if algorithm not in get_args(Algorithm):
            raise ValueError(f"{VARIABLE} must be auto, gather or triton, not {algorithm!r}")
        self._algorithm, self._has_failed = algorithm, False

    def is_used_on(self, device: Any) -> bool:
        """Whether convolutions on a device, of type `torch.device`, use the kernel."""
        if self._algorithm is None:
            chosen: Any = os.environ.get(VARIABLE) or "auto"
            self.select(chosen)
        if self._algorithm == "gather" or self._has_failed:
            return False
        if self._algorithm == "triton":
            self._load()
            return True
        if device.type not in _DEVICES or not _is_recent(device):
            return False
        try:
            self._load()
        except ModuleNotFoundError as error:
            self._has_failed = True
            logger.info("Convolutions without a kernel", extra={"why": str(error)})
        except Exception as error:  # noqa: BLE001 - a broken package can raise anything
            self._give_up(error)
        return not self._has_failed

    def convolve(
        self, feats: Tensor, neighbors: NeighborMap, weight: Tensor, bias: Tensor | None
    ) -> Tensor | None:
        """Return the convolution, [N, Co], or None if the kernel cannot compute it.

        Args:
            feats: [N, Ci].
            neighbors: the map, without tiles if the kernel was not used on its device.
            weight: [Co, V, Ci].
            bias: [Co].
        """
        tensors = [t for t in (feats, weight, bias) if t is not None]
        if (
            neighbors.tiles is None
            or not self.is_used_on(feats.device)
            or feats.dtype not in _DTYPES
            or any(t.dtype != feats.dtype for t in tensors)
            or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        ):
            return None
        try:
            return self._kernel.convolve(feats, neighbors, weight, bias)
        except Exception as error:
            if self._algorithm == "triton" or _is_out_of_memory(error):
                raise
            self._give_up(error)
        return None

    def _load(self) -> None:
        if self._kernel is None:
            self._kernel = importlib.import_module(f"{__package__}.implicit_gemm")

    def _give_up(self, error: Exception) -> None:
        self._has_failed = True
        logger.warning(
            "The convolution kernel failed; slower PyTorch functions replace it",
            extra={"why": f"{type(error).__name__}: {error}".partition("\n")[0]},
        )


@functools.cache
def _is_recent(device: Any) -> bool:
    """Whether the kernel is worth its use on a device; asked once each."""
    if device.type != "cuda" or torch.version.hip:
        return True
    return torch.cuda.get_device_capability(device) >= _AMPERE


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, by PyTorch's class or by the text of CUDA's driver."""
    is_class = type(error).__name__ in {"OutOfMemoryError", "MemoryError"}
    return is_class or "out of memory" in str(error).lower()
