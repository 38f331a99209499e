from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import allow_input_error, encode, photograph, vase
from trellis2_server.inputs.images import Cutter

needs_opencv = pytest.mark.skipif(
    not importlib.util.find_spec("cv2"), reason="OpenCV is not installed"
)


@needs_opencv
def test_grabcut_finds_the_object_before_a_wall_with_the_same_result_each_time() -> None:
    cutter = Cutter(background="grabcut")
    cutout = cutter.cut_out(encode(photograph()))
    assert cutout.background == "grabcut"
    assert cutout.warnings == ()
    want = Cutter().cut_out(encode(vase(320, 240)))
    side = min(cutout.rgba.shape[0], want.rgba.shape[0])
    assert abs(cutout.rgba.shape[0] - want.rgba.shape[0]) <= 6
    found, true = (c.rgba[:side, :side, 3] > 127 for c in (cutout, want))
    assert (found & true).sum() / (found | true).sum() > 0.95
    with ThreadPoolExecutor(3) as threads:
        again = list(threads.map(cutter.cut_out, [encode(photograph())] * 6))
    assert {c.key for c in again} == {cutout.key}


@needs_opencv
@pytest.mark.parametrize("size", [(16, 16), (17, 300), (300, 17), (40, 40)])
def test_grabcut_on_a_flat_or_noisy_picture_raises_at_most_an_input_error(
    size: tuple[int, int],
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    cutter = Cutter(background="grabcut")
    for image in (Image.new("RGB", size, (9, 99, 200)), Image.fromarray(noise)):
        with allow_input_error("image: no object was found"):
            assert cutter.cut_out(encode(image)).background == "grabcut"
