"""Normals of corners, against a loop that says what they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trellis2_server.inputs.meshes.shading import FLAT, UNSAID, Polygons, shade


def expected_normals(polygons: Polygons, positions: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return the normal of each corner, float64 [C, 3]."""
    owner = np.repeat(np.arange(len(polygons.sizes)), polygons.sizes)
    groups = polygons.groups if polygons.groups is not None else np.full(len(owner), UNSAID)
    found: dict[int, np.ndarray] = {}
    areas: list[np.ndarray] = []
    for polygon in range(len(polygons.sizes)):
        points = positions[polygons.corners[owner == polygon]]
        fans = range(1, len(points) - 1)
        areas.append(sum(np.cross(points[k] - points[0], points[k + 1] - points[0]) for k in fans))
    for corner in range(len(owner)):
        row = -1 if polygons.directions is None else polygons.directions[corner]
        if 0 <= row < len(given) and np.isfinite(given[row]).all() and given[row].any():
            found[corner] = given[row] / np.abs(given[row]).max()
    without = [corner for corner in range(len(owner)) if corner not in found]
    for corner in without:
        alike = [areas[owner[corner]]]
        if groups[owner[corner]] != FLAT:
            alike = [
                areas[owner[other]]
                for other in without
                if polygons.corners[other] == polygons.corners[corner]
                and groups[owner[other]] == groups[owner[corner]]
            ]
        found[corner] = sum(alike) if np.any(sum(alike)) else np.array([0.0, 0.0, 1.0])
    normals = np.array([found[corner] for corner in range(len(owner))], np.float64)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(3, 5), min_size=1, max_size=7),
    has_directions=st.booleans(),
    groups=st.sampled_from(["none", "flat", "some", "one"]),
)
@example(seed=0, sizes=[3, 4], has_directions=True, groups="none")
@example(seed=1, sizes=[3] * 7, has_directions=False, groups="some")
def test_corners_have_the_normals_of_the_file_of_their_face_or_of_their_group(
    seed: int,
    sizes: list[int],
    groups: str,
    *,
    has_directions: bool,
) -> None:
    random = np.random.default_rng(seed)
    positions = random.integers(-9, 9, (6, 3)).astype(np.float64)
    corners = np.concatenate([random.permutation(6)[:size] for size in sizes])
    directions = random.normal(size=(4, 3)) * random.choice([1e-200, 1, 1e200], (4, 1))
    directions[3] = random.choice([0, np.nan, np.inf])
    some = {
        "none": None,
        "flat": np.full(len(sizes), FLAT),
        "one": np.full(len(sizes), 7),
        "some": random.choice([FLAT, UNSAID, 1, 2], len(sizes)),
    }
    polygons = Polygons(
        corners,
        np.array(sizes),
        random.integers(-1, 5, len(corners)) if has_directions else None,
        some[groups],
    )
    shaded = shade(polygons, positions, directions)
    assert shaded.normals.dtype == np.float32
    np.testing.assert_array_equal(shaded.source[shaded.corners], corners)
    with np.errstate(all="ignore"):
        wanted = expected_normals(polygons, positions, directions)
    np.testing.assert_allclose(shaded.normals[shaded.corners], wanted, atol=1e-5)
    # No two vertices are the same, but for normals that are equal by chance.
    assert len(shaded.source) <= len(corners)
    assert set(shaded.corners.tolist()) == set(range(len(shaded.source)))


def polygons_of(groups: list[int] | None, directions: list[int] | None = None) -> Polygons:
    return Polygons(
        np.array([0, 1, 2, 1, 3, 2]),
        np.array([3, 3]),
        None if directions is None else np.array(directions),
        None if groups is None else np.array(groups),
    )


@pytest.mark.parametrize(
    ("polygons", "are_flat", "are_smooth"),
    [
        (polygons_of(None), False, True),
        (polygons_of([FLAT, FLAT]), True, False),
        (polygons_of([UNSAID, UNSAID]), False, True),
        (polygons_of([3, 3]), False, True),
        (polygons_of([3, 4]), False, False),
        (polygons_of([3, FLAT]), False, False),
        (polygons_of([FLAT, 3]), False, False),
        (polygons_of(None, [0] * 6), False, False),
        (polygons_of([FLAT, FLAT], [0] * 6), False, False),
        (polygons_of([3, 3], [-1] * 6), False, False),
    ],
)
def test_a_file_is_flat_or_smooth_if_all_of_its_faces_are(
    polygons: Polygons, *, are_flat: bool, are_smooth: bool
) -> None:
    assert (polygons.are_flat, polygons.are_smooth) == (are_flat, are_smooth)


def test_corners_with_the_same_normal_share_a_vertex() -> None:
    points = np.array([[0, 0, 0], [1, 0, 1], [1, 1, 1], [2, 0, 0]], np.float64)
    none = np.empty((0, 3))
    counts = {
        name: len(shade(polygons_of(groups), points, none).source)
        for name, groups in {
            "smooth": None,
            "flat": [FLAT] * 2,
            "two": [1, 2],
            "one": [5] * 2,
        }.items()
    }
    assert counts == {"smooth": 4, "flat": 6, "two": 6, "one": 4}


def test_a_normal_for_each_vertex_leaves_vertices_in_their_order() -> None:
    points = np.array([[0, 0, 0], [1, 0, 1], [1, 1, 1], [2, 0, 0], [5, 5, 5]], np.float64)
    normals = np.array([[2, 0, 0], [0, 3, 0], [0, 0, 4], [0, -5, 0], [-6, 0, 0]], np.float64)
    shaded = shade(polygons_of(None, [0, 1, 2, 1, 3, 2]), points, normals)
    assert shaded.source.tolist() == [0, 1, 2, 3, 4]
    assert shaded.normals.tolist() == np.sign(normals).tolist()
    assert shaded.corners.tolist() == [0, 1, 2, 1, 3, 2]
    turned = shade(polygons_of(None, [0, 1, 2, 1, 2, 3]), points, normals)
    assert sorted(zip(turned.source, turned.normals.tolist(), strict=True)) == [
        (0, [1, 0, 0]), (1, [0, 1, 0]), (2, [0, -1, 0]), (2, [0, 0, 1]), (3, [0, 0, 1]),
    ]  # fmt: skip
