"""A background remover with the methods of TRELLIS.2's."""

from __future__ import annotations

import numpy as np
from PIL import Image


class BiRefNet:
    """Takes for the background what has the colour of the first pixel."""

    def __init__(self, model_name: str = "") -> None:
        self.model_name = model_name

    def to(self, device: object) -> None:
        """There is nothing to move."""

    def cuda(self) -> None:
        """There is nothing to move."""

    def cpu(self) -> None:
        """There is nothing to move."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """The picture with alpha."""
        pixels = np.asarray(image).astype(int)
        alpha = np.where(np.abs(pixels - pixels[0, 0]).max(axis=2) > 8, 255, 0)
        image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
        return image
