from __future__ import annotations

import numpy as np
import pytest
from PIL import features

from tests.support.pictures import encode, photograph, vase
from trellis2_server.errors import InputError
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.images.formats import FORMATS, available_formats, format_names


def test_a_picture_has_the_same_hash_in_every_lossless_format() -> None:
    image = vase()
    dressed = {
        "png": encode(image),
        "png, another compression": encode(image, compress_level=1),
        "webp": encode(image, "WEBP", lossless=True),
        "webp, exact": encode(image, "WEBP", lossless=True, exact=True),
        "tiff": encode(image, "TIFF"),
    }
    cutouts = {name: Cutter().cut_out(data) for name, data in dressed.items()}
    assert len({cutout.image_hash for cutout in cutouts.values()}) == 1
    assert len({cutout.key for cutout in cutouts.values()}) == 1


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PNG"])
def test_every_format_is_opened(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    cutout = Cutter(background="none").cut_out(encode(photograph(), kind))
    seen = cutout.rgb[40:280].astype(int)
    assert np.abs(seen - np.asarray(photograph())).mean() < (12 if kind == "GIF" else 4)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PDF", "EPS", "PCX"])
def test_other_formats_are_not_opened(kind: str) -> None:
    with pytest.raises(InputError, match="not a PNG"):
        Cutter(background="none").cut_out(encode(photograph(), kind))


def test_messages_name_every_accepted_format() -> None:
    assert format_names() == "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
    assert set(FORMATS) - set(available_formats()) <= {"AVIF"}
