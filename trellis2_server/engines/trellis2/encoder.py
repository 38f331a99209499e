"""The image encoder: DINOv3's patch features, on any device.

TRELLIS.2 takes the last layer's output *before* the model's own norm and normalises it
without weights. The layers' attribute moved between transformers 4 and 5, the norm's did not:
here the norm is replaced by the identity, so that the model returns the norm's input.

Does not know: pictures before the cut-out, pipelines.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor = Any

#: Mean and standard deviation of ImageNet, with which DINOv3 was trained.
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


class ImageEncoder:
    """DINOv3 with the methods of TRELLIS.2's own encoder.

    Args:
        model_name: folder with a DINOv3 in transformers' format, or its name on the Hub.
        image_size: edge of the square that pictures are resized to, pixels, a multiple of
            16; TRELLIS.2 sets it before each call.

    Raises:
        EngineError: tensors are missing.
    """

    def __init__(self, model_name: str, image_size: int = 512) -> None:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self.model_name = model_name
        self.image_size = image_size
        self.model, info = transformers.DINOv3ViTModel.from_pretrained(
            model_name, dtype=torch.float32, output_loading_info=True
        )
        if info["missing_keys"]:  # transformers leaves them random, and only logs it
            raise EngineError(f"the image encoder lacks {min(info['missing_keys'])}")
        self.model.eval().requires_grad_(requires_grad=False)
        self.model.norm = torch.nn.Identity()

    def to(self, device: object) -> None:
        """Move the weights."""
        self.model.to(device)

    def cuda(self) -> None:
        """Move the weights to the default GPU."""
        self.model.cuda()

    def cpu(self) -> None:
        """Move the weights to the CPU."""
        self.model.cpu()

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return features, float32 [B, 1 + registers + patches, C], of pictures in mode RGB."""
        torch: Any = importlib.import_module("torch")
        edge = (self.image_size, self.image_size)
        pixels = np.stack(
            [
                np.asarray(picture.convert("RGB").resize(edge, Image.Resampling.LANCZOS))
                for picture in images
            ]
        )
        device = next(self.model.parameters()).device
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).to(device)
        mean, std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD)
        )
        with torch.no_grad():
            features = self.model((batch - mean) / std).last_hidden_state
            return torch.nn.functional.layer_norm(features, features.shape[-1:])


class NoBackgroundRemover:
    """Replaces TRELLIS.2's background remover: pictures are cut out before."""

    def __init__(self, *_: object, **__: object) -> None:
        """Accept and ignore the checkpoint's arguments for the remover."""

    def to(self, device: object) -> None:
        """Do nothing."""

    def cuda(self) -> None:
        """Do nothing."""

    def cpu(self) -> None:
        """Do nothing."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Raise an error.

        Raises:
            EngineError: always.
        """
        del image
        raise EngineError(
            "TRELLIS.2's background remover is not loaded: remove the background first"
        )
