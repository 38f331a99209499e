from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.support.trellis2_engine import picture

if TYPE_CHECKING:
    from pathlib import Path


def test_the_encoder_gives_the_last_layer_before_the_norm(checkpoint: Path, torch: Any) -> None:
    encoder_module = importlib.import_module("trellis2_server.engines.trellis2.encoder")
    transformers = importlib.import_module("transformers")
    encoder = encoder_module.ImageEncoder(str(checkpoint / "image_encoder"))
    encoder.image_size = 64
    image = Image.fromarray(picture().rgb)
    model = transformers.DINOv3ViTModel.from_pretrained(checkpoint / "image_encoder").eval()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    pixels = (pixels - mean) / std
    with torch.no_grad():
        hidden = model.embeddings(pixels)
        rope = model.rope_embeddings(pixels)
        for layer in getattr(model, "layer", None) or model.model.layer:
            hidden = layer(hidden, position_embeddings=rope)
        expected = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:])
        assert torch.equal(encoder([image]), expected)
    assert encoder([image]).shape == (1, 1 + 4 + 16, 32)
