from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import (
    CancelledError,
    make,
    needs_checkout,
    options,
    out_of_memory,
    picture,
    pipeline_of,
    same,
    settings,
    silent,
)
from trellis2_server.engines.portable import Extension
from trellis2_server.engines.trellis2 import Trellis2Engine, engine, warm_up
from trellis2_server.errors import EngineBrokenError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trellis2_server.engines.trellis2.loaded_model import LoadedModel
    from trellis2_server.reports import Report

TOKENS = (6, 20)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes for a CPU."""
    monkeypatch.setattr(warm_up, "TOKENS", TOKENS)


@pytest.fixture
def sizes(loaded: Trellis2Engine, torch: Any) -> Iterator[list[int]]:
    """Number of voxels at each level of the texture decoder that runs, and of its result."""
    found: list[int] = []
    decoder = pipeline_of(loaded).models["tex_slat_decoder"]
    hooks = [
        level[-1].register_forward_pre_hook(lambda _, args: found.append(len(args[0].coords)))
        for level in decoder.blocks
        if len(level)
    ]
    hooks.append(decoder.register_forward_hook(lambda *a: found.append(len(a[-1].coords))))
    del torch
    yield found
    for hook in hooks:
        hook.remove()


def model_of(loaded: Trellis2Engine) -> LoadedModel:
    assert loaded._loaded is not None
    return loaded._loaded.model


def run(loaded: Trellis2Engine, report: Report = silent, **more: Any) -> None:
    assert loaded._loaded is not None
    assert loaded._device is not None
    runner, placement = loaded._device.runner, loaded._loaded.placement
    sizes = warm_up.TOKENS
    warm_up.run(model_of(loaded), sizes, lambda p: runner.running(placement, p), report, **more)


def test_each_size_is_decoded_with_four_times_as_many_voxels_a_level(
    loaded: Trellis2Engine, sizes: list[int]
) -> None:
    reports: list[tuple[str, int, int]] = []
    run(loaded, lambda *report: reports.append(report))
    levels = len(pipeline_of(loaded).models["tex_slat_decoder"].blocks)
    assert set(sizes) == {tokens * 4**level for tokens in TOKENS for level in range(levels)}
    assert list(dict.fromkeys(reports)) == [("warm up", step, 2) for step in range(3)]


@needs_checkout
def test_the_convolution_runs_at_the_channels_of_both_decoders(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("trellis2.modules.sparse.conv.conv_flex_gemm")
    convolve, seen = module.sparse_submanifold_conv3d, set[tuple[int, ...]]()

    def note(feats: Any, coords: Any, shape: Any, weight: Any, *rest: Any) -> Any:
        seen.add(tuple(weight.shape))
        return convolve(feats, coords, shape, weight, *rest)

    monkeypatch.setattr(module, "sparse_submanifold_conv3d", note)
    run(loaded)
    for name in ("tex_slat_decoder", "shape_slat_decoder"):
        decoder = pipeline_of(loaded).models[name]
        assert {tuple(p.shape) for p in decoder.parameters() if p.dim() == 5} == seen


def test_the_warm_up_changes_no_result(loaded: Trellis2Engine) -> None:
    expected = make(loaded, picture(), options())
    run(loaded)
    assert same(expected, make(loaded, picture(), options()))


def test_a_size_that_does_not_fit_is_left_out(
    loaded: Trellis2Engine,
    torch: Any,
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warm_up, "TOKENS", (20, 6, 40))
    hook = out_of_memory(torch, pipeline_of(loaded), "tex_slat_decoder", 1)
    run(loaded)
    hook.remove()
    assert sizes[0] == 6
    assert not {20, 40} & set(sizes)
    assert pipeline_of(loaded).low_vram is False


def test_a_failure_is_a_warning_and_a_lost_device_an_error(
    loaded: Trellis2Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(text)

    decoder = pipeline_of(loaded).models["tex_slat_decoder"]
    hook = decoder.register_forward_pre_hook(fail)
    try:
        text = "no configuration fits"
        run(loaded)
        assert "no configuration fits" in caplog.text
        text = "CUDA error: unspecified launch failure"
        with pytest.raises(EngineBrokenError):
            run(loaded)
    finally:
        hook.remove()
        assert loaded._device is not None
        loaded._device.runner.broken = None


def test_the_warm_up_ends_when_its_time_is_over(
    loaded: Trellis2Engine, sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    times = iter([0.0, 1.0, *[warm_up.BUDGET_S + 1] * 9])
    reports: list[tuple[str, int, int]] = []
    run(loaded, lambda *report: reports.append(report), clock=lambda: next(times))
    assert "ended early" in caplog.text
    assert reports[-1] == ("warm up", 2, 2)
    assert len(sizes) < 3


def test_a_report_that_raises_ends_the_load(loaded: Trellis2Engine) -> None:
    def report(*_: object) -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        run(loaded, report)


def test_only_a_real_flexgemm_is_warmed_up(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[Any, ...]] = []
    monkeypatch.setattr(engine.warm_up, "run", lambda *args: ran.append(args))
    assert loaded._loaded is not None
    assert loaded._device is not None
    engine._warm_up(loaded._device, loaded._loaded, silent)
    assert not ran
    model = model_of(loaded)
    real = replace(model, upstream=replace(model.upstream, extensions=REAL))
    engine._warm_up(loaded._device, replace(loaded._loaded, model=real), silent)
    assert [arguments[1] for arguments in ran] == [TOKENS]


def test_one_size_is_enough_for_a_kernel_that_is_compiled_but_not_tuned(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolution = importlib.import_module("trellis2_server.engines.portable.convolution")
    model = model_of(loaded)
    assert warm_up.sizes_of(model) == ()
    monkeypatch.setattr(convolution, "is_kernel_used_on", lambda device: device.type == "cpu")
    assert warm_up.sizes_of(model) == TOKENS[:1]


def test_the_engine_warms_up_when_it_loads(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "sizes_of", lambda _: TOKENS)
    stages: list[str] = []
    made = Trellis2Engine(settings(checkpoint))
    made.load(lambda stage, *_: stages.append(stage))
    made.unload()
    assert stages[-1] == "warm up"


REAL = (Extension("flex_gemm", "real", ""),)
