from __future__ import annotations

import importlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import (
    TYPES,
    load,
    make,
    needs_checkout,
    options,
    picture,
    pipeline_of,
    same,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine

KINDS: dict[str, dict[str, bool]] = {
    "structure": {"sparse": False, "rope": False},
    "structure-rope": {"sparse": False},
    "sparse": {},
    "no-norm": {"norm": False},
    "no-norm-no-rope": {"norm": False, "rope": False},
    "own-modulation": {"share_mod": False},
}


@pytest.fixture
def blocks(torch: Any) -> Iterator[Any]:
    """The module; what it compiled is dropped afterwards."""
    yield importlib.import_module("trellis2_server.engines.trellis2.compilation.blocks")
    torch._dynamo.reset()


@pytest.fixture
def small(torch: Any) -> Any:
    """Small blocks."""
    torch.manual_seed(0)
    return importlib.import_module("tests.support.transformer_blocks")


@pytest.fixture
def complex_rotation(blocks: Any, small: Any, torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotate by complex numbers as TRELLIS.2 does, whose products are rounded otherwise."""

    def rotate(x: Any, rotations: Any) -> Any:
        return small.rotate(x, torch.view_as_complex(rotations))

    monkeypatch.setattr(blocks.fusion, "_rotate", rotate)


def compiled_graphs() -> int:
    counters = importlib.import_module("torch._dynamo.utils").counters
    return counters["stats"]["unique_graphs"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [r for r in caplog.records if "compilation" in r.name]
    return [r.getMessage() for r in records if r.levelno >= logging.WARNING]


@pytest.mark.usefixtures("complex_rotation")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_block_computes_the_same_bits_if_it_is_not_compiled(
    torch: Any, blocks: Any, small: Any, kind: str, dtype: str
) -> None:
    settings = {"sparse": True, **KINDS[kind]}
    sparse = settings.pop("sparse")
    model = small.FlowModel(dtype=getattr(torch, dtype), **settings)
    fused = blocks.FusedBlocks("eager")
    with torch.inference_mode():
        given = small.inputs(model, 50, sparse=sparse)
        expected = small.rows(model(*given))
        fused.install([model], "cpu")
        assert torch.equal(small.rows(model(*given)), expected)
        calls = model.blocks[1].calls
        model(*given)
    assert fused.failed is None
    assert model.blocks[1].calls == calls  # the first block is checked once, the second never


def test_the_rotation_equals_that_by_complex_numbers_to_rounding(
    torch: Any, blocks: Any, small: Any
) -> None:
    x, angles = torch.randn(40, 2, 24), torch.randn(40, 12)
    phases = torch.polar(torch.ones_like(angles), angles)
    found = blocks.fusion._rotate(x, torch.view_as_real(phases))
    assert blocks.fusion.difference(found, small.rotate(x, phases)) < 1e-6


def test_no_number_of_tokens_compiles_anything_after_loading(
    torch: Any, blocks: Any, small: Any
) -> None:
    fused = blocks.FusedBlocks("aot_eager")
    models = [small.FlowModel(rope=False), small.FlowModel(), small.FlowModel()]
    fused.install(models, "cpu")
    before = compiled_graphs()

    def run() -> None:
        with torch.inference_mode():
            for tokens in (7, 64, 333, 2000):
                for model, sparse in zip(models, (False, True, True), strict=True):
                    model(*small.inputs(model, tokens, sparse=sparse))

    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert fused.failed is None
    assert compiled_graphs() == before


def test_one_row_for_all_tokens_compiles_nothing_after_loading(
    torch: Any, blocks: Any, small: Any
) -> None:
    fused, model = blocks.FusedBlocks("eager"), small.FlowModel()
    fused.install([model], "cpu")
    row = torch.randn(1, model.blocks[0].cross_attn.to_out.out_features)
    for block in model.blocks:
        block.cross_attn.forward = lambda x, _: x.replace(row.expand(len(x.feats), -1))
    before = compiled_graphs()
    with torch.inference_mode():
        model(*small.inputs(model, 20))
    assert fused.failed is None
    assert compiled_graphs() == before


def test_weights_may_move_between_calls(torch: Any, blocks: Any, small: Any) -> None:
    model, other = small.FlowModel(), small.FlowModel()
    blocks.FusedBlocks("aot_eager").install([model], "cpu")
    with torch.inference_mode():
        given = small.inputs(model, 20)
        first = small.rows(model(*given))
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data = theirs.data.clone()
        second, expected = small.rows(model(*given)), small.rows(other(*given))
    assert blocks.fusion.difference(second, expected) < 1e-5
    assert blocks.fusion.difference(first, expected) > 1e-2


def test_several_pictures_are_computed_as_usual(torch: Any, blocks: Any, small: Any) -> None:
    model = small.FlowModel()
    blocks.FusedBlocks("eager").install([model], "cpu")
    with torch.inference_mode():
        x, *rest = small.inputs(model, 20)
        x.pictures = 2
        model(x, *rest)
    assert model.blocks[0].calls == 1


def test_without_a_compiler_the_blocks_stay_with_one_warning(
    torch: Any, blocks: Any, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(*_: object) -> Any:
        raise RuntimeError("no compiler found")

    model = small.FlowModel()
    fused = blocks.FusedBlocks(no_compiler)
    fused.install([model], "cpu")
    (warning,) = warnings(caplog)
    assert "no compiler found" in warning
    assert "no compiler found" in fused.failed
    with torch.inference_mode():
        model(*small.inputs(model, 20))
    assert [block.calls for block in model.blocks] == [1, 1]


def test_a_compiled_function_with_wrong_results_is_not_used(
    torch: Any, blocks: Any, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(module: Any, _: object) -> Any:
        def call(*args: Any) -> tuple[Any, ...]:
            return tuple(value * 1.1 for value in module(*args))

        return call

    fused = blocks.FusedBlocks(wrong)
    fused.install([small.FlowModel()], "cpu")
    (warning,) = warnings(caplog)
    assert "norm_and_modulate differs" in warning
    assert torch is not None


def test_a_block_that_computes_something_else_is_not_used(
    torch: Any, blocks: Any, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class OtherBlock(small.Block):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            return out.replace(out.feats * 2)

    model = small.FlowModel()
    model.blocks = torch.nn.ModuleList([OtherBlock(), OtherBlock()])
    with torch.inference_mode():
        given = small.inputs(model, 20)
        expected = small.rows(model(*given))
        blocks.FusedBlocks("eager").install([model], "cpu")
        assert torch.equal(small.rows(model(*given)), expected)
    (warning,) = warnings(caplog)
    assert "OtherBlock differs" in warning


def test_a_failure_during_a_job_gives_the_usual_result_and_one_warning(
    torch: Any, blocks: Any, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = small.FlowModel()
    fused = blocks.FusedBlocks("eager")
    with torch.inference_mode():
        given = small.inputs(model, 20)
        expected = small.rows(model(*given))
        fused.install([model], "cpu")

        def fail(*_: object) -> None:
            raise RuntimeError("unsupported")

        fused.functions.gate_and_add = fail
        assert torch.equal(small.rows(model(*given)), expected)
        assert torch.equal(small.rows(model(*given)), expected)
    assert len(warnings(caplog)) == 1
    assert not any("forward" in vars(module) for module in model.modules())


def test_out_of_memory_is_passed_on(torch: Any, blocks: Any, small: Any) -> None:
    model = small.FlowModel()
    fused = blocks.FusedBlocks("eager")
    fused.install([model], "cpu")

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    fused.functions.gate_and_add = fail
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        model(*small.inputs(model, 20))
    assert fused.failed is None


def test_a_comparison_that_ran_out_of_memory_is_made_again(
    torch: Any, blocks: Any, small: Any
) -> None:
    model = small.FlowModel()
    fused = blocks.FusedBlocks("eager")
    calls: list[object] = []

    def fail_once(module: object, _: object) -> None:
        calls.append(module)
        if len(calls) == 2:  # the usual block's, after the fused one's
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.blocks[0].mlp.register_forward_pre_hook(fail_once)
    fused.install([model], "cpu")
    with torch.inference_mode():
        with pytest.raises(torch.OutOfMemoryError):
            model(*small.inputs(model, 20))
        for _ in range(2):
            model(*small.inputs(model, 20))
    assert len(calls) == 2 + 2 + 1


def test_a_block_with_other_attributes_is_left_alone(
    blocks: Any, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for change in ("norm2", "use_checkpoint"):
        model = small.FlowModel()
        if change == "norm2":
            model.blocks[1].norm2 = small.Norm(48, elementwise_affine=False)
        else:
            model.blocks[1].use_checkpoint = True
        blocks.FusedBlocks("eager").install([model], "cpu")
        assert not any("forward" in vars(module) for module in model.modules())
    assert len(warnings(caplog)) == 2


@needs_checkout
@pytest.mark.usefixtures("complex_rotation")
@pytest.mark.parametrize("pipeline_type", TYPES)
def test_jobs_have_the_same_bits_if_nothing_is_compiled(
    checkpoint: Path, loaded: Trellis2Engine, blocks: Any, pipeline_type: str
) -> None:
    engine = load(checkpoint)
    fused = blocks.FusedBlocks("eager")
    models = pipeline_of(engine).models
    flows = [model for name, model in models.items() if "flow_model" in name]
    fused.install(flows, "cpu")
    requested = options(pipeline_type)
    assert same(make(loaded, picture(), requested), make(engine, picture(), requested))
    assert fused.failed is None
    assert any("forward" in vars(module) for module in flows[0].modules())
    engine.unload()
