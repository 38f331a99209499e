"""Errors of PyTorch and TRELLIS.2 as the server's own.

    out of memory      → OutOfMemoryError     a retry with less memory may help
    device failed      → EngineBrokenError    every later call fails too: restart the server
    anything else      → EngineError

CUDA keeps some errors with its context, which lives as long as the process (CUDA Runtime
API, "Data types used by CUDA Runtime", cudaError). Their texts are listed here.

Libraries that find no memory for a handle, a plan or a workspace often report something else:
cuBLAS that it is not initialised, cuDNN that it finds no engine or an internal error. The
unambiguous texts are listed; any other failure of these libraries counts as out of memory when
the device has almost no memory left.

Does not know: retries, models.
"""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    OutOfMemoryError,
    ServerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.engines.trellis2.progress import StageProgress

logger = logging.getLogger(__name__)

#: Texts of errors without memory: PyTorch on CUDA, ROCm, XPU and MPS, cuBLAS, cuDNN, rocBLAS,
#: Level Zero. Triton's "out of resource: shared memory" is not one: it depends on the kernel.
_OUT_OF_MEMORY: Final = (
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "out_of_device_memory",
    "out_of_host_memory",
    "error_out_of_resources",
    "alloc_failed",
    "allocation_failed",
    "status_memory_error",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_not_initialized",
    "unable to find an engine to execute this computation",
    "unable to find a valid cudnn algorithm",
    "no valid execution plans",
)
#: Libraries whose other errors mean missing memory too if almost none is free.
_LIBRARIES: Final = ("cublas", "cudnn", "hipblas", "rocblas", "miopen")
#: Free memory below which a failure of a library counts as out of memory, bytes. cuBLAS alone
#: takes up to 32 MiB a handle on recent GPUs, cuDNN's workspaces several hundred.
_ALMOST_NONE_FREE: Final = 2**30
#: nvdiffrast's errors have a number instead of a text: "Cuda error: 2[cudaMalloc(…".
_NUMBERED: Final = re.compile(r"cuda error: (\d+)\[")
_NUMBER_OUT_OF_MEMORY: Final = 2
#: Numbers (cudaError) of the errors whose texts are in `_PERMANENT`.
_NUMBERS_PERMANENT: Final = frozenset({214, 220, 700, 702, 710, *range(714, 720), 999})
#: Texts of errors after which the device cannot be used by this process any more.
_PERMANENT: Final = (
    "illegal memory access",
    "illegal address",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "invalid address space",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "uncorrectable ecc error",
    "over nvlink",
    "unknown error",
    "device is lost",
    "error_device_lost",
    "fallen off the bus",
    "driver shutting down",
)
#: Texts of `AcceleratorError`s after which the device can be used.
_TEMPORARY: Final = (
    "out of memory",
    "invalid argument",
    "invalid configuration",
    "invalid device function",
    "no kernel image",
    "too many resources requested",
    "not supported",
)
_DEVICE_LIBRARIES: Final = ("cuda", "hip error", "cudnn", "cublas", "nccl", "native api")
_PATH: Final = re.compile(r"(?:[A-Za-z]:)?[/\\][^\s'\"]+")
_MAX_LENGTH: Final = 200


@contextlib.contextmanager
def translated_device_errors(
    progress: StageProgress,
    where: str | None = None,
    *,
    free_memory: Callable[[], int | None] = lambda: None,
) -> Generator[None, None, None]:
    """Translate errors of PyTorch and TRELLIS.2; an error that the report raised passes.

    Args:
        progress: of the job; its stage is named in the message.
        where: named instead of the stage.
        free_memory: returns the device's free memory, bytes, with nothing cached; None if
            that is unknown. Called after failures of cuBLAS and cuDNN only, while the tensors
            of the failed stage are still on the device.

    Raises:
        OutOfMemoryError: the device or the process has no memory left.
        EngineBrokenError: the device cannot be used by this process any more.
        EngineError: another error.
    """
    try:
        yield
    except ServerError:
        raise
    except Exception as error:
        if error is progress.raised:
            raise
        where = where or progress.stage
        if is_out_of_memory(error) or _is_hidden_out_of_memory(error, free_memory):
            logger.warning("Out of device memory", extra={"stage": where, "why": first_line(error)})
            raise OutOfMemoryError(
                f"the device ran out of memory in {where}; a lower pipeline_type may fit"
            ) from error
        logger.exception("TRELLIS.2 failed", extra={"stage": where})
        if is_permanent(error):
            raise EngineBrokenError(
                f"the device failed permanently in {where}: {first_line(error)}; restart the server"
            ) from error
        raise EngineError(f"TRELLIS.2 failed in {where}: {first_line(error)}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error's text means that memory, of the device or of the process, ran out."""
    if type(error).__name__ in {"OutOfMemoryError", "MemoryError"}:
        return True
    text = str(error).lower()
    return _number(text) == _NUMBER_OUT_OF_MEMORY or any(sign in text for sign in _OUT_OF_MEMORY)


def is_permanent(error: Exception) -> bool:
    """Whether every later call on the device in this process would fail too.

    PyTorch raises `AcceleratorError`, before 2.8 `RuntimeError`, with CUDA's own text.
    """
    text = str(error).lower()
    if _number(text) in _NUMBERS_PERMANENT:
        return True
    if type(error).__name__ == "AcceleratorError":
        return not any(sign in text for sign in _TEMPORARY)
    is_of_device = any(name in text for name in _DEVICE_LIBRARIES)
    return is_of_device and any(sign in text for sign in _PERMANENT)


def _is_hidden_out_of_memory(error: Exception, free_memory: Callable[[], int | None]) -> bool:
    """Whether a library failed while the device had almost no memory left."""
    text = str(error).lower()
    if is_permanent(error) or not any(name in text for name in _LIBRARIES):
        return False
    try:
        free = free_memory()
    except Exception:  # noqa: BLE001 - the device may be lost; the first error says more
        return False
    return free is not None and free < _ALMOST_NONE_FREE


def _number(text: str) -> int | None:
    """Number of a CUDA error in an error of nvdiffrast."""
    found = _NUMBERED.search(text)
    return int(found[1]) if found else None


def first_line(error: Exception) -> str:
    """Type and first line of an error, with paths removed: safe to show to a client."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {_PATH.sub('…', line)[:_MAX_LENGTH]}"


def release_frames(error: BaseException | None) -> None:
    """Clear the local variables of all calls that an error and its causes passed through.

    They hold tensors on the device as long as the error exists. Its traceback stays.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
