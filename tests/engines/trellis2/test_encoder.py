from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.support.trellis2_engine import picture

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


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


def test_a_prepared_picture_is_resized_once_and_in_another_thread(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("trellis2_server.engines.trellis2.encoder")
    encoder = module.ImageEncoder(str(checkpoint / "image_encoder"))
    image, other = (Image.fromarray(picture(hue).rgb) for hue in (0, 50))
    expected: list[Any] = []
    for size in (32, 64):
        encoder.image_size = size
        expected.append(encoder([image]))
    threads: list[tuple[int, int]] = []
    resize = module._resize

    def note(given: Image.Image, size: int) -> Any:
        threads.append((size, threading.get_ident()))
        return resize(given, size)

    monkeypatch.setattr(module, "_resize", note)
    encoder.prepare([image], (32, 64))
    for size, features in zip((32, 64), expected, strict=True):
        encoder.image_size = size
        assert encoder([image]).equal(features)
    assert sorted(size for size, _ in threads) == [32, 64]
    assert threading.get_ident() not in {thread for _, thread in threads}
    encoder.prepare([image], (64,))
    assert not encoder([other]).equal(expected[1])  # another picture than the prepared one


def test_bytes_travel_to_the_device_and_become_the_floats_of_a_division(
    checkpoint: Path, torch: Any
) -> None:
    module = importlib.import_module("trellis2_server.engines.trellis2.encoder")
    encoder = module.ImageEncoder(str(checkpoint / "image_encoder"), 16)
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([pixels, pixels[::-1], pixels.T], axis=2))
    seen: list[Any] = []
    encoder.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder([image])
    batch = torch.from_numpy(np.array(image)[None]).permute(0, 3, 1, 2).float().div(255)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    expected = (batch - mean) / std
    assert torch.equal(seen[0], expected)
    assert seen[0].stride() == expected.stride()  # which the kernels of a GPU depend on
