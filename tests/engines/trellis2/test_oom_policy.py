from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import (
    cone,
    make,
    options,
    out_of_memory,
    picture,
    pipeline_of,
    same,
    settings,
    silent,
)
from trellis2_server.engines.trellis2 import Trellis2Engine, oom_policy
from trellis2_server.engines.trellis2.oom_policy import (
    Attempts,
    OomPolicy,
    build_within_memory,
    mesh_texture_attempts,
    shape_attempts,
)
from trellis2_server.engines.trellis2.placement import ModelPlacement
from trellis2_server.engines.trellis2.progress import StageProgress
from trellis2_server.engines.trellis2.state import Trellis2State
from trellis2_server.engines.trellis2.working_memory import WorkingMemory
from trellis2_server.errors import EngineBrokenError, OutOfMemoryError

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30


def test_a_job_out_of_memory_is_tried_again_with_less(loaded: Trellis2Engine, torch: Any) -> None:
    seen: list[tuple[str, int, int]] = []
    lower = make(loaded, picture(), options("512"))
    handle = out_of_memory(torch, pipeline_of(loaded), "shape_slat_flow_model_1024", 99)
    try:
        requested = options("1024_cascade")
        shape = loaded.shape(picture(), requested, lambda *report: seen.append(report))
        field = loaded.texture(shape, picture(), requested, silent)
    finally:
        handle.remove()
    assert same(lower, (shape, field))
    assert ("retry", 1, 1) in seen
    assert isinstance(shape.state, Trellis2State)
    assert shape.warnings == ("out of memory with 1024_cascade; tried again with 512",)


def test_out_of_memory_first_moves_models_one_at_a_time_which_changes_no_result(
    checkpoint: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelPlacement, "can_save_memory", property(lambda p: not p.low_vram))
    made = Trellis2Engine(settings(checkpoint), oom_fallback="none")
    made.load(silent)
    pipeline = pipeline_of(made)
    expected = make(made, picture(), options("1024_cascade"))
    for name in ("shape_slat_decoder", "tex_slat_flow_model_1024"):
        pipeline.low_vram = False
        handle = out_of_memory(torch, pipeline, name, 1)
        assert same(expected, make(made, picture(), options("1024_cascade")))
        assert pipeline.low_vram is True
        handle.remove()


def test_a_job_that_stays_out_of_memory_is_an_error(checkpoint: Path, torch: Any) -> None:
    made = Trellis2Engine(settings(checkpoint), oom_fallback="none")
    made.load(silent)
    handle = out_of_memory(torch, pipeline_of(made), "sparse_structure_flow_model", 1)
    with pytest.raises(OutOfMemoryError, match="ran out of memory in structure"):
        made.shape(picture(), options("1024_cascade"), silent)
    handle.remove()
    make(made, picture(), options())


def test_the_retries_go_from_fewer_tokens_to_lower_types() -> None:
    requested = options("1536_cascade", max_num_tokens=65_536)
    ladder = [
        (o.pipeline_type, o.max_num_tokens)
        for o in shape_attempts(requested, "resolution").steps[1:]
    ]
    assert ladder == [
        ("1536_cascade", 49_152),
        ("1536_cascade", 36_864),
        ("1536_cascade", 27_648),
        ("1536_cascade", 24_576),
        ("1024_cascade", 65_536),
        ("512", 65_536),
    ]
    assert len(shape_attempts(requested, "tokens").steps) == 1 + 4
    assert shape_attempts(requested, "none").steps == (requested,)
    assert shape_attempts(options("512"), "resolution").steps == (options("512"),)


