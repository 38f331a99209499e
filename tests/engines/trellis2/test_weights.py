from __future__ import annotations

import importlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import (
    edit_weights,
    needs_checkout,
    settings,
    write_checkpoint,
)
from trellis2_server.engines.trellis2 import weights
from trellis2_server.engines.trellis2.checkpoint import ModelFiles
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def files_of(folder: Path) -> Iterator[ModelFiles]:
    for config in sorted((folder / "ckpts").glob("*.json")):
        yield ModelFiles(config.stem, config, config.with_suffix(".safetensors"))


def filled_in_place(upstream: Any, files: ModelFiles) -> Any:
    """The model built on the CPU and then overwritten, as TRELLIS.2 itself loads it."""
    load_file: Any = importlib.import_module("safetensors.torch").load_file
    with weights.no_initial_values(upstream.torch):
        made = weights.construct(upstream, files)
    made.load_state_dict(load_file(files.weights), strict=False)
    return made.eval().requires_grad_(requires_grad=False)


def tensors_of(torch: Any, module: Any) -> dict[str, Any]:
    """Parameters, buffers, and tensors that are plain attributes, by name."""
    found = {}
    for prefix, part in module.named_modules():
        for name, value in {**vars(part), **part._parameters, **part._buffers}.items():
            if isinstance(value, torch.Tensor):
                found[f"{prefix}.{name}"] = value
    return found


def assert_equal(torch: Any, one: Any, other: Any) -> None:
    expected, found = tensors_of(torch, one), tensors_of(torch, other)
    assert list(found) == list(expected)
    assert list(other.state_dict()) == list(one.state_dict())
    for name, tensor in expected.items():
        same = found[name]
        assert type(same) is type(tensor), name
        assert same.dtype == tensor.dtype, name
        assert same.stride() == tensor.stride(), name
        assert same.requires_grad == tensor.requires_grad, name
        assert torch.equal(same, tensor), name
    assert other.training is one.training is False


@pytest.mark.parametrize("mapped", [False, True])
def test_a_model_without_memory_gets_the_tensors_of_one_that_is_overwritten(
    checkpoint: Path, torch: Any, caplog: pytest.LogCaptureFixture, *, mapped: bool
) -> None:
    upstream = import_upstream(settings(checkpoint))
    caplog.set_level("INFO")
    for files in files_of(checkpoint):
        made = weights.load(upstream, files, "cpu", mapped=mapped)
        assert_equal(torch, filled_in_place(upstream, files), made)
    assert "slow way" not in caplog.text


@needs_checkout
def test_the_dtypes_are_those_of_the_class_not_of_the_file(tmp_path: Path, torch: Any) -> None:
    half = write_checkpoint(tmp_path / "half", dtype="bfloat16", use_fp16=True)
    full = write_checkpoint(tmp_path / "full")
    upstream = import_upstream(settings(half))
    seen = set()
    for files, of_full in zip(files_of(half), files_of(full), strict=True):
        for stored in (files.weights, of_full.weights):
            mixed = ModelFiles(files.name, files.config, stored)
            made = weights.load(upstream, mixed, "cpu")
            assert_equal(torch, filled_in_place(upstream, mixed), made)
            seen |= {parameter.dtype for parameter in made.parameters()}
    assert seen == {torch.float32, torch.bfloat16, torch.float16}


def test_a_buffer_that_the_file_lacks_is_the_constructors(
    copy: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = import_upstream(settings(copy))
    files = next(f for f in files_of(copy) if f.name == "sparse_structure_flow_model")

    def ones(*shape: int) -> Any:
        return torch.ones(*shape)

    monkeypatch.setattr(torch, "randn", ones)  # the stand-in's positions are random
    for mode in ("ape", "rope"):
        config = json.loads(files.config.read_text())
        config["args"]["pe_mode"] = mode
        files.config.write_text(json.dumps(config))
        edit_weights(files.weights, lambda tensors: tensors.pop("pos_emb", None))
        made = weights.load(upstream, files, "cpu")
        assert made.get_buffer("pos_emb" if hasattr(made, "pos_emb") else "rope_phases").is_cpu
        assert_equal(torch, filled_in_place(upstream, files), made)


def test_loaded_tensors_on_the_cpu_do_not_depend_on_the_file(copy: Path, torch: Any) -> None:
    upstream = import_upstream(settings(copy))
    files = next(f for f in files_of(copy) if f.name == "tex_slat_decoder")
    made = weights.load(upstream, files, "cpu")
    before = {key: tensor.clone() for key, tensor in made.state_dict().items()}
    with files.weights.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    assert all(torch.equal(before[key], tensor) for key, tensor in made.state_dict().items())


def unusual(torch: Any, *, reads_values: bool) -> Any:
    """A class whose constructor cannot be run without memory."""

    class Unusual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            torch.nn.init.constant_(self.layer.weight, 0.5)
            scale = self.layer.weight.sum().item() if reads_values else 2.0
            self.register_buffer("table", torch.empty(3).fill_(scale), persistent=False)

    return Unusual


@pytest.mark.parametrize("reads_values", [False, True])
def test_a_constructor_that_needs_its_memory_gets_it(
    tmp_path: Path, torch: Any, caplog: pytest.LogCaptureFixture, *, reads_values: bool
) -> None:
    save_file = importlib.import_module("safetensors.torch").save_file
    files = ModelFiles("odd", tmp_path / "odd.json", tmp_path / "odd.safetensors")
    files.config.write_text(json.dumps({"name": "Unusual", "args": {}}))
    tensors = {"layer.weight": torch.ones(2, 2), "layer.bias": torch.ones(2)}
    save_file(tensors, files.weights)
    models = SimpleNamespace(Unusual=unusual(torch, reads_values=reads_values))
    upstream: Any = SimpleNamespace(torch=torch, models=models)
    caplog.set_level("INFO")
    made = weights.load(upstream, files, "cpu")
    assert torch.equal(made.table, torch.full((3,), 2.0))
    assert torch.equal(made.layer.weight, tensors["layer.weight"])
    assert "slow way" in caplog.text
    save_file({"layer.bias": torch.ones(2)}, files.weights)
    if not reads_values:
        with pytest.raises(EngineError, match=r"odd lacks layer\.weight"):
            weights.load(upstream, files, "cpu")
