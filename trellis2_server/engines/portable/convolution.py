"""Submanifold sparse convolution: `flex_gemm.ops.spconv` in plain PyTorch.

Outputs exist where inputs exist. The neighbour map is computed once for a set of coordinates;
the caller passes it to every further convolution on them, as TRELLIS.2 does. Each output row
is a row of gathered neighbours times the flattened kernel: O(N · 27 · Ci · Co), in chunks,
so that the gathered rows take at most `CHUNK_BYTES`.

The alternative, one product for each of the 27 cells over the voxels that have a neighbour
there, multiplies less, since a surface has 12 of 27. On a CPU it takes half the time in
float32, but two to three times the time in bfloat16, which the models use: it needs a sum in
float32, which is read and written 12 times.

Does not know: layers, scales, models.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable.lookup import Lookup, sortable

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Largest size of gathered neighbours at one time, bytes.
CHUNK_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class NeighborMap:
    """Rows that a kernel covers.

    Attributes:
        rows: int32 [N, V], row under each of the kernel's V cells, x slowest; N if the cell
            is empty.
    """

    rows: Tensor


def set_algorithm(algorithm: str) -> None:
    """Do nothing: there is one algorithm."""
    del algorithm


def set_hashmap_ratio(ratio: float) -> None:
    """Do nothing: there is no hash map."""
    del ratio


def find_neighbors(
    coords: Tensor, kernel: Sequence[int], dilation: Sequence[int] = (1, 1, 1)
) -> NeighborMap:
    """Compute the neighbour map of a kernel over sparse voxels.

    Half of the offsets are searched; the other half has the same pairs in reverse.

    Args:
        coords: int32 [N, 4]: batch, x, y, z.
        kernel: cells along x, y, z; odd.
        dilation: distance of cells along x, y, z, voxels.

    Raises:
        NotImplementedError: an even kernel has no centre.
    """
    if any(size % 2 == 0 for size in kernel):
        raise NotImplementedError("a submanifold convolution has an odd kernel")
    reach = [size // 2 * step for size, step in zip(kernel, dilation, strict=True)]
    device, coords = coords.device, sortable(coords)
    count = coords.shape[0]
    offsets = list(
        itertools.product(
            *(range(-r, r + 1, step) for r, step in zip(reach, dilation, strict=True))
        )
    )
    rows = torch.full((count, len(offsets)), count, dtype=torch.int32, device=coords.device)
    centre = len(offsets) // 2
    rows[:, centre] = torch.arange(count, dtype=torch.int32, device=coords.device)
    if count:
        lookup = Lookup(coords, reach)
        order = lookup.order.int()
        for cell in range(centre):
            place, found = lookup.find(lookup.keys + lookup.shift(offsets[cell]))
            here, there = order[found], order[place[found]]
            rows[:, cell].index_copy_(0, here.long(), there)
            rows[:, -1 - cell].index_copy_(0, there.long(), here)
    return NeighborMap(rows.to(device))


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
    neighbors = neighbor_cache or find_neighbors(coords, weight.shape[1:4], dilation)
    count, channels = feats.shape
    cells = neighbors.rows.shape[1]
    kernel = weight.reshape(weight.shape[0], cells * channels)
    # An empty cell contributes the last row, which is zero.
    padded = torch.cat([feats, feats.new_zeros(1, channels)])
    chunk = max(1, CHUNK_BYTES // (cells * channels * feats.element_size()))
    with _float32_sums():
        if count <= chunk:
            return _rows(padded, neighbors.rows, kernel, bias), neighbors
        out = feats.new_empty(count, weight.shape[0])
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            out[part] = _rows(padded, neighbors.rows[part], kernel, bias)
    return out, neighbors


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
    gathered = padded.index_select(0, rows.reshape(-1)).view(rows.shape[0], kernel.shape[1])
    return torch.nn.functional.linear(gathered, kernel, bias)
