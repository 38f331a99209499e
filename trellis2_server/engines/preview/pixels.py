"""The picture on a small grid, in a perceptual colour space.

Does not know: heights, meshes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from trellis2_server.engines.preview import kernels
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Most pixels along an edge of the grid: what shows on a mesh of 50,000 faces.
GRID_PX: Final = 448
#: Added to the lightness that colours are divided by: the hue of what is dark is noise.
_DARK: Final = 0.08
#: Deviation of the Gaussian that continues colours outside, in pixels.
_CONTINUED_PX: Final = 3.0
#: Weight of the mean colour there.
_REMOTE: Final = 0.01
#: Linear sRGB to the cones' responses, and their cube roots to Oklab.
_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_OKLAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The picture on the grid; row 1 is its top: around it is a frame of empty pixels.

    Attributes:
        alpha: of the object, float32 [G, G], 0 to 1. It is inside from 0.5.
        lightness: Oklab's, float32 [G, G], 0 to 1; smoothly continued outside.
        hue: Oklab's a and b as shares of the lightness, float32 [2, G, G]: shading does not
            change them.
        scale: pixels of the picture in a pixel of the grid.
    """

    alpha: NDArray[np.float32]
    lightness: NDArray[np.float32]
    hue: NDArray[np.float32]
    scale: float

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether a pixel is of the object, [G, G]."""
        return self.alpha >= 0.5  # noqa: PLR2004 (as `silhouette.ISO`)


def read_pixels(picture: NDArray[np.uint8], mask: NDArray[np.float32]) -> Pixels:
    """Reduce a picture to the grid.

    Args:
        picture: RGBA uint8 [S, S, 4], straight alpha.
        mask: the object's alpha without specks, float32 [S, S].

    B. Ottosson, "A perceptual color space for image processing", 2020.
    """
    size = len(picture)
    grid = min(size, GRID_PX)
    shape = (grid, grid)
    alpha = _framed(np.asarray(Image.fromarray(mask).resize(shape, Image.Resampling.BOX)))
    small = Image.fromarray(picture).convert("RGBa").resize(shape, Image.Resampling.BOX)
    color = _framed((np.asarray(small) / np.float32(255)).astype(np.float32))
    weight = color[..., 3]
    # Premultiplied: where little is opaque, the colours around it count.
    srgb = np.clip(_spread(color[..., :3], weight), 0, 1)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004
    cones = np.cbrt(np.tensordot(_CONES, linear.astype(np.float32), 1))
    lab = np.tensordot(_OKLAB, cones, 1)
    return Pixels(
        alpha=alpha,
        lightness=np.ascontiguousarray(lab[0]),
        hue=lab[1:] / (lab[0] + np.float32(_DARK)),
        scale=size / grid,
    )


def _framed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values with a frame of zeros, one pixel wide."""
    return np.pad(values, [(1, 1), (1, 1), *[(0, 0)] * (values.ndim - 2)])


def blurred(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Return values smoothed by a Gaussian of `sigma` pixels; outside, everything is 0."""
    out = np.empty(values.shape, np.float32)
    call(kernels.load("smoothing").blur, np.ascontiguousarray(values), float(sigma), out)
    return out


def smoothed(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Return values smoothed by a Gaussian of `sigma` pixels; outside, there is nothing."""
    return blurred(values, sigma) / blurred(np.ones_like(values), sigma)


def halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means of 2 by 2; an odd last row or column is left out."""
    n = len(values) // 2 * 2
    rows = values[:n:2, :n] + values[1:n:2, :n]
    return np.float32(0.25) * (rows[:, ::2] + rows[:, 1::2])


def gradient(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the change per pixel along rows and columns, float32 [2, G, G]."""
    down, right = np.gradient(values)
    return np.stack([down, right])


def _spread(color: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Continue premultiplied colours [G, G, 3] a little way where the picture is clear."""
    known = weight >= 0.5  # noqa: PLR2004
    near = known.astype(np.float32)
    total = blurred(near, _CONTINUED_PX)
    out = np.empty((3, *weight.shape), np.float32)
    for channel, values in enumerate(np.moveaxis(color, 2, 0)):
        own = np.where(known, values / np.maximum(weight, np.float32(0.5)), 0)
        mean = float(own.sum()) / max(int(known.sum()), 1)
        around = blurred(own, _CONTINUED_PX) + np.float32(_REMOTE * mean)
        out[channel] = np.where(known, own, around / (total + np.float32(_REMOTE)))
    return out
