"""Faces that cover the same texels, against one texel at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import layouts as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

SIZE = 16


def place(corners: Floats, point: Floats) -> tuple[float, float, Floats]:
    """Return the distance of a point from the edges, inward, its limit, and the shares."""
    sides = [np.subtract(corners[k - 1], corners[k - 2]) for k in range(3)]
    lengths = [float(np.linalg.norm(side)) for side in sides]
    double = float(np.linalg.det(np.array([corners[1] - corners[0], corners[2] - corners[0]])))
    if double == 0:
        return -1.0, 0.0, np.zeros(3)
    edges = (corners[1:] - corners[0]).T
    beyond = np.linalg.solve(edges, point - corners[0])
    shares = np.array([1 - beyond.sum(), *beyond])
    heights = [abs(double) / length for length in lengths]
    depth = min(share * height for share, height in zip(shares, heights, strict=True))
    return depth, min(0.25, abs(double) / sum(lengths) / 2), shares


@pytest.mark.parametrize("seed", range(5))
def test_a_point_is_as_deep_in_a_face_as_it_is_away_from_its_edges(seed: int) -> None:
    random = np.random.default_rng(seed)
    uv = random.uniform(0, 4 if seed else 0.5, (3, 2))
    faces = np.array([random.permutation(3)], np.int32)
    for point in random.uniform(0, 4, (9, 2)):
        depth, limit, shares = place(uv[faces[0]], point)
        found = kernels.place_in_face(uv, faces, 0, *point)
        assert found == pytest.approx((depth, limit, shares[0], shares[1]))
    flat = np.array([(0, 0), (1, 1), (2, 2)], float)
    assert kernels.place_in_face(flat, faces, 0, 1.0, 1.0) == (-1, 0, 0, 0)


def expected(
    uv: Floats, faces: Floats, corners: Floats, vertices: Floats, distance: float
) -> tuple[int, int, int, Floats]:
    owner, found, count = np.full((SIZE, SIZE), -1), (-1, -1), 0
    for f in range(len(faces)):
        near = np.clip(uv[faces[f]], 0, SIZE)
        columns, rows = (range(int(side.min()), int(np.ceil(side.max()))) for side in near.T)
        for row in rows:
            for column in columns:
                point = np.array([column + 0.5, row + 0.5])
                depth, limit, shares = place(uv[faces[f]], point)
                if shares.min() < 0 or not shares.any():
                    continue
                g = owner[row, column]
                if g < 0:
                    owner[row, column] = f
                    continue
                if depth <= limit:
                    continue
                depth, limit, others = place(uv[faces[g]], point)
                if depth <= limit:
                    owner[row, column] = f
                    continue
                apart = shares @ vertices[corners[f]] - others @ vertices[corners[g]]
                if np.abs(apart).max() > distance:
                    count += 1
                    found = found if count > 1 else (f, int(g))
    return *found, count, owner


@pytest.mark.parametrize("distance", [0.3, 9.0])
@pytest.mark.parametrize("seed", [0, 2])
def test_overlapping_faces_with_other_points_of_the_surface_are_found(
    seed: int, distance: float
) -> None:
    random = np.random.default_rng(seed)
    uv = random.uniform(-2, SIZE + 2, (18, 2))
    faces = np.array([random.permutation(18)[:3] for _ in range(9)], np.int32)
    vertices = random.uniform(0, 1, (12, 3))
    corners = random.integers(0, 12, (9, 3)).astype(np.int32)
    if seed == 2:  # one is a copy: the same points at the same texels
        faces[7], corners[7] = faces[0], corners[0]
    owner = np.full((SIZE, SIZE), -1, np.int32)
    found = call(kernels.find_overlap, uv, faces, corners, vertices, distance, owner)
    *wanted, wanted_owner = expected(uv, faces, corners, vertices, distance)
    assert list(found) == wanted
    np.testing.assert_array_equal(owner, wanted_owner)
