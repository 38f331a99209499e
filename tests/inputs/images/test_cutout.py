from __future__ import annotations

import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import encode, vase
from trellis2_server.inputs.images import Cutout, Cutter


def test_the_rgb_is_the_object_on_black() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    alpha = cutout.rgba[..., 3:].astype(float) / 255
    assert np.abs(cutout.rgb - cutout.rgba[..., :3] * alpha).max() <= 0.51
    assert cutout.rgb.dtype == np.uint8


def test_the_png_of_a_cut_out_is_the_cut_out() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(cutout.png()))), cutout.rgba)


def test_a_cut_out_is_read_only() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    with pytest.raises(ValueError, match="read-only"):
        cutout.rgba[0, 0] = 1


def test_the_hash_covers_what_the_model_sees_and_the_key_covers_alpha_too() -> None:
    black = np.zeros((20, 20, 4), np.uint8)
    black[..., 3] = 255
    faint = black.copy()
    faint[3, 3, 3] = 100
    solid, other = Cutout(black, "alpha", ()), Cutout(faint, "alpha", ())
    assert re.fullmatch("[0-9a-f]{32}", solid.image_hash)
    assert len(solid.key) == len(hashlib.md5(usedforsecurity=False).hexdigest())
    assert solid.image_hash == other.image_hash
    assert solid.key != other.key
