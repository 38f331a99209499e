from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.scene import (
    MAX_FACES,
    MAX_NODES,
    MAX_VERTICES,
    Part,
    Scene,
    are_mirrored,
    check_count,
    check_size,
)


@pytest.mark.parametrize("value", [None, True, -1, 1.0, "1", []])
def test_only_whole_numbers_are_counts(value: object) -> None:
    with pytest.raises(InputError, match="not valid"):
        check_count(value)
    assert check_count(3, 3) == 3
    with pytest.raises(InputError):
        check_count(2, 3)


def test_each_limit_is_named() -> None:
    check_size(MAX_VERTICES, MAX_FACES, MAX_NODES)
    for sizes, name in (
        ((MAX_VERTICES + 1, 0, 0), "vertices"),
        ((0, MAX_FACES + 1, 0), "faces"),
        ((0, 0, MAX_NODES + 1), "nodes"),
    ):
        with pytest.raises(TooLargeError, match=f"over the limit of [0-9]+ {name}"):
            check_size(*sizes)


def test_merged_parts_are_placed_and_a_mirrored_one_keeps_its_outside() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    face = np.array([[0, 1, 2]], np.int32)
    moved, mirrored = np.eye(4), np.diag([-1.0, 1.0, 1.0, 1.0])
    moved[:3, 3] = 5.0
    parts = tuple(Part(0, corners, None, None, face, place) for place in (moved, mirrored))
    positions, faces = Scene(parts, ({"mesh": 0},), (0,), (None,)).merge()
    assert positions.tolist() == [*(corners + 5.0).tolist(), *(corners * [-1, 1, 1]).tolist()]
    assert faces.tolist() == [[0, 1, 2], [5, 4, 3]]
    assert (positions.dtype, faces.dtype) == (np.float64, np.int32)


def test_placements_of_very_different_sizes_are_told_apart() -> None:
    small, large = np.diag([-1e-150, 1e-150, 1e-150, 1.0]), np.diag([1e150, 1e150, 1e150, 1.0])
    found = are_mirrored(np.array([small, large, -small, np.zeros((4, 4))]))
    assert found.tolist() == [True, False, False, False]
