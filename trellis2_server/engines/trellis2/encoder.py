"""The image encoder: DINOv3's patch features, on any device.

TRELLIS.2 takes the last layer's output *before* the model's own norm and normalises it
without weights. The layers' attribute moved between transformers 4 and 5, the norm's did not:
here the norm is replaced by the identity, so that the model returns the norm's input.

Does not know: pictures before the cut-out, pipelines.
"""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

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
        self._floats = _normalised(torch)
        self._pictures: tuple[Image.Image, ...] = ()
        self._prepared: dict[tuple[int, int], Future[NDArray[np.uint8]]] = {}

    def to(self, device: object) -> None:
        """Move the weights."""
        self.model.to(device)

    def cuda(self) -> None:
        """Move the weights to the default GPU."""
        self.model.cuda()

    def cpu(self) -> None:
        """Move the weights to the CPU."""
        self.model.cpu()

    def prepare(self, pictures: Sequence[Image.Image], sizes: Sequence[int]) -> None:
        """Begin to resize pictures, all sizes at once and in other threads.

        The next call for a size waits for it. On a GPU the second size is ready when the first
        is encoded, and with `low_vram` both while the encoder moves to the GPU.

        Args:
            pictures: of the next calls, the same objects.
            sizes: of the next calls, pixels.
        """
        threads = ThreadPoolExecutor(len(sizes), thread_name_prefix="resize")
        self._pictures = tuple(pictures)
        self._prepared = {
            (index, size): threads.submit(_resize, picture, size)
            for size in sizes
            for index, picture in enumerate(self._pictures)
        }
        threads.shutdown(wait=False)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return features, float32 [B, 1 + registers + patches, C], of pictures in mode RGB.

        One picture at a time: several take no more memory, and each has the features, bit for bit,
        that it has alone.
        """
        torch: Any = importlib.import_module("torch")
        features = [self._encode(torch, picture) for picture in images]
        return features[0] if len(features) == 1 else torch.cat(features)

    def _encode(self, torch: Any, picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.stack([self._resized(picture)]))
        device = next(self.model.parameters()).device
        # Bytes travel, a quarter of the floats. A table gives each its float: dividing on a GPU
        # can differ from the CPU in the last bit.
        channel = torch.arange(3, device=device)
        batch = self._floats.to(device)[pixels.to(device).long(), channel].permute(0, 3, 1, 2)
        with torch.no_grad():
            features = self.model(batch).last_hidden_state
            return torch.nn.functional.layer_norm(features, features.shape[-1:])

    def _resized(self, picture: Image.Image) -> NDArray[np.uint8]:
        prepared = None
        for index, known in enumerate(self._pictures):
            if known is picture:
                prepared = self._prepared.pop((index, self.image_size), None)
        if prepared is None:
            return _resize(picture, self.image_size)
        return prepared.result()


def _resize(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize to a square: uint8 [size, size, 3]."""
    resized = picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def _normalised(torch: Any) -> Tensor:
    """Normalised value of each byte in each channel, float32 [256, 3]."""
    values = torch.arange(256).float().div(255)[:, None]
    return (values - torch.tensor(_MEAN)) / torch.tensor(_STD)


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
