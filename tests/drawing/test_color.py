"""sRGB and linear light."""

from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.drawing.color import decode_srgb, encode_srgb


def test_every_8_bit_value_survives_decoding_and_encoding() -> None:
    values = np.arange(256) / 255
    assert encode_srgb(decode_srgb(values)) == pytest.approx(values, abs=1e-6)


def test_middle_grey_is_darker_in_linear_light() -> None:
    assert decode_srgb(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 0.21404, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("linear", "encoded"),
    [  # computed by the formulas of IEC 61966-2-1, with 30 digits
        (0.0, 0.0),
        (0.001, 0.01292),
        (0.0031308, 0.040449936),
        (0.0031309, 0.0404499987),
        (0.01, 0.0998528242),
        (0.18, 0.4613561295),
        (0.5, 0.7353569831),
        (1.0, 1.0),
    ],
)
def test_linear_light_and_srgb_are_those_of_the_standard(linear: float, encoded: float) -> None:
    assert encode_srgb(np.array([linear])) == pytest.approx([encoded], abs=3e-6)
    assert decode_srgb(np.array([encoded])) == pytest.approx([linear], abs=3e-6)


def test_no_value_is_below_zero() -> None:
    assert encode_srgb(np.array([0.0, 1e-12])) == pytest.approx([0, 1.292e-11], rel=1e-6)


def test_brighter_light_has_a_larger_value() -> None:
    linear = np.linspace(0, 1, 5001)
    encoded = encode_srgb(linear)
    assert (np.diff(encoded) > 0).all()
    assert (np.diff(decode_srgb(encoded)) > 0).all()
