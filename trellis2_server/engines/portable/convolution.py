"""Submanifold sparse convolution: `flex_gemm.ops.spconv`, without compiled extensions.

Outputs exist where inputs exist. The neighbour map is computed once for a set of coordinates;
the caller passes it to every further convolution on them, as TRELLIS.2 does.

Two algorithms, O(N · 27 · Ci · Co) both. `implicit_gemm` is a Triton kernel, for GPUs;
`kernel_choice` decides where it is used. The other one is plain PyTorch, for any device: each
output row is a row of gathered neighbours times the flattened kernel, in chunks, so that the
gathered rows take at most a few hundred megabytes.

An alternative in PyTorch, one product for each of the 27 cells over the voxels that have a
neighbour there, multiplies less, since a surface has 12 of 27. On a CPU it takes half the time
in float32, but two to three times the time in bfloat16, which the models use: it needs a sum in
float32, which is read and written 12 times.

Does not know: layers, scales, models.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable.kernel_choice import KernelChoice
from trellis2_server.engines.portable.neighbors import (
    TILED_CELLS,
    NeighborMap,
    find_neighbors,
    tile,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Largest size of gathered neighbours at one time, bytes.
CHUNK_BYTES: Final = 256 * 2**20
#: The same on devices with `LARGE_DEVICE_BYTES` of memory. From 2 GiB on, offsets would need 64
#: bits.
LARGE_CHUNK_BYTES: Final = 2**30
LARGE_DEVICE_BYTES: Final = 40 * 2**30

_kernel = KernelChoice()
#: Choose the algorithm of this process: "auto", "gather" (PyTorch) or "triton".
select_algorithm = _kernel.select
#: Whether convolutions on a `torch.device` run as the Triton kernel.
is_kernel_used_on = _kernel.is_used_on


def set_algorithm(algorithm: str) -> None:
    """Do nothing: TRELLIS.2 calls this before each convolution. See `select_algorithm`."""
    del algorithm


def set_hashmap_ratio(ratio: float) -> None:
    """Do nothing: there is no hash map."""
    del ratio


def sparse_submanifold_conv3d(  # noqa: PLR0913, PLR0917 - flex_gemm's signature
    feats: Tensor,
    coords: Tensor,
    shape: Sequence[int],
    weight: Tensor,
    bias: Tensor | None = None,
    neighbor_cache: NeighborMap | None = None,
    dilation: Sequence[int] = (1, 1, 1),
) -> tuple[Tensor, NeighborMap]:
    """Return the convolution, and the neighbour map for further ones on these voxels.

    Args:
        feats: [N, Ci].
        coords: int32 [N, 4]: batch, x, y, z.
        shape: ignored.
        weight: [Co, Kx, Ky, Kz, Ci], dtype of the features.
        bias: [Co].
        neighbor_cache: map that an earlier call returned.
        dilation: distance of the kernel's cells, voxels.

    Returns:
        Features [N, Co], and the neighbour map.
    """
    del shape
    cells = weight.shape[1:4].numel()
    neighbors = neighbor_cache
    if neighbors is None:
        neighbors = find_neighbors(coords, weight.shape[1:4], dilation)
        if cells <= TILED_CELLS and _kernel.is_used_on(feats.device):
            neighbors = tile(neighbors)
    flat = weight.reshape(weight.shape[0], cells, weight.shape[4])
    out = _kernel.convolve(feats, neighbors, flat, bias)
    if out is None:
        out = _gather(feats, neighbors, flat.flatten(1), bias)
    return out, neighbors


def _gather(feats: Tensor, neighbors: NeighborMap, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution with the flattened kernel [Co, V · Ci] by gathered rows, [N, Co]."""
    count, channels = feats.shape
    # An empty cell contributes the last row, which is zero.
    padded = torch.cat([feats, feats.new_zeros(1, channels)])
    chunk = max(1, _chunk_bytes(feats.device) // (kernel.shape[1] * feats.element_size()))
    order = None if neighbors.tiles is None else neighbors.tiles.order.long()
    with _float32_sums():
        if count <= chunk and order is None:
            return _rows(padded, neighbors.rows, kernel, bias)
        out = feats.new_empty(count, kernel.shape[0])
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            rows = _rows(padded, neighbors.rows[:, part], kernel, bias)
            if order is None:
                out[part] = rows
            else:
                out.index_copy_(0, order[part], rows)
    return out


def _chunk_bytes(device: Any) -> int:
    """Largest size of gathered neighbours at one time on a device, bytes."""
    return LARGE_CHUNK_BYTES if _is_large(device) else CHUNK_BYTES


@functools.cache
def _is_large(device: Any) -> bool:
    """Whether a device has much memory of its own; asked once, since PyTorch asks the driver."""
    if device.type not in {"cuda", "xpu"}:
        return False
    properties = getattr(torch, device.type).get_device_properties(device)
    return properties.total_memory >= LARGE_DEVICE_BYTES


@contextlib.contextmanager
def _float32_sums() -> Generator[None, None, None]:
    """On CUDA, accumulate products of half precision in float32.

    By default PyTorch lets cuBLAS add parts of a long sum in float16. Sums here have up to
    27,648 terms, and the decoders were trained with float32 sums.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_fp16_reduced_precision_reduction = before


def _rows(padded: Tensor, rows: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs of the columns [V, M] of a neighbour map, [M, Co]."""
    gathered = padded.index_select(0, rows.t().reshape(-1)).view(rows.shape[1], kernel.shape[1])
    return torch.nn.functional.linear(gathered, kernel, bias)
