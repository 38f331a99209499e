from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.synchronization import waits_for_device  # noqa: E402
from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import sampling  # noqa: E402


def test_sampling_a_full_grid_equals_pytorchs_grid_sample() -> None:
    torch.manual_seed(6)
    size = 9
    coords = random_voxels(size, 2.0)
    feats = torch.randn(len(coords), 6)
    points = torch.rand(1, 500, 3) * (size - 1) + 0.5
    grid = torch.zeros(1, 6, size, size, size)
    _, x, y, z = coords.long().unbind(1)
    grid[0, :, z, y, x] = feats.t()
    where = (points / size * 2 - 1).view(1, 1, 1, -1, 3)
    expected = torch.nn.functional.grid_sample(grid, where, align_corners=False)[0, :, 0, 0].t()
    out = sampling.grid_sample_3d(feats, coords, (), points)
    assert (out[0] - expected).abs().max() < 5e-6


def test_sampling_drops_absent_corners_and_renormalises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CHUNK_POINTS", 2)
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.int32)
    feats = torch.tensor([[1.0], [3.0], [7.0]])
    points = torch.tensor(
        [[[0.75, 0.5, 0.5], [1.4, 0.1, 0.2], [40.0, 40.0, 40.0]], [[0.6, 0.4, 0.3]] * 3]
    )
    out = sampling.grid_sample_3d(feats, coords, (), points)
    assert out[:, :, 0].tolist() == [pytest.approx([1.5, 2.8, 0.0]), pytest.approx([7.0] * 3)]


def test_nearest_sampling_takes_the_voxel_around_the_point() -> None:
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
    points = torch.tensor([[[0.9, 0.1, 0.1], [1.1, 0.9, 0.9], [-0.1, 0.5, 0.5]]])
    out = sampling.grid_sample_3d(torch.tensor([[1.0], [3.0]]), coords, (), points, "nearest")
    assert out[0, :, 0].tolist() == [1.0, 3.0, 0.0]


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
def test_sampling_does_not_wait_for_the_device(mode: str) -> None:
    coords = random_voxels(6, 0.4, batch=2)
    with waits_for_device() as waits:
        sampling.grid_sample_3d(
            torch.randn(len(coords), 3), coords, (), torch.rand(2, 50, 3) * 6, mode
        )
    assert waits == []
