from __future__ import annotations

import numpy as np

from trellis2_server.inputs.background.masks import mask_to_alpha, remove_small_parts


def test_only_parts_of_a_minimum_size_remain() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:10, :10] = True
    mask[20:22, 20:22] = True
    assert remove_small_parts(mask, least=0.05)[:10, :10].all()
    assert remove_small_parts(mask, least=0.05).sum() == 100
    assert remove_small_parts(mask, least=0.04).sum() == 104
    assert not remove_small_parts(np.zeros((4, 4), bool)).any()


def test_specks_and_grain_are_removed_and_certain_holes_stay() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[40:160, 40:160] = 255
    mask[60:64, 60:64] = 200  # grain
    mask[100:120, 100:120] = 0  # a hole
    mask[5, 5] = 255  # a speck
    mask[10:20, 150:160] = 90  # a veil
    alpha = mask_to_alpha(mask)
    assert alpha.dtype == np.uint8
    assert (alpha[60:64, 60:64] == 255).all()
    assert not alpha[104:116, 104:116].any()
    assert not alpha[:30].any()
