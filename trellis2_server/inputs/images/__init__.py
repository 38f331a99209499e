"""Pictures: decode a file, cut out its object, frame and hash it.

    formats          accepted file formats; a new format goes here
    decoding         file → upright sRGB pixels of bounded size
    loading          file → Pillow's picture; what browsers show and Pillow refuses
    png_chunks       a PNG without what its pixels do not need
    pixel_modes      any Pillow mode → 8-bit modes, and transparency
    tiff_samples     samples of TIFF files that Pillow does not read
    deep_colors      such samples → 8-bit sRGB
    color_profiles   ICC profile → sRGB
    transparency     what a picture's own alpha means: cut-out, translucent object, nothing
    cutter           picture file → `Cutout`, in one call
    framing          square crop around the object
    cutout           the result and its hashes
    picture_set      several picture files of one object
    views            several cut-outs: one size, a common scale

Background removal is in `trellis2_server.inputs.background`.
"""

from trellis2_server.inputs.images.cutout import Background, Cutout, View
from trellis2_server.inputs.images.cutter import Cutter
from trellis2_server.inputs.images.picture_set import (
    Pictures,
    PictureSet,
    count_of,
    digest_of,
)

__all__ = [
    "Background",
    "Cutout",
    "Cutter",
    "PictureSet",
    "Pictures",
    "View",
    "count_of",
    "digest_of",
]
