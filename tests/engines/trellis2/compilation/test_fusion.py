from __future__ import annotations

import importlib
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

#: PyTorch's own backend where it can compile, the nearest one elsewhere.
HAS_COMPILER = (
    bool(shutil.which("g++")) and Path(sysconfig.get_paths()["include"], "Python.h").exists()
)
BACKEND = "inductor" if HAS_COMPILER else "aot_eager"


@pytest.fixture
def fusion(torch: Any) -> Iterator[Any]:
    yield importlib.import_module("trellis2_server.engines.trellis2.compilation.fusion")
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:::torch")
def test_compiled_functions_are_equal_to_rounding_for_any_number_of_rows(
    torch: Any, fusion: Any
) -> None:
    fusion.compile_in_this_process()
    rotate = fusion.compiled(fusion.norm_and_rotate_heads, BACKEND)
    gate = fusion.compiled(fusion.gate_add_and_norm, BACKEND)
    counters = importlib.import_module("torch._dynamo.utils").counters
    counters.clear()
    gamma = torch.rand(2, 24) + 0.5
    weight, bias, scale = torch.randn(48), torch.randn(48), torch.randn(1, 48)
    with torch.inference_mode():
        for rows in (96, 5, 700):
            angles = torch.randn(rows, 12)
            rotations = torch.stack([angles.cos(), angles.sin()], dim=-1)
            heads = (torch.randn(rows, 3, 2, 24), gamma, gamma, 24**0.5, rotations)
            tokens = (torch.randn(rows, 48), torch.randn(rows, 48), scale, weight, bias, 1e-6)
            expected = fusion.norm_and_rotate_heads(*heads)
            assert fusion.difference(rotate(*heads), expected) < 1e-5
            for one, other in zip(gate(*tokens), fusion.gate_add_and_norm(*tokens), strict=True):
                assert fusion.difference(one, other) < 1e-5
    assert counters["stats"]["unique_graphs"] == 2


def test_a_difference_is_relative_and_finds_what_is_not_a_number(torch: Any, fusion: Any) -> None:
    one, other = torch.tensor([4.0, 2.0]), torch.tensor([4.0, 3.0])
    assert fusion.difference(one, other) == 0.25
    assert fusion.difference(one * float("nan"), other) == float("inf")
    assert fusion.difference(one * 0, other * 0) == 0


@pytest.mark.parametrize(("asked", "threads"), [(None, 1), ("3", 7)])
def test_no_processes_are_started_unless_they_are_asked_for(
    fusion: Any, asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = importlib.import_module("torch._inductor.config")
    if asked is None:
        monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    else:
        monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", asked)
    with config.patch(compile_threads=7):
        fusion.compile_in_this_process()
        assert config.compile_threads == threads
