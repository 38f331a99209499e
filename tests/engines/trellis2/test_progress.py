from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import CancelledError, options, picture, silent
from trellis2_server.engines.trellis2.progress import StageProgress, count_blocks

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2 import Trellis2Engine


def test_every_stage_reports_all_its_steps(loaded: Trellis2Engine) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def report(stage: str, step: int, steps: int) -> None:
        seen.setdefault(stage, []).append((step, steps))

    shape = loaded.shape(picture(), options("1024_cascade"), report)
    assert list(seen) == ["condition", "structure", "shape", "decode"]
    assert seen["structure"] == [(0, 2), (1, 2), (2, 2)]
    # Between the two models the decoder refines: reports that may cancel, and no steps.
    assert list(dict.fromkeys(seen["shape"])) == [(i, 4) for i in range(5)]
    assert seen["shape"].count((2, 4)) > 4
    seen.clear()
    loaded.texture(shape, picture(), options("1024_cascade"), report)
    assert list(seen) == ["texture", "decode"]
    for stage in seen.values():
        assert stage == [(i, stage[0][1]) for i in range(stage[0][1] + 1)]


def test_the_exception_of_a_report_is_remembered() -> None:
    def report(stage: str, step: int, steps: int) -> None:
        raise CancelledError(f"{stage} {step} {steps}")

    progress = StageProgress(report)
    with pytest.raises(CancelledError) as caught:
        progress("shape", 1, 3)
    assert progress.raised is caught.value
    assert progress.stage == "shape"


def test_a_counter_never_goes_beyond_its_steps() -> None:
    seen: list[tuple[str, int, int]] = []
    step = StageProgress(lambda *report: seen.append(report)).counter("decode", 2)
    for _ in range(3):
        step()
    assert seen == [("decode", 0, 2), ("decode", 1, 2), ("decode", 2, 2), ("decode", 2, 2)]


def test_hooks_are_removed_after_an_error(torch: Any) -> None:
    model = SimpleNamespace(blocks=[[torch.nn.Identity(), torch.nn.Identity()], []])
    progress = StageProgress(silent)
    with progress.decoding(model):
        assert all(block._forward_pre_hooks for block in model.blocks[0])
    with pytest.raises(KeyError), progress.decoding(model):
        raise KeyError
    assert not any(block._forward_pre_hooks for block in model.blocks[0])
    assert count_blocks(model) == 2


def test_a_cascade_counts_the_tokens_of_its_second_model(torch: Any) -> None:
    seen: list[tuple[str, int, int]] = []
    decoder = SimpleNamespace(blocks=[[torch.nn.Identity()]])
    second = torch.nn.Identity()
    progress = StageProgress(lambda *report: seen.append(report))
    progress("shape", 2, 4)
    with progress.cascade(decoder, second):
        decoder.blocks[0][0](None)
        assert progress.tokens is None
        second(SimpleNamespace(coords=[0, 0, 0]))
    assert progress.tokens == 3
    assert seen == [("shape", 2, 4)] * 2
