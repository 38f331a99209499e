from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import load, make, options, picture, same
from trellis2_server.engines.trellis2.compilation import Compilation
from trellis2_server.engines.trellis2.compilation.graphs import StageGraphs
from trellis2_server.settings import ModelSettings

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [r for r in caplog.records if "compilation" in r.name]
    return [r.getMessage() for r in records if r.levelno >= logging.WARNING]


def pipeline() -> Any:
    return SimpleNamespace(models={}, sampler=SimpleNamespace(graphs="before"))


@pytest.mark.parametrize(
    ("device", "asked"), [("cuda", "none"), ("cpu", "none"), ("cpu", "auto"), ("mps", "auto")]
)
def test_nothing_is_compiled_where_it_is_not_asked_for(
    torch: Any, device: str, asked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made, target = Compilation(torch, ModelSettings(device=device, compile=asked)), pipeline()
    made.install(target, ("sampler",))
    assert target.sampler.graphs is None
    assert made.describe() == {"compile": "none"}
    assert not warnings(caplog)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_blocks_and_graphs_are_used_on_cuda_without_being_asked_for(
    torch: Any, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, target = Compilation(torch, ModelSettings(device=device)), pipeline()
    made.install(target, ("sampler",))
    assert isinstance(target.sampler.graphs, StageGraphs)
    # A pipeline without blocks says that it was tried.
    assert made.describe() == {"compile": "graphs", "compile_failed": "the models have no blocks"}
    assert len(warnings(caplog)) == 1
    target.sampler.graphs.note_failed(object(), "it waits")
    assert made.describe()["compile_failed"] == "the models have no blocks; object: it waits"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_device_without_graphs_is_one_warning(
    torch: Any, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Compilation(torch, ModelSettings(device=device, compile="graphs"))
    target = pipeline()
    made.install(target, ("sampler",))
    assert target.sampler.graphs is None
    assert warnings(caplog) == [f"model.compile: graphs: not used: {device} has no CUDA graphs"]
    assert made.describe() == {
        "compile": "none",
        "compile_failed": f"{device} has no CUDA graphs",
    }


def test_failed_graphs_are_described(torch: Any) -> None:
    made = Compilation(torch, ModelSettings(device="cuda", compile="graphs"))
    target = pipeline()
    made.install(target, ("sampler",))
    assert isinstance(target.sampler.graphs, StageGraphs)
    assert made.describe() == {"compile": "graphs"}
    target.sampler.graphs.note_failed(object(), "it waits")
    assert made.describe() == {"compile": "graphs", "compile_failed": "object: it waits"}


def test_a_job_on_the_cpu_runs_with_graphs_asked_for(
    checkpoint: Path, loaded: Trellis2Engine
) -> None:
    made = load(checkpoint, compile="graphs")
    assert made.describe()["compile"] == "none"
    assert same(make(loaded, picture(), options()), make(made, picture(), options()))
    made.unload()


def test_models_without_blocks_are_one_warning(
    torch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = Compilation(torch, ModelSettings(device="cpu", compile="blocks"))
    target = pipeline()
    target.models = {"shape_slat_flow_model_512": torch.nn.Linear(2, 2)}
    made.install(target, ("sampler",))
    assert warnings(caplog) == ["model.compile: blocks: not compiled: the models have no blocks"]
    assert made.describe() == {"compile": "none", "compile_failed": "the models have no blocks"}
