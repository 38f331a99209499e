"""Errors of PyTorch and TRELLIS.2 as the server's own.

    out of memory      → OutOfMemoryError     a retry with less memory may help
    device failed      → EngineBrokenError    every later call fails too: restart the server
    anything else      → EngineError

CUDA keeps some errors with its context, which lives as long as the process (CUDA Runtime
API, "Data types used by CUDA Runtime", cudaError). Their texts are listed here.

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
    from collections.abc import Generator

    from trellis2_server.engines.trellis2.progress import StageProgress

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY: Final = ("out of memory", "alloc_failed", "can't allocate memory")
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
_DEVICE_LIBRARIES: Final = ("cuda", "hip error", "cudnn", "cublas", "nccl")
_PATH: Final = re.compile(r"(?:[A-Za-z]:)?[/\\][^\s'\"]+")
_MAX_LENGTH: Final = 200


@contextlib.contextmanager
def translated_device_errors(
    progress: StageProgress, where: str | None = None
) -> Generator[None, None, None]:
    """Translate errors of PyTorch and TRELLIS.2; an error that the report raised passes.

    Args:
        progress: of the job; its stage is named in the message.
        where: named instead of the stage.

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
        if is_out_of_memory(error):
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
    """Whether an error means that memory, of the device or of the process, ran out."""
    if type(error).__name__ in {"OutOfMemoryError", "MemoryError"}:
        return True
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_MEMORY)


def is_permanent(error: Exception) -> bool:
    """Whether every later call on the device in this process would fail too.

    PyTorch raises `AcceleratorError`, before 2.8 `RuntimeError`, with CUDA's own text.
    """
    text = str(error).lower()
    if type(error).__name__ == "AcceleratorError":
        return not any(sign in text for sign in _TEMPORARY)
    is_of_device = any(name in text for name in _DEVICE_LIBRARIES)
    return is_of_device and any(sign in text for sign in _PERMANENT)


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
