"""Pictures, decoded in a decoder process.

Does not know: how a picture is decoded, what happens with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from trellis2_server.decoders.process import invalid_result
from trellis2_server.inputs.images.decoding import DecodedImage
from trellis2_server.inputs.images.loading import MAX_SIZE_PX

if TYPE_CHECKING:
    from trellis2_server.decoders.pool import DecoderPool
    from trellis2_server.reports import Check

_CHANNELS: Final = 4
#: The largest picture, bytes.
_RESULT_BYTES: Final = MAX_SIZE_PX * MAX_SIZE_PX * _CHANNELS


def decode_image(
    decoders: DecoderPool, data: bytes, *, max_pixels: int, check: Check
) -> DecodedImage:
    """Decode a picture file; see `decoding.decode_image`.

    Args:
        decoders: the processes.
        data: the file.
        max_pixels: limit for width times height, before scaling.
        check: called at least every 50 ms; what it raises ends the call.

    Raises:
        InputError: the file is refused, or takes too long.
        TooLargeError: the picture exceeds `max_pixels` or the memory of a decoder.
    """
    meta, arrays = decoders.call(
        "decode_image",
        data,
        {"max_pixels": max_pixels},
        field="image",
        result_bytes=_RESULT_BYTES,
        check=check,
    )
    match meta, arrays:
        case (
            {"has_alpha": bool(has_alpha), "warnings": [*warnings], "pixels": int(pixels)},
            {"rgba": rgba},
        ) if (
            rgba.dtype == np.uint8
            and rgba.ndim == 3  # noqa: PLR2004 - height, width, channels
            and 0 < min(rgba.shape[:2]) <= max(rgba.shape[:2]) <= MAX_SIZE_PX
            and rgba.shape[2] == _CHANNELS
        ):
            image = Image.fromarray(rgba)
            return DecodedImage(image, has_alpha, tuple(map(str, warnings)), pixels)
        case _:
            raise invalid_result("image")
