from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.engines.portable import quadrics  # noqa: E402

ONE = torch.ones(3, dtype=torch.float64)


def lowest(sums: object, weight: float = 1e-6, centre: float = 0.5) -> list[float]:
    """The lowest point in the voxel at the origin, with edges of 1."""
    found = quadrics.lowest(
        sums,
        torch.tensor([weight], dtype=torch.float64),
        ONE[None] * centre,
        torch.zeros(1, 3, dtype=torch.long),
        ONE,
    )
    return found[0].tolist()


def test_three_planes_meet_in_a_point() -> None:
    normals = torch.eye(3, dtype=torch.float64)
    point = torch.tensor([0.2, 0.3, 0.9], dtype=torch.float64)
    sums = quadrics.plane_sums(normals, point.expand(3, 3)).sum(dim=0, keepdim=True)
    assert sums.shape == (1, quadrics.SUMS)
    assert lowest(sums) == pytest.approx([0.2, 0.3, 0.9], abs=1e-5)


def test_a_point_on_a_line_is_the_nearest_to_the_centre() -> None:
    start = torch.tensor([[0.1, 0.7, -5.0]], dtype=torch.float64)
    end = torch.tensor([[0.1, 0.7, 5.0]], dtype=torch.float64)
    assert lowest(quadrics.line_sums(start, end)) == pytest.approx([0.1, 0.7, 0.5], abs=1e-5)


def test_a_lowest_point_outside_is_moved_to_the_boundary() -> None:
    normals = torch.eye(3, dtype=torch.float64)
    for point, expected in (
        ([1.5, 0.5, 0.5], [1.0, 0.5, 0.5]),
        ([-2.0, 3.0, 0.25], [0.0, 1.0, 0.25]),
        ([2.0, 2.0, -1.0], [1.0, 1.0, 0.0]),
    ):
        at = torch.tensor(point, dtype=torch.float64).expand(3, 3)
        sums = quadrics.plane_sums(normals, at).sum(dim=0, keepdim=True)
        assert lowest(sums) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_the_lowest_point_is_that_of_bounded_least_squares(seed: int) -> None:
    """Of random planes and lines, in voxels of any place and size."""
    random = np.random.default_rng(seed)
    size, voxel = random.uniform(0.2, 3, 3), random.integers(-4, 5, 3)
    low = voxel * size
    planes, lines = random.integers(0, 4), random.integers(0, 3)
    spread = (0.5, 3.0)[seed % 2]  # mostly within the voxel, mostly outside
    centre = low + size * random.uniform(0.2, 0.8, 3)
    rows, right = [np.sqrt(0.01) * np.eye(3)], [np.sqrt(0.01) * centre]
    sums = torch.zeros(1, quadrics.SUMS, dtype=torch.float64)
    for _ in range(planes):
        normal, point = random.normal(size=3), low + size * random.normal(0.5, spread, 3)
        normal /= np.linalg.norm(normal)
        rows.append(normal[None])
        right.append([normal @ point])
        sums += quadrics.plane_sums(torch.tensor(normal[None]), torch.tensor(point[None]))
    for _ in range(lines):
        start, along = low + size * random.normal(0.5, spread, 3), random.normal(size=3)
        across = np.linalg.svd(along[None])[2][1:]
        rows.append(across)
        right.append(across @ start)
        end = torch.tensor((start + along)[None])
        sums += quadrics.line_sums(torch.tensor(start[None]), end)
    wanted = lsq_linear(np.vstack(rows), np.concatenate(right), (low, low + size), tol=1e-14).x
    found = quadrics.lowest(
        sums,
        torch.tensor([0.01], dtype=torch.float64),
        torch.tensor(centre[None]),
        torch.tensor(voxel[None]),
        torch.tensor(size),
    )
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-5)


def test_each_sum_has_its_own_lowest_point() -> None:
    """Some within their voxel, some not."""
    normals = torch.eye(3, dtype=torch.float64)
    points = torch.tensor([[0.2, 0.3, 0.9], [5, 0.5, 0.5], [2.5, 2.5, 2.5]], dtype=torch.float64)
    sums = torch.stack([quadrics.plane_sums(normals, p.expand(3, 3)).sum(dim=0) for p in points])
    voxels = torch.tensor([[0, 0, 0], [0, 0, 0], [2, 2, 2]])
    weight = torch.full((3,), 1e-9, dtype=torch.float64)
    found = quadrics.lowest(sums, weight, voxels + 0.5, voxels, ONE)
    expected = [[0.2, 0.3, 0.9], [1, 0.5, 0.5], [2.5, 2.5, 2.5]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_one_plane_has_a_lowest_point_nearest_to_the_centre() -> None:
    normal = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    sums = quadrics.plane_sums(normal, torch.tensor([[0.5, 0.5, 0.75]], dtype=torch.float64))
    found = np.array(lowest(sums))
    np.testing.assert_allclose(found, 0.5 + 0.2 * normal[0].numpy(), atol=1e-5)