def test_a_limit_that_changes_nothing_is_not_tried(
    loaded: Trellis2Engine, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = options("1536_cascade", max_num_tokens=65_536)
    expected = make(loaded, picture(), options("1024_cascade", max_num_tokens=65_536))
    for name in ("shape_slat_decoder", "shape_slat_flow_model_1024"):
        handle = out_of_memory(torch, pipeline_of(loaded), name, 1)
        shape = loaded.shape(picture(), requested, silent)
        handle.remove()
        assert shape.warnings == (
            "out of memory with 1536_cascade and 65536 tokens; tried again with 1024_cascade",
        )
        assert same(expected, (shape, loaded.texture(shape, picture(), requested, silent)))
    # A limit below the number of tokens is tried.
    tokens = len(loaded.shape(picture(), requested, silent).state.features)
    monkeypatch.setattr(oom_policy, "MIN_TOKENS", tokens // 2)
    handle = out_of_memory(torch, pipeline_of(loaded), "shape_slat_flow_model_1024", 1)
    shape = loaded.shape(picture(), requested, silent)
    handle.remove()
    (warning,) = shape.warnings
    assert "tried again with 1536_cascade and " in warning
    assert tokens // 2 <= int(warning.split()[-2]) <= tokens
    assert 1024 <= shape.resolution < 1536


def test_a_mesh_out_of_memory_is_textured_at_a_lower_resolution(
    loaded: Trellis2Engine, torch: Any
) -> None:
    handle = out_of_memory(torch, pipeline_of(loaded), "tex_slat_flow_model_1024", 99)
    try:
        field = loaded.texture_mesh(cone(), picture(), options("1536_cascade"), silent)
    finally:
        handle.remove()
    assert field.resolution == 512
    assert field.warnings == (
        "out of memory with resolution 1536; tried again with resolution 1024",
        "out of memory with resolution 1024; tried again with resolution 512",
    )
    handle = out_of_memory(torch, pipeline_of(loaded), "tex_slat_flow_model_512", 99)
    with pytest.raises(OutOfMemoryError):
        loaded.texture_mesh(cone(), picture(), options("512"), silent)
    handle.remove()


class Placement:
    """Can save memory a number of times, and returns to the device where it fits.

    Attributes:
        can_save_memory: whether it can do so now.
        low_vram: whether models are on the CPU.
        beside: bytes beside all weights; None: unknown.
        calls: what was called.
        fails: whether `use_device` runs out of memory.
    """

    def __init__(self, savings: int = 0) -> None:
        self.working = WorkingMemory()
        self.can_save_memory = savings > 0
        self.low_vram = False
        self.beside: int | None = None
        self.calls: list[str] = []
        self.fails = False
        self._savings = savings

    def save_memory(self) -> str:
        self._savings -= 1
        self.can_save_memory = self._savings > 0
        self.low_vram = True
        self.calls.append("save")
        return "low_vram is on"

    def allow_copies_ahead(self) -> None:
        self.calls.append("ahead")

    def room(self) -> int | None:
        return self.beside

    def use_device(self) -> None:
        self.calls.append("device")
        if self.fails:
            self.working.note_failure(512, self.beside or 0)
            raise MemoryError
        self.working.note_return()
        self.low_vram = False


def policy(placement: Placement, calls: list[str], *, may_return: bool = True) -> OomPolicy:
    made: Any = placement
    return OomPolicy(
        made,
        lambda: calls.append("clean up"),
        lambda: calls.append("finish"),
        may_return=may_return,
    )


def run(
    fails: int, attempts: Attempts[Any], *, savings: int = 0
) -> tuple[list[Any], list[tuple[str, int, int]], Any]:
    """Steps that a stage ran with that fails a number of times, reports, and the result."""
    seen: list[Any] = []
    reports: list[tuple[str, int, int]] = []

    def stage(step: Any) -> str:
        seen.append(step)
        if len(seen) <= fails:
            raise OutOfMemoryError("full")
        return f"made with {step}"

    progress = StageProgress(lambda *report: reports.append(report))
    try:
        return seen, reports, policy(Placement(savings), []).run(stage, attempts, progress)
    except OutOfMemoryError as error:
        return seen, reports, error


def test_a_stage_that_succeeds_runs_once_without_warnings() -> None:
    assert run(0, Attempts((3, 2, 1)), savings=1) == ([3], [], ("made with 3", ()))


def test_memory_is_saved_first_and_the_stage_runs_again_unchanged() -> None:
    seen, reports, result = run(1, Attempts((3, 2, 1)), savings=1)
    assert (seen, reports, result) == ([3, 3], [("retry", 1, 3)], ("made with 3", ()))
    seen, reports, result = run(2, Attempts((3,)), savings=2)
    assert (seen, reports, result) == (
        [3, 3, 3],
        [("retry", 1, 1), ("retry", 2, 2)],
        ("made with 3", ()),
    )


def test_lower_attempts_follow_and_each_is_a_warning_and_a_report() -> None:
    seen, reports, (result, warnings) = run(3, Attempts((3, 2, 1)), savings=1)
    assert seen == [3, 3, 2, 1]
    assert reports == [("retry", 1, 3), ("retry", 2, 3), ("retry", 3, 3)]
    assert result == "made with 1"
    assert warnings == (
        "out of memory with 3; tried again with 2",
        "out of memory with 2; tried again with 1",
    )


def test_the_error_of_the_last_attempt_is_raised() -> None:
    for attempts in (Attempts((3, 2, 1)), Attempts((1,))):
        seen, _, result = run(9, attempts)
        assert seen == list(attempts.steps)
        assert isinstance(result, OutOfMemoryError)


def test_attempts_that_cannot_need_less_are_left_out() -> None:
    def needs_less(failed: int, lower: int, tokens: int | None) -> bool:
        assert tokens is None
        return lower < failed - 1

    seen, reports, _ = run(2, Attempts((5, 4, 3, 2, 1), needs_less=needs_less))
    assert seen == [5, 3, 1]
    assert reports == [("retry", 1, 3), ("retry", 2, 2)]


def succeed(made: OomPolicy, placement: Placement, peak: int, stages: int = 1) -> None:
    def stage(step: str) -> str:
        placement.working.note_stage(1024, peak)
        return step

    for _ in range(stages):
        made.run(stage, Attempts(("x",)), StageProgress(silent))


def test_memory_is_freed_after_an_error_and_only_trimmed_after_a_success() -> None:
    calls: list[str] = []
    placement = Placement(savings=1)
    made = policy(placement, calls)
    left = iter([OutOfMemoryError("full")])

    def stage(step: str) -> str:
        for error in left:
            raise error
        return step

    made.run(stage, Attempts(("x",)), StageProgress(silent))
    assert calls == ["clean up", "finish"]
    calls.clear()
    made.run(stage, Attempts(("x",)), StageProgress(silent))
    assert calls == ["finish"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: an illegal memory access was encountered", EngineBrokenError),
        ("DefaultCPUAllocator: can't allocate memory", OutOfMemoryError),
    ],
)
def test_an_error_while_memory_is_saved_is_the_servers_own(
    text: str, expected: type[Exception]
) -> None:
    placement = Placement(savings=1)

    def save_memory() -> str:
        raise RuntimeError(text)

    def stage(step: str) -> str:
        raise OutOfMemoryError(step)

    placement.save_memory = save_memory
    with pytest.raises(expected, match="in freeing memory"):
        policy(placement, []).run(stage, Attempts(("x",)), StageProgress(silent))


def test_low_vram_ends_when_all_weights_fit_beside_the_last_stages() -> None:
    calls: list[str] = []
    placement = Placement()
    made = policy(placement, calls)
    placement.low_vram, placement.beside = True, 6 * GIB
    succeed(made, placement, 5 * GIB + 1, stages=8)
    assert placement.low_vram
    placement.beside += GIB
    succeed(made, placement, 5 * GIB + 1)
    assert not placement.low_vram
    assert calls[-2:] == ["clean up", "finish"]


def test_a_configured_low_vram_and_an_unknown_memory_are_left_as_they_are() -> None:
    placement = Placement()
    placement.low_vram, placement.beside = True, 100 * GIB
    succeed(policy(placement, [], may_return=False), placement, 1, stages=9)
    placement.beside = None
    succeed(policy(placement, []), placement, 1, stages=9)
    assert placement.low_vram
    assert "device" not in placement.calls


def test_a_return_that_runs_out_of_memory_is_not_tried_again_with_the_same_memory() -> None:
    placement = Placement()
    made = policy(placement, [])
    placement.low_vram, placement.beside, placement.fails = True, 6 * GIB, True
    succeed(made, placement, GIB, stages=8)
    assert placement.calls.count("device") == 1
    placement.beside, placement.fails = 8 * GIB, False
    succeed(made, placement, GIB)
    assert not placement.low_vram


def test_a_mesh_is_textured_at_lower_resolutions_only_where_that_is_allowed() -> None:
    assert mesh_texture_attempts("1536_cascade", "resolution").steps == (1536, 1024, 512)
    assert mesh_texture_attempts("1024", "resolution").steps == (1024, 512)
    assert mesh_texture_attempts("512", "resolution").steps == (512,)
    for fallback in ("none", "tokens"):
        assert mesh_texture_attempts("1536_cascade", fallback).steps == (1536,)


@pytest.mark.parametrize(
    ("low_vram", "may_lower", "built"),
    [(False, True, [False, True]), (False, False, [False]), (True, True, [True])],
)
def test_weights_that_do_not_fit_are_loaded_with_low_vram_unless_it_is_configured(
    built: list[bool], *, low_vram: bool, may_lower: bool
) -> None:
    seen: list[object] = []

    def build(low_vram: bool) -> str:  # noqa: FBT001 - as the policy calls it
        seen.append(low_vram)
        if len(seen) == 1:
            raise OutOfMemoryError("full")
        return "pipeline"

    def load() -> Any:
        return build_within_memory(
            build, low_vram=low_vram, may_lower=may_lower, release=lambda: seen.append("release")
        )

    if len(built) == 1:
        with pytest.raises(OutOfMemoryError):
            load()
        assert seen == built
    else:
        assert load() == "pipeline"
        assert seen == [False, "release", True]
