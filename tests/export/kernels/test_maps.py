"""Values drawn into a texture, against one texel at a time."""

from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import maps


def test_a_part_has_its_shares_of_the_corners_of_its_face() -> None:
    random = np.random.default_rng(1)
    uv = random.uniform(0, 64, (9, 2)).astype(np.float32)
    faces = np.array([(0, 4, 8), (2, 1, 3), (5, 6, 7)], np.int32)
    whole = np.array([2, 0, 0, 1], np.int32)
    shares = random.dirichlet([1, 1, 1], (4, 3)).astype(np.float32)
    flat = np.empty((4, 6), np.float32)
    call(maps.place_parts, 0, 4, whole, shares, uv, faces, flat)
    wanted = np.einsum("pks,psa->pka", shares, uv[faces[whole]]).reshape(4, 6)
    np.testing.assert_allclose(flat, wanted, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [(0, 12), (3, 9)])
def test_a_texel_has_the_value_of_the_last_face_over_its_centre(
    seed: int, rows: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    size = 12
    corners = random.uniform(-3, 15, (9, 3, 2))
    corners[3, 2] = corners[3, 0]  # without an area
    corners[4] = [(2.5, 1.5), (7.5, 1.5), (2.5, 6.5)]  # exactly through centres
    values = random.random((9, 3)).astype(np.float32)
    flat = corners.reshape(9, 6).astype(np.float32)
    drawn, covered = np.full((size, size), 7, np.uint8), np.zeros((size, size), np.uint8)
    call(maps.draw_values, *rows, flat, values, drawn, covered)
    exact = flat.astype(np.float64).reshape(9, 3, 2)
    for row in range(size):
        for column in range(size):
            wanted = None
            for face in range(9):
                edges = (exact[face, 1:] - exact[face, 0]).T
                if np.linalg.det(edges) == 0:
                    continue
                place = np.array([column + 0.5, row + 0.5]) - exact[face, 0]
                shares = np.linalg.solve(edges, place)
                weights = np.array([1 - shares.sum(), *shares])
                if rows[0] <= row < rows[1] and weights.min() >= -1e-12:
                    wanted = float(weights @ values[face]) * 255
            assert covered[row, column] == (wanted is not None)
            if wanted is None:
                assert drawn[row, column] == 7
            else:
                assert abs(drawn[row, column] - wanted) <= 0.5 + 1e-4
