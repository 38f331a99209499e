from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.synchronization import waits_for_device  # noqa: E402
from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import convolution  # noqa: E402

Tensor = Any
CONV = convolution.sparse_submanifold_conv3d


def dense_convolution(  # noqa: PLR0913, PLR0917 - a convolution has that many
    coords: Tensor,
    feats: Tensor,
    weight: Tensor,
    bias: Tensor,
    dilation: tuple[int, ...],
    size: int,
) -> Tensor:
    """The convolution by `conv3d` on a full grid in float64."""
    grid = torch.zeros(
        int(coords[:, 0].max()) + 1, feats.shape[1], *[size] * 3, dtype=torch.float64
    )
    b, x, y, z = coords.long().unbind(1)
    grid[b, :, x, y, z] = feats.double()
    kernel = weight.double().permute(0, 4, 1, 2, 3)
    padding = [k // 2 * d for k, d in zip(weight.shape[1:4], dilation, strict=True)]
    out = torch.nn.functional.conv3d(
        grid, kernel, bias.double(), padding=padding, dilation=tuple(dilation)
    )
    return out[b, :, x, y, z]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 1), (5, 3, 1)])
@pytest.mark.parametrize("dilation", [(1, 1, 1), (2, 1, 3)])
def test_the_convolution_equals_a_dense_one_on_the_voxels(
    kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    coords = random_voxels(10, 0.3, batch=2)
    feats = torch.randn(len(coords), 16)
    weight, bias = torch.randn(8, *kernel, 16), torch.randn(8)
    out, _ = CONV(feats, coords, (), weight, bias, None, dilation)
    expected = dense_convolution(coords, feats, weight, bias, dilation, 10)
    assert (out - expected).abs().max() < 5e-5
    assert (out - expected).norm() / expected.norm() < 1e-6


def test_the_convolution_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    coords = random_voxels(12, 0.4)
    feats, weight = torch.randn(len(coords), 4), torch.randn(6, 3, 3, 3, 4)
    whole, _ = CONV(feats, coords, (), weight)
    monkeypatch.setattr(convolution, "CHUNK_BYTES", 27 * 4 * 4 * 50)
    parts, _ = CONV(feats, coords, (), weight)
    assert torch.allclose(whole, parts, atol=1e-5)


@pytest.mark.parametrize(("gib", "expected"), [(24, 2**28), (40, 2**30), (141, 2**30)])
@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_large_devices_gather_more_at_one_time_and_are_asked_once(
    kind: str, gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def get_device_properties(device: Any) -> Any:
        asked.append(device)
        return SimpleNamespace(total_memory=gib * 2**30)

    monkeypatch.setattr(getattr(torch, kind), "get_device_properties", get_device_properties)
    convolution._is_large.cache_clear()
    device = torch.device(kind, 1)
    assert [convolution._chunk_bytes(device) for _ in range(2)] == [expected] * 2
    assert asked == [device]
    convolution._is_large.cache_clear()


def test_a_cpu_gathers_little_at_one_time() -> None:
    assert convolution._chunk_bytes(torch.device("cpu")) == 2**28


def test_a_convolution_does_not_wait_for_the_device() -> None:
    coords = random_voxels(8, 0.5)
    feats, weight, bias = torch.randn(len(coords), 4), torch.randn(6, 3, 3, 3, 4), torch.randn(6)
    with waits_for_device() as waits:
        CONV(feats, coords, (), weight, bias)
    assert waits == []


def test_the_neighbor_map_is_computed_once_and_can_be_reused() -> None:
    coords = random_voxels(8, 0.5)
    feats, weight = torch.randn(len(coords), 4), torch.randn(4, 3, 3, 3, 4)
    first, neighbors = CONV(feats, coords, (), weight)
    second, same = CONV(feats, coords[:0], (), weight, None, neighbors)
    assert same is neighbors
    assert torch.equal(first, second)


@pytest.mark.parametrize("before", [False, True])
def test_half_precision_is_summed_in_float32_and_the_process_setting_is_restored(
    monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    matmul, linear, seen = torch.backends.cuda.matmul, torch.nn.functional.linear, list[bool]()
    at_first = matmul.allow_fp16_reduced_precision_reduction

    def noted(*args: Tensor) -> Tensor:
        seen.append(matmul.allow_fp16_reduced_precision_reduction)
        return linear(*args)

    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    coords = random_voxels(6, 0.5)
    matmul.allow_fp16_reduced_precision_reduction = before
    try:
        CONV(torch.randn(len(coords), 2), coords, (), torch.randn(2, 3, 3, 3, 2))
        assert matmul.allow_fp16_reduced_precision_reduction == before
    finally:
        matmul.allow_fp16_reduced_precision_reduction = at_first
    assert seen == [False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_convolution_keeps_half_precision(dtype: Any) -> None:
    torch.manual_seed(3)
    coords = random_voxels(8, 0.5)
    feats = torch.randn(len(coords), 32).to(dtype)
    weight, bias = (torch.randn(16, 3, 3, 3, 32) / 30).to(dtype), torch.randn(16).to(dtype)
    out, _ = CONV(feats, coords, (), weight, bias)
    expected = dense_convolution(coords, feats, weight, bias, (1, 1, 1), 8)
    assert out.dtype == dtype
    assert (out - expected).norm() / expected.norm() < {torch.float16: 1e-3}.get(dtype, 8e-3)


def test_an_even_kernel_is_an_error() -> None:
    coords = random_voxels(4, 0.5)
    with pytest.raises(NotImplementedError, match="odd kernel"):
        CONV(torch.randn(len(coords), 2), coords, (), torch.randn(2, 2, 2, 2, 2))
