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
from trellis2_server.errors import EngineError, InputError, OutOfMemoryError


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB", OutOfMemoryError),
        ("AcceleratorError", "CUDA error: out of memory", OutOfMemoryError),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", OutOfMemoryError),
        ("AcceleratorError", "CUDA error: invalid argument", EngineError),
        ("RuntimeError", "CUDA error: no kernel image is available for execution", EngineError),
        ("RuntimeError", "Expected all tensors on cuda:0, found two devices", EngineError),
        ("ValueError", "device-side assert", EngineError),
    ],
)
def test_a_temporary_error_does_not_break_the_engine(
    torch: Any, kind: str, text: str, expected: type[Exception]
) -> None:
    raised = getattr(torch, kind, None) or getattr(builtins, kind, RuntimeError)
    with (
        pytest.raises(EngineError) as caught,
        translated_device_errors(StageProgress(silent)),
    ):
        raise raised(text)
    assert type(caught.value) is expected


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
