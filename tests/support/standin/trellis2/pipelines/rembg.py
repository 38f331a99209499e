"""A background remover with the methods of TRELLIS.2's remover."""

from __future__ import annotations

import numpy as np
from PIL import Image


class BiRefNet:
    """Removes pixels with the colour of the first pixel."""

    def __init__(self, model_name: str = "") -> None:
        self.model_name = model_name

    def to(self, device: object) -> None:
        """Do nothing."""

    def cuda(self) -> None:
        """Do nothing."""

    def cpu(self) -> None:
        """Do nothing."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the picture with alpha."""
        pixels = np.asarray(image).astype(int)
        alpha = np.where(np.abs(pixels - pixels[0, 0]).max(axis=2) > 8, 255, 0)
        image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
        return image
