"""Tests of the Triton kernel in Triton's interpreter, which `test_implicit_gemm` runs.

The interpreter must be chosen before Triton's first import, so these tests have their own
process. Errors are relative to the norm. Measured: float32 1.1e-7, float16 2.1e-4, bfloat16
3.4e-3; PyTorch's own for bfloat16 is 1.7e-3, since the interpreter cuts off what PyTorch rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.engines.portable.test_convolution import dense_convolution
from tests.support.voxels import random_voxels
from trellis2_server.engines.portable import convolution, implicit_gemm, neighbors

if TYPE_CHECKING:
    from collections.abc import Iterator

Tensor = Any
CONV = convolution.sparse_submanifold_conv3d
SIZE = 8
#: dtype → largest error against float64.
LIMITS = {torch.float32: 3e-7, torch.float16: 5e-4, torch.bfloat16: 7e-3}


@pytest.fixture(autouse=True)
def forced() -> Iterator[None]:
    """Convolutions on the CPU use the kernel, and its errors are raised."""
    assert implicit_gemm.is_interpreted()
    convolution.select_algorithm("triton")
    yield
    convolution.select_algorithm("auto")


def made(count: int, *shape: int, dtype: Any = torch.float32) -> list[Tensor]:
    """Features, weight and bias for `count` voxels and a weight of that shape."""
    torch.manual_seed(count)
    sums = shape[-1] * shape[1] * shape[2] * shape[3]
    tensors = [torch.randn(count, shape[-1]), torch.randn(shape) / sums**0.5, torch.randn(shape[0])]
    return [tensor.to(dtype) for tensor in tensors]


def by_gather(*args: Any) -> Tensor:
    convolution.select_algorithm("gather")
    try:
        return CONV(*args)[0]
    finally:
        convolution.select_algorithm("triton")


def check(coords: Tensor, feats: Tensor, weight: Tensor, bias: Tensor, *dilation: int) -> Tensor:
    """Convolve, compare with PyTorch and with float64, and return the result."""
    dilation = dilation or (1, 1, 1)
    got, found = CONV(feats, coords, (), weight, bias, None, dilation)
    assert found.tiles is not None
    assert got.dtype == feats.dtype
    expected = dense_convolution(coords, feats, weight, bias, dilation, SIZE)
    gathered = by_gather(feats, coords, (), weight, bias, None, dilation)
    for other in (expected, gathered.double()):
        assert (got.double() - other).norm() <= LIMITS[feats.dtype] * other.norm()
    return got


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (5, 7), (16, 32), (33, 130)])
def test_any_number_of_channels(inputs: int, outputs: int, dtype: Any) -> None:
    coords = random_voxels(SIZE, 0.15, batch=2)
    check(coords, *made(len(coords), outputs, 3, 3, 3, inputs, dtype=dtype))


@pytest.mark.parametrize("count", [1, 127, 128, 129])
def test_any_number_of_voxels(count: int) -> None:
    coords = random_voxels(SIZE, 1.0)[:count]
    check(coords, *made(count, 5, 3, 3, 3, 6))


def test_no_voxel() -> None:
    feats, weight, bias = made(0, 5, 3, 3, 3, 6)
    got, found = CONV(feats, torch.zeros(0, 4, dtype=torch.int32), (), weight, bias)
    assert got.shape == (0, 5)
    assert found.tiles is not None


def test_voxels_without_neighbors() -> None:
    coords = torch.cartesian_prod(torch.arange(1), *[torch.arange(0, SIZE, 3)] * 3).int()
    feats, weight, bias = made(len(coords), 5, 3, 3, 3, 6)
    got = check(coords, feats, weight, bias)
    alone = torch.nn.functional.linear(feats, weight[:, 1, 1, 1], bias)
    assert torch.allclose(got, alone, atol=1e-6)


@pytest.mark.parametrize(("kernel", "dilation"), [((1, 1, 1), (1, 1, 1)), ((5, 3, 1), (1, 2, 1))])
def test_other_kernels(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    coords = random_voxels(SIZE, 0.4)
    check(coords, *made(len(coords), 9, *kernel, 4), *dilation)


def test_a_kernel_with_too_many_cells_is_left_to_pytorch() -> None:
    coords = random_voxels(SIZE, 0.1)
    feats, weight, bias = made(len(coords), 3, 5, 3, 3, 2)
    got, found = CONV(feats, coords, (), weight, bias)
    assert found.tiles is None
    assert torch.equal(got, by_gather(feats, coords, (), weight, bias))


def test_no_bias_and_rows_that_are_not_contiguous() -> None:
    coords = random_voxels(SIZE, 0.3)
    feats, weight, _ = made(len(coords), 9, 3, 3, 3, 4)
    wide = torch.cat([feats, feats + 1], dim=1)
    got, _ = CONV(wide[:, :4], coords, (), weight)
    assert torch.allclose(got, by_gather(feats, coords, (), weight), atol=1e-6)


def test_equal_inputs_give_equal_bits_with_a_new_map_and_a_kept_one() -> None:
    coords = random_voxels(SIZE, 0.5)
    feats, weight, bias = made(len(coords), 9, 3, 3, 3, 20)
    first, found = CONV(feats, coords, (), weight, bias)
    again, same = CONV(feats, coords[:0], (), weight, bias, found)
    assert same is found
    assert torch.equal(first, again)
    assert torch.equal(first, CONV(feats, coords, (), weight, bias)[0])


def test_cells_that_a_tile_does_not_have_are_not_computed() -> None:
    coords = random_voxels(SIZE, 0.3)
    feats, weight, _ = made(len(coords), 9, 3, 3, 3, 4)
    found = neighbors.tile(neighbors.find_neighbors(coords, (3, 3, 3)))
    assert found.tiles is not None
    found.tiles.counts.zero_()
    assert not CONV(feats, coords, (), weight, None, found)[0].any()


def test_a_layer_that_trains_is_left_to_pytorch() -> None:
    coords = random_voxels(SIZE, 0.3)
    feats, weight, bias = made(len(coords), 9, 3, 3, 3, 4)
    CONV(feats.requires_grad_(), coords, (), weight, bias)[0].sum().backward()
    assert feats.grad is not None
