from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fake_device import fake_residency
from tests.support.trellis2_engine import (
    edit_pipeline,
    edit_weights,
    load,
    load_error,
    pipeline_of,
    settings,
    silent,
)
from trellis2_server.engines.trellis2 import checkpoint as checkpoint_module
from trellis2_server.engines.trellis2 import loading
from trellis2_server.engines.trellis2.pipeline_types import MODEL_NAMES
from trellis2_server.engines.trellis2.upstream import import_upstream

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine


def test_an_image_encoder_that_lacks_a_tensor_is_an_error(copy: Path) -> None:
    edit_pipeline(
        copy, lambda args: args["image_cond_model"]["args"].update(model_name="image_encoder")
    )
    file = copy / "image_encoder" / "model.safetensors"
    lost: list[str] = []

    def change(tensors: dict[str, Any]) -> None:
        lost.append(next(key for key in tensors if "cls_token" in key))
        tensors.pop(lost[0])

    edit_weights(file, change)
    assert "the image encoder lacks embeddings.cls_token" in load_error(copy)


def total_of(copy: Path) -> tuple[Any, int]:
    """TRELLIS.2, and the checked checkpoint's bytes on the device."""
    upstream = import_upstream(settings(copy))
    found = checkpoint_module.find(settings(copy), MODEL_NAMES, silent)
    return upstream, loading.check(upstream, found)


def test_the_size_of_the_weights_is_known_before_they_are_loaded(
    copy: Path, loaded: Trellis2Engine
) -> None:
    pipeline = pipeline_of(loaded)
    modules = [*pipeline.models.values(), pipeline.image_cond_model.model]
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    size = sum(t.numel() * t.element_size() for t in tensors)
    # The image encoder computes a small buffer, and does without its last norm.
    assert total_of(copy)[1] == pytest.approx(size, rel=0.001)


@pytest.mark.parametrize("low_vram", [None, True, False])
def test_the_device_decides_about_low_vram_unless_it_is_configured(
    copy: Path, *, low_vram: bool | None
) -> None:
    _, weights = total_of(copy)
    edit_pipeline(copy, lambda args: args.update(low_vram=True))  # what it says does not count
    for total, expected in ((weights, True), (weights + 2**40, False), (None, True)):
        memory: Any = SimpleNamespace(
            total=lambda total=total: total, release=lambda: None, free=lambda: None
        )
        target = loading.Target(memory, None, 1024)
        chosen = settings(copy, low_vram=low_vram)
        assert target.needs_low_vram(chosen, weights) is False  # the CPU
        other = chosen.model_copy(update={"device": "cuda"})
        assert target.needs_low_vram(other, weights) is expected
    upstream = import_upstream(chosen)
    model = loading.load_model(upstream, chosen, target, silent)
    assert model.pipeline.low_vram is bool(low_vram)


def test_weights_for_copies_are_copied_from_the_file_once(
    copy: Path, torch: Any, loaded: Trellis2Engine
) -> None:
    residency, copies, memory = fake_residency(torch)
    memory.total = memory.release = lambda: None
    target = loading.Target(memory, residency, 1024)
    chosen = settings(copy, low_vram=True)
    model = loading.load_model(import_upstream(chosen), chosen, target, silent)
    for name, module in model.pipeline.models.items():
        for key, tensor in pipeline_of(loaded).models[name].state_dict().items():
            assert torch.equal(tensor, module.state_dict()[key])
    models = model.pipeline.models.values()
    tensors = [t for m in models for t in (*m.parameters(), *m.buffers())]
    assert copies.to_host == sum(t.numel() * t.element_size() for t in tensors)
    assert residency.device_bytes == 0


def test_unknown_tensors_are_only_a_warning(copy: Path, torch: Any) -> None:
    file = copy / "ckpts" / "tex_slat_flow_model_512.safetensors"
    edit_weights(file, lambda t: t.update({"ema.step": torch.zeros(3)}))
    load(copy)


def test_an_unknown_class_sampler_or_encoder_is_named(copy: Path) -> None:
    edit_pipeline(copy, lambda args: args["image_cond_model"].update(name="ClipExtractor"))
    assert "'ClipExtractor'" in load_error(copy)
    edit_pipeline(copy, lambda args: args["image_cond_model"].update(name="DinoV3FeatureExtractor"))
    edit_pipeline(copy, lambda args: args["tex_slat_sampler"].update(name="Heun"))
    assert "'Heun'" in load_error(copy)
    config = copy / "ckpts" / "tex_slat_decoder.json"
    config.write_text(json.dumps({"name": "Unheard", "args": {}}))
    assert "Unheard" in load_error(copy)
