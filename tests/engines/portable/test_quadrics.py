from __future__ import annotations

import pytest

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
