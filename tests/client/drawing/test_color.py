"""sRGB and linear light."""

from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.client.drawing.color import decode_srgb, encode_srgb


def test_every_8_bit_value_survives_decoding_and_encoding() -> None:
    values = np.arange(256) / 255
    assert encode_srgb(decode_srgb(values)) == pytest.approx(values, abs=1e-6)


def test_middle_grey_is_darker_in_linear_light() -> None:
    assert decode_srgb(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 0.21404, 1], abs=1e-5)
