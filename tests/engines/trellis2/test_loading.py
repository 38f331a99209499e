from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.trellis2_engine import edit_pipeline, edit_weights, load, load_error

if TYPE_CHECKING:
    from pathlib import Path


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
