from __future__ import annotations

import contextlib
import gc
import threading
from typing import Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.live_objects import live_objects
from tests.support.trellis2_engine import (
    CancelledError,
    cone,
    make,
    options,
    picture,
    pipeline_of,
    repair,
    same,
    silent,
)
from trellis2_server.engines.trellis2 import Trellis2Engine, device_errors
from trellis2_server.engines.trellis2.progress import StageProgress
from trellis2_server.engines.trellis2.stage_runner import StageRunner
from trellis2_server.errors import EngineBrokenError, EngineError

PERMANENT = (
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unknown error\nSearch for `cudaErrorUnknown' in https://docs.nvidia.com",
    "HIP error: an illegal memory access was encountered",
)


def live_tensors(torch: Any) -> int:
    return len(live_objects(torch.Tensor))


def held_tensors(torch: Any) -> int:
    """Number of tensors, with those that only a garbage collection would free."""
    return len(live_objects(torch.Tensor, collect=False))


@pytest.mark.costly
@pytest.mark.parametrize("low_vram", [False, True])
def test_a_job_cancelled_at_any_step_leaves_the_next_one_unchanged(
    loaded: Trellis2Engine, *, low_vram: bool
) -> None:
    expected = make(loaded, picture(), options())
    reports: list[str] = []
    make(loaded, picture(), options(), lambda stage, *_: reports.append(stage))
    pipeline = pipeline_of(loaded)
    pipeline.low_vram = low_vram
    try:
        for last in range(len(reports)):
            left = iter(range(last))

            def report(stage: str, step: int, steps: int, left: Any = left) -> None:
                if next(left, None) is None:
                    raise CancelledError(f"{stage} {step} {steps}")

            with pytest.raises(CancelledError):
                make(loaded, picture(), options(seed=9), report)
            assert pipeline.models["shape_slat_decoder"].low_vram is False
            hooks = [m._forward_pre_hooks for d in pipeline.models.values() for m in d.modules()]
            assert not any(hooks)
        assert same(expected, make(loaded, picture(), options()))
    finally:
        pipeline.low_vram = False


def test_the_random_numbers_of_the_process_stay_as_they_were(
    loaded: Trellis2Engine, torch: Any
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    make(loaded, picture(), options())
    assert torch.equal(before, torch.get_rng_state())


def test_a_failure_is_one_line_without_paths_and_does_not_change_later_jobs(
    loaded: Trellis2Engine, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make(loaded, picture(), options())

    def fail(*_: object) -> None:
        raise RuntimeError("broken in /home/somebody/x.py\nTraceback: more")

    decoder = pipeline_of(loaded).models["tex_slat_decoder"]
    handle = decoder.register_forward_pre_hook(fail)
    with pytest.raises(EngineError, match=r"failed in decode: RuntimeError: broken in …$"):
        make(loaded, picture(), options())
    handle.remove()
    assert "x.py" in caplog.text  # the operator sees the path
    assert "in fail" in caplog.text
    assert same(expected, make(loaded, picture(), options()))


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_failed_job_holds_no_tensors_after_its_error_is_gone(
    loaded: Trellis2Engine, torch: Any, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    monkeypatch.setattr(device_errors.logger, "disabled", True)  # pytest stores log records
    make(loaded, picture(), options())
    before = live_tensors(torch)

    def report(stage: str, step: int, steps: int) -> None:
        if is_cancelled and (stage, step) == ("decode", 3):
            raise CancelledError(f"{stage} {step} {steps}")

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    block = pipeline_of(loaded).models["shape_slat_decoder"].blocks[1][0]
    handle = None if is_cancelled else block.register_forward_pre_hook(fail)
    gc.disable()
    try:
        with contextlib.suppress(CancelledError, EngineError):
            loaded.shape(picture(), options(), report)
            pytest.fail("the job succeeded")
        assert held_tensors(torch) == before
        try:
            loaded.shape(picture(), options(), report)
        except (CancelledError, EngineError):
            # PyTorch's call of the module still holds its argument.
            assert held_tensors(torch) <= before + 3
    finally:
        gc.enable()
        if handle is not None:
            handle.remove()


@pytest.mark.costly
def test_fifty_jobs_leave_no_tensors(loaded: Trellis2Engine, torch: Any) -> None:
    make(loaded, picture(), options())
    before = live_tensors(torch)
    for seed in range(50):
        make(loaded, picture(), options(seed=seed))
    assert live_tensors(torch) == before


@pytest.mark.parametrize("text", PERMANENT)
@pytest.mark.parametrize("kind", ["AcceleratorError", "RuntimeError"])
def test_a_permanent_error_of_the_device_breaks_the_engine(
    loaded: Trellis2Engine, torch: Any, kind: str, text: str
) -> None:
    raised = getattr(torch, kind, None) or RuntimeError

    def fail(*_: object) -> None:
        raise raised(text)

    pipeline = pipeline_of(loaded)
    handle = pipeline.models["shape_slat_decoder"].register_forward_pre_hook(fail)
    try:
        with pytest.raises(
            EngineBrokenError, match=r"permanently in decode: .*; restart the server"
        ):
            loaded.shape(picture(), options(), silent)
        handle.remove()
        for call in (
            lambda: loaded.shape(picture(), options(), silent),
            lambda: loaded.texture_mesh(cone(), picture(), options(), silent),
        ):
            with pytest.raises(EngineBrokenError, match="permanently"):
                call()
        assert loaded.device_memory() == {}
        assert "vram_used_mb" not in loaded.describe()
    finally:
        handle.remove()
        repair(loaded)


def test_a_failure_while_cleaning_up_breaks_the_engine(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(stage: str, step: int, steps: int) -> None:
        if stage == "shape":
            raise CancelledError(f"{stage} {step} {steps}")

    def fail() -> None:
        raise RuntimeError("CUDA error: something unknown")

    pipeline = pipeline_of(loaded)
    monkeypatch.setattr(pipeline, "low_vram", True)
    monkeypatch.setattr(pipeline.models["tex_slat_decoder"], "cpu", fail, raising=False)
    try:
        with pytest.raises(EngineBrokenError, match=r"after shape: RuntimeError: CUDA error"):
            loaded.shape(picture(), options(), report)
        with pytest.raises(EngineBrokenError):
            loaded.shape(picture(), options(), silent)
    finally:
        repair(loaded)


def test_a_stage_runs_in_inference_mode_or_only_without_gradients(torch: Any) -> None:
    runner, placement = StageRunner(torch, lambda: None), Placement()
    with runner.running(placement, StageProgress(silent)):
        assert torch.is_inference_mode_enabled()
    with runner.running(placement, StageProgress(silent), inference=False):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
    assert not placement.restored


def test_stages_run_one_at_a_time(torch: Any) -> None:
    runner, placement = StageRunner(torch, lambda: None), Placement()
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with runner.running(placement, StageProgress(silent)):
            order.append("second")

    with runner.running(placement, StageProgress(silent)):
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(PATIENCE_S)
        order.append("first")
    thread.join(PATIENCE_S)
    assert order == ["first", "second"]


def test_no_stage_starts_before_the_models_of_a_failed_one_are_restored(torch: Any) -> None:
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with runner.running(placement, StageProgress(silent)):
            order.append("second")

    def clean_up() -> None:
        thread.start()
        assert entered.wait(PATIENCE_S)
        thread.join(0.2)  # long enough for a stage that does not wait
        order.append("cleaned")

    runner, placement = StageRunner(torch, clean_up), Placement()
    thread = threading.Thread(target=second)
    with pytest.raises(EngineError), runner.running(placement, StageProgress(silent)):
        raise ValueError("failed")
    thread.join(PATIENCE_S)
    assert order == ["cleaned", "second"]


def test_a_stage_that_waited_for_the_one_that_broke_the_device_does_not_run(torch: Any) -> None:
    order: list[str] = []
    runner, placement, lock = StageRunner(torch, lambda: None), Placement(), Lock()
    runner._lock = lock  # type: ignore[assignment]

    def second() -> None:
        try:
            with runner.running(placement, StageProgress(silent)):
                order.append("ran")
        except EngineBrokenError:
            order.append("refused")

    def first() -> None:
        with runner.running(placement, StageProgress(silent)):
            thread.start()
            assert lock.asked.acquire(timeout=PATIENCE_S)
            assert lock.asked.acquire(timeout=PATIENCE_S)
            raise RuntimeError("CUDA error: unspecified launch failure")

    thread = threading.Thread(target=second)
    with pytest.raises(EngineBrokenError):
        first()
    thread.join(PATIENCE_S)
    assert order == ["refused"]


def test_a_failed_stage_restores_the_models_and_cleans_up(torch: Any) -> None:
    cleaned: list[int] = []
    runner, placement = StageRunner(torch, lambda: cleaned.append(1)), Placement()
    with pytest.raises(EngineError), runner.running(placement, StageProgress(silent)):
        raise ValueError("failed")
    assert placement.restored
    assert cleaned
    runner.check()


class Lock:
    """A lock.

    Attributes:
        asked: released for each thread that wants the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.asked.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Placement:
    """Notes whether it was restored.

    Attributes:
        restored: whether it was.
    """

    def __init__(self) -> None:
        self.restored = False

    def restore(self) -> None:
        self.restored = True
