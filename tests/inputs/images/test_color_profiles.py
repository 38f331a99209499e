from __future__ import annotations

import numpy as np
from PIL import ImageCms

from tests.support.pictures import encode, photograph
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.images.color_profiles import to_srgb


def test_a_colour_profile_is_converted_to_srgb_and_srgb_is_unchanged() -> None:
    image = photograph()
    cutter = Cutter(background="none")
    plain = cutter.cut_out(encode(image))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert cutter.cut_out(encode(image, icc_profile=srgb)).key == plain.key
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for options in ({}, {"icc_profile": profile}):
        back = cutter.cut_out(encode(lab, "TIFF", **options))
        assert np.abs(back.rgb.astype(int) - plain.rgb).mean() < 3


def test_a_damaged_colour_profile_is_ignored_with_a_warning() -> None:
    image = photograph()
    cutout = Cutter(background="none").cut_out(encode(image, icc_profile=b"no profile" * 20))
    assert cutout.warnings == ("image: its colour profile is damaged and was ignored",)
    assert cutout.key == Cutter(background="none").cut_out(encode(image)).key


def test_a_profile_of_another_colour_space_is_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    notes: list[str] = []
    assert to_srgb(photograph(), profile, notes).tobytes() == photograph().tobytes()
    assert not notes
