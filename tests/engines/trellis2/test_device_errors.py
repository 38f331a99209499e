from __future__ import annotations

import builtins
import weakref
from typing import Any

import pytest

from tests.support.trellis2_engine import CancelledError, silent
from trellis2_server.engines.trellis2.device_errors import (
    first_line,
    release_frames,
    translated_device_errors,
)
from trellis2_server.engines.trellis2.progress import StageProgress
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    InputError,
    OutOfMemoryError,
)

MEMORY, BROKEN, OTHER = OutOfMemoryError, EngineBrokenError, EngineError
#: Type of the error, its text as PyTorch, the extensions or public issues show it, what it is.
TABLE: list[tuple[str, str, type[EngineError]]] = [
    ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB", MEMORY),
    ("OutOfMemoryError", "XPU out of memory. Tried to allocate 4.66 GiB", MEMORY),
    ("AcceleratorError", "CUDA error: out of memory", MEMORY),
    ("RuntimeError", "CUDA driver error: out of memory", MEMORY),
    ("RuntimeError", "Triton Error [CUDA]: out of memory", MEMORY),
    ("RuntimeError", "HIP out of memory. Tried to allocate 20.00 MiB", MEMORY),
    ("RuntimeError", "hipErrorOutOfMemory", MEMORY),
    ("RuntimeError", "MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB)", MEMORY),
    (
        "RuntimeError",
        "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        MEMORY,
    ),
    ("RuntimeError", "Native API returns: 38 (UR_RESULT_ERROR_OUT_OF_HOST_MEMORY)", MEMORY),
    ("RuntimeError", "Native API returns: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)", MEMORY),
    ("RuntimeError", "Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)", MEMORY),
    (
        "RuntimeError",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        MEMORY,
    ),
    (
        "RuntimeError",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        MEMORY,
    ),
    ("RuntimeError", "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED", MEMORY),
    ("RuntimeError", "rocblas_status_memory_error", MEMORY),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", MEMORY),
    (
        "RuntimeError",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        MEMORY,
    ),
    ("RuntimeError", "GET was unable to find an engine to execute this computation", MEMORY),
    ("RuntimeError", "FIND was unable to find an engine to execute this computation", MEMORY),
    ("RuntimeError", "Unable to find a valid cuDNN algorithm to run convolution", MEMORY),
    (
        "RuntimeError",
        "cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built.",
        MEMORY,
    ),
    ("RuntimeError", "Cuda error: 2[cudaMalloc(&m_gpuPtr, bytes);]", MEMORY),
    (
        "RuntimeError",
        "[CuMesh] CUDA error:\n    File: x.cu\n    Error code: 2\n    Error text: out of memory",
        MEMORY,
    ),
    ("RuntimeError", "DefaultCPUAllocator: can't allocate memory: you tried to allocate", MEMORY),
    ("RuntimeError", "DefaultCPUAllocator: not enough memory: you tried to allocate", MEMORY),
    ("MemoryError", "", MEMORY),
    # Not memory of the device: the kernel's tiles are too large for this GPU.
    (
        "OutOfResources",
        "out of resource: shared memory, Required: 131072, Hardware limit: 101376.",
        OTHER,
    ),
    ("AcceleratorError", "CUDA error: too many resources requested for launch", OTHER),
    ("AcceleratorError", "CUDA error: invalid argument", OTHER),
    ("RuntimeError", "CUDA error: no kernel image is available for execution", OTHER),
    ("RuntimeError", "Expected all tensors on cuda:0, found two devices", OTHER),
    ("ValueError", "device-side assert", OTHER),
    ("RuntimeError", "Cuda error: 209[cudaLaunchKernel(func, gridSize, blockSize);]", OTHER),
    ("RuntimeError", "[cudnn_frontend] Error: No execution plans support the graph.", OTHER),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", OTHER),
    ("RuntimeError", "Cuda error: 700[cudaStreamSynchronize(stream);]", BROKEN),
    ("RuntimeError", "Native API returns: 20 (UR_RESULT_ERROR_DEVICE_LOST)", BROKEN),
    ("AcceleratorError", "CUDA error: an illegal memory access was encountered", BROKEN),
]


def error(torch: Any, kind: str, text: str) -> Exception:
    """An error of that type; a class of that name where no package has one."""
    found = getattr(torch, kind, None) or getattr(builtins, kind, None)
    return (found or type(kind, (RuntimeError,), {}))(text)


@pytest.mark.parametrize(("kind", "text", "expected"), TABLE)
def test_an_error_is_out_of_memory_or_permanent_by_its_text(
    torch: Any, kind: str, text: str, expected: type[Exception]
) -> None:
    with (
        pytest.raises(EngineError) as caught,
        translated_device_errors(StageProgress(silent), free_memory=lambda: 2**40),
    ):
        raise error(torch, kind, text)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("text", "free", "expected"),
    [
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", 2**30 - 1, MEMORY),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", 2**29, MEMORY),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", 0, MEMORY),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", 0, MEMORY),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", 2**30, OTHER),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", None, OTHER),
        ("CUDA error: invalid argument", 0, OTHER),
        ("cuDNN error: an illegal memory access was encountered", 0, BROKEN),
    ],
)
def test_a_failed_library_is_out_of_memory_if_almost_none_is_free(
    text: str, free: int | None, expected: type[Exception]
) -> None:
    with (
        pytest.raises(EngineError) as caught,
        translated_device_errors(StageProgress(silent), free_memory=lambda: free),
    ):
        raise RuntimeError(text)
    assert type(caught.value) is expected


def test_free_memory_is_asked_for_only_after_a_library_failed() -> None:
    def free() -> int:
        raise RuntimeError("CUDA error: unspecified launch failure")

    for text, says in (
        ("shapes do not match", "shapes do not match"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED"),
    ):
        with (
            pytest.raises(EngineError, match=says),
            translated_device_errors(StageProgress(silent), free_memory=free),
        ):
            raise RuntimeError(text)


def test_an_error_that_the_report_raises_is_not_translated() -> None:
    def report(*_: object) -> None:
        raise CancelledError("cancelled")

    progress = StageProgress(report)
    with pytest.raises(CancelledError), translated_device_errors(progress):
        progress("shape", 1, 2)


def test_an_error_of_the_server_is_not_translated() -> None:
    with (
        pytest.raises(InputError, match=r"^seed$"),
        translated_device_errors(StageProgress(silent)),
    ):
        raise InputError("seed")


def test_the_message_names_the_stage_or_what_is_done_instead() -> None:
    progress = StageProgress(silent)
    progress("decode", 0, 1)
    expected = pytest.raises(EngineError, match=r"^TRELLIS\.2 failed in decode: KeyError: 'x'$")
    with expected, translated_device_errors(progress):
        raise KeyError("x")
    expected = pytest.raises(OutOfMemoryError, match="ran out of memory in loading;")
    with expected, translated_device_errors(progress, "loading"):
        raise MemoryError


def test_the_first_line_of_an_error_has_no_paths_and_is_short() -> None:
    error = ValueError("cannot read '/home/user/x.py' or C:\\Users\\x\nsecond line")
    assert first_line(error) == "ValueError: cannot read '…' or …"
    assert first_line(ValueError()) == "ValueError: "
    assert len(first_line(ValueError("x" * 999))) < 250


def test_released_frames_hold_no_variables() -> None:
    class Tensor:
        pass

    alive: list[weakref.ref[Tensor]] = []

    def fail() -> None:
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        raise ValueError("failed")

    try:
        fail()
    except ValueError as error:
        assert alive[0]() is not None
        release_frames(error)
        assert alive[0]() is None
