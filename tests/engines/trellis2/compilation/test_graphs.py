from __future__ import annotations

import gc
import logging
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.recorded_graphs import RecordedGraphs
from tests.support.trellis2_engine import (
    TYPES,
    CancelledError,
    cone,
    load,
    make,
    needs_checkout,
    options,
    out_of_memory,
    picture,
    pipeline_of,
    same,
    silent,
)
from trellis2_server.engines.trellis2.compilation.graphs import MAX_GRAPHS, StageGraphs
from trellis2_server.engines.trellis2.samplers import SAMPLERS
from trellis2_server.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine

STEPS = {f"{stage}_sampling_steps": 4 for stage in ("ss", "shape", "tex")}


class Model:
    """x · weight + t + condition; `cache` is made in the first call for a condition."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.weight = torch.tensor([2.0, 3.0])
        self.cache: dict[int, Any] = {}
        self.calls = 0

    def __call__(self, x: Any, t: Any, condition: Any) -> Any:
        return self.forward(x, t, condition)

    def forward(self, x: Any, t: Any, condition: Any) -> Any:
        self.calls += 1
        if id(condition) not in self.cache:
            self.cache[id(condition)] = condition * 2
        return x * self.weight + t + self.cache[id(condition)]


class WaitingModel(Model):
    """Waits for the device in each call."""

    def forward(self, x: Any, t: Any, condition: Any) -> Any:
        return super().forward(x, t, condition) * (1 + x.sum().item())


@pytest.fixture
def model(torch: Any) -> Model:
    return Model(torch)


def steps(torch: Any, evaluate: Any, conditions: list[Any], count: int = 5) -> list[Any]:
    """What a sampler with guidance does: one evaluation of each condition in a step."""
    x, results = torch.tensor([1.0, 2.0]), []
    for step in range(count):
        found = [evaluate(x, torch.tensor([float(step)]), c) for c in conditions]
        results += found
        x = sum(found) / 8
    return results


def equal(torch: Any, a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_each_condition_is_evaluated_once_then_captured_then_replayed(
    torch: Any, model: Model
) -> None:
    conditions = [torch.tensor([0.5, 0.25]), torch.zeros(2)]
    expected = steps(torch, model, conditions)
    model.calls, model.cache = 0, {}
    backend = RecordedGraphs()
    graphs = StageGraphs(torch, backend)
    with graphs.stage(model) as evaluate:
        assert equal(torch, steps(torch, evaluate, conditions), expected)
        assert (backend.captured, backend.live, backend.pools) == (2, 2, 1)
    # The usual evaluation and the capture of each, and the rehearsal of the first of its class.
    assert model.calls == 2 + 2 + 1
    assert backend.replays == 2 * (5 - 1)
    assert backend.live == 0
    model.calls = 0
    with graphs.stage(model) as evaluate:
        steps(torch, evaluate, conditions)
    assert model.calls == 2 + 2
    assert graphs.failed == {}


def test_results_of_earlier_evaluations_keep_their_values(torch: Any, model: Model) -> None:
    condition, x = torch.zeros(2), torch.ones(2)
    with StageGraphs(torch, RecordedGraphs()).stage(model) as evaluate:
        results = [evaluate(x, torch.tensor([float(i)]), condition) for i in range(4)]
    assert [r.tolist() for r in results] == [[2.0 + i, 3.0 + i] for i in range(4)]


def test_a_condition_or_shape_that_is_new_is_evaluated_as_usual(torch: Any, model: Model) -> None:
    backend, t = RecordedGraphs(), torch.zeros(1)
    with StageGraphs(torch, backend).stage(model) as evaluate:
        for value in range(MAX_GRAPHS + 3):
            for x in (torch.ones(2), torch.ones(1, 2)):
                condition = torch.full((2,), float(value))
                for _ in range(2):
                    assert torch.equal(evaluate(x, t, condition), model(x, t, condition))
        assert backend.captured == MAX_GRAPHS


def test_the_embedding_of_the_time_is_not_captured(torch: Any) -> None:
    class Embedder:
        def __call__(self, t: Any) -> Any:
            return self.forward(t)

        def forward(self, t: Any) -> Any:
            return t.cos() * float(t.item())

    class EmbeddingModel(Model):
        t_embedder = Embedder()

        def forward(self, x: Any, t: Any, condition: Any) -> Any:
            return super().forward(x, self.t_embedder(t), condition)

    embedding = EmbeddingModel(torch)
    conditions = [torch.zeros(2)]
    backend = RecordedGraphs(refuses_waiting=True)
    with StageGraphs(torch, backend).stage(embedding) as evaluate:
        found = steps(torch, evaluate, conditions)
    assert backend.captured == 1
    assert "aten::cos" not in backend.operations
    assert equal(torch, found, steps(torch, embedding, conditions))


def test_memory_that_a_graph_reads_stays_when_a_cache_drops_it(torch: Any, model: Model) -> None:
    condition, x, t = torch.zeros(2), torch.ones(2), torch.zeros(1)
    graphs = StageGraphs(torch, RecordedGraphs())
    with graphs.stage(model) as evaluations:
        evaluate: Any = evaluations
        evaluate(x, t, condition)
        evaluate(x, t, condition)
        (held,) = [
            memory
            for memory in evaluate._captured.popitem()[1].externals
            if memory.data_ptr() == model.cache[id(condition)].untyped_storage().data_ptr()
        ]
        assert held.nbytes() == 8


def test_a_model_that_waits_for_the_device_runs_as_usual_with_one_warning(
    torch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    waiting, conditions = WaitingModel(torch), [torch.ones(2), torch.zeros(2)]
    expected = steps(torch, waiting, conditions)
    backend = RecordedGraphs(refuses_waiting=True)
    graphs = StageGraphs(torch, backend)
    for _ in range(2):
        with graphs.stage(waiting) as evaluate:
            assert equal(torch, steps(torch, evaluate, conditions), expected)
    assert backend.attempts == 0  # found before anything was captured
    (warning,) = warnings(caplog)
    assert "WaitingModel runs without CUDA graphs: RuntimeError: called a synch" in warning
    # Other models are not affected.
    with graphs.stage(Model(torch)) as evaluate:
        steps(torch, evaluate, conditions)
    assert backend.captured == 2
    assert backend.live == 0


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failed_capture_gives_the_usual_result_and_one_warning(
    torch: Any, model: Model, failing: int, caplog: pytest.LogCaptureFixture
) -> None:
    conditions = [torch.ones(2), torch.zeros(2)]
    expected = steps(torch, model, conditions)
    # PyTorch's class of the error; its text would mean a permanent failure elsewhere.
    kind = type("AcceleratorError", (RuntimeError,), {})
    backend = RecordedGraphs(errors={failing: kind("CUDA error: operation failed during capture")})
    graphs = StageGraphs(torch, backend)
    with graphs.stage(model) as evaluate:
        assert equal(torch, steps(torch, evaluate, conditions), expected)
        assert backend.live == 0
    with graphs.stage(model) as evaluate:
        assert evaluate is model
    assert len(warnings(caplog)) == 1
    assert list(graphs.failed) == ["Model"]


def test_a_graph_that_computes_something_else_is_not_used(
    torch: Any, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    conditions = [torch.ones(2)]
    expected = steps(torch, model, conditions)
    graphs = StageGraphs(torch, RecordedGraphs(computes=False))
    with graphs.stage(model) as evaluate:
        assert equal(torch, steps(torch, evaluate, conditions), expected)
    (warning,) = warnings(caplog)
    assert "differs from the usual evaluation" in warning


def test_out_of_memory_in_a_capture_ends_the_graphs_of_that_stage_only(
    torch: Any, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    conditions = [torch.ones(2), torch.zeros(2)]
    expected = steps(torch, model, conditions)
    backend = RecordedGraphs(errors={1: torch.OutOfMemoryError("CUDA out of memory")})
    graphs = StageGraphs(torch, backend)
    with graphs.stage(model) as evaluate:
        assert equal(torch, steps(torch, evaluate, conditions), expected)
        assert (backend.captured, backend.live) == (1, 0)
    with graphs.stage(model) as evaluate:
        assert equal(torch, steps(torch, evaluate, conditions), expected)
        assert backend.captured == 3
    (warning,) = warnings(caplog)
    assert "no memory to capture Model" in warning
    assert graphs.failed == {}


def test_an_error_that_ends_the_device_is_passed_on(torch: Any, model: Model) -> None:
    backend = RecordedGraphs(errors={0: RuntimeError("CUDA error: an illegal memory access")})
    graphs = StageGraphs(torch, backend)
    with (
        pytest.raises(RuntimeError, match="illegal memory access"),
        graphs.stage(model) as evaluate,
    ):
        steps(torch, evaluate, [torch.ones(2)])
    assert graphs.failed == {}


def test_graphs_are_freed_after_an_error(torch: Any, model: Model) -> None:
    backend, seen = RecordedGraphs(), []

    def cancelled(evaluate: Any) -> None:
        steps(torch, evaluate, [torch.ones(2)])
        seen.append(backend.live)
        raise CancelledError

    with (
        pytest.raises(CancelledError),
        StageGraphs(torch, backend).stage(model) as evaluate,
    ):
        cancelled(evaluate)
    assert (seen, backend.live) == ([1], 0)


def test_nothing_of_a_stage_is_kept(torch: Any, model: Model) -> None:
    condition = torch.ones(2)
    with StageGraphs(torch, RecordedGraphs()).stage(model) as evaluate:
        steps(torch, evaluate, [condition])
        stage = weakref.ref(evaluate)
    del evaluate
    model.cache.clear()
    gc.collect()
    assert stage() is None


# ---- the engine ------------------------------------------------------------------------


@pytest.fixture
def graphed(loaded: Trellis2Engine, torch: Any) -> Iterator[tuple[StageGraphs, RecordedGraphs]]:
    """The loaded engine with graphs; without them afterwards."""
    backend = RecordedGraphs()
    graphs, pipeline = StageGraphs(torch, backend), pipeline_of(loaded)
    yield graphs, backend
    for name in SAMPLERS:
        getattr(pipeline, name).graphs = None


def use(engine: Trellis2Engine, graphs: StageGraphs | None) -> None:
    for name in SAMPLERS:
        getattr(pipeline_of(engine), name).graphs = graphs


@pytest.mark.parametrize("pipeline_type", TYPES)
def test_graphs_give_the_same_bits(
    loaded: Trellis2Engine, graphed: tuple[StageGraphs, RecordedGraphs], pipeline_type: str
) -> None:
    graphs, backend = graphed
    requested = options(pipeline_type, **STEPS, tex_guidance_scale=2)
    expected = make(loaded, picture(), requested)
    use(loaded, graphs)
    assert same(expected, make(loaded, picture(), requested))
    stages = 4 if "cascade" in pipeline_type else 3
    assert backend.pools == stages
    assert backend.captured == 2 * stages  # with and without the condition
    assert backend.replays >= 3 * stages
    assert (backend.live, graphs.failed) == (0, {})


@needs_checkout
@pytest.mark.parametrize("patches", ["exact", False])
def test_evaluations_can_be_captured_where_they_do_not_wait_for_the_device(
    checkpoint: Path, torch: Any, patches: Any
) -> None:
    engine = load(checkpoint, patches=patches)
    requested = options("512", **STEPS, tex_guidance_scale=2)
    expected = make(engine, picture(), requested)
    backend = RecordedGraphs(refuses_waiting=True)
    graphs = StageGraphs(torch, backend)
    use(engine, graphs)
    assert same(expected, make(engine, picture(), requested))
    if engine.describe().get("patches"):
        assert (backend.captured, graphs.failed) == (6, {})
    else:  # attention copies the bounds of its sequences
        assert backend.captured == 2
        assert list(graphs.failed) == ["SLatFlowModel"]
    engine.unload()


def test_guidance_that_starts_later_has_its_graph_later(
    loaded: Trellis2Engine, graphed: tuple[StageGraphs, RecordedGraphs]
) -> None:
    graphs, backend = graphed
    more = {f"{stage}_guidance_interval": [0.0, 0.9] for stage in ("ss", "shape", "tex")}
    requested = options("512", **STEPS, **more, tex_guidance_scale=2)
    expected = make(loaded, picture(), requested)
    use(loaded, graphs)
    assert same(expected, make(loaded, picture(), requested))
    assert backend.captured == 6
    assert graphs.failed == {}


def test_an_uploaded_mesh_is_textured_with_the_same_bits(
    loaded: Trellis2Engine, graphed: tuple[StageGraphs, RecordedGraphs]
) -> None:
    graphs, backend = graphed
    requested = options("512", **STEPS)
    expected = loaded.texture_mesh(cone(), picture(), requested, silent)
    use(loaded, graphs)
    found = loaded.texture_mesh(cone(), picture(), requested, silent)
    assert (found.attributes == expected.attributes).all()
    assert (backend.captured, backend.live) == (1, 0)


def test_a_job_can_be_cancelled_between_replays(
    loaded: Trellis2Engine, graphed: tuple[StageGraphs, RecordedGraphs]
) -> None:
    graphs, backend = graphed
    requested = options("512", **STEPS)
    expected = make(loaded, picture(), requested)
    use(loaded, graphs)
    for stage in ("structure", "shape", "texture"):

        def cancel(name: str, step: int, _: int, stage: str = stage) -> None:
            if (name, step) == (stage, 3):
                assert backend.live > 0
                raise CancelledError

        with pytest.raises(CancelledError):
            make(loaded, picture(), requested, cancel)
        assert backend.live == 0
    assert same(expected, make(loaded, picture(), requested))


def test_out_of_memory_of_a_stage_is_retried_as_without_graphs(
    loaded: Trellis2Engine, torch: Any, graphed: tuple[StageGraphs, RecordedGraphs]
) -> None:
    graphs, backend = graphed
    use(loaded, graphs)
    handle = out_of_memory(torch, pipeline_of(loaded), "shape_slat_flow_model_512", 1)
    with pytest.raises(OutOfMemoryError):
        make(loaded, picture(), options("512", **STEPS))
    handle.remove()
    assert backend.live == 0
    make(loaded, picture(), options("512", **STEPS))
    assert graphs.failed == {}
