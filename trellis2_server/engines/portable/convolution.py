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
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable.neighbors import NeighborMap, find_neighbors

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Largest size of gathered neighbours at one time, bytes.
CHUNK_BYTES: Final = 256 * 2**20


def set_algorithm(algorithm: str) -> None:
    """Do nothing: there is one algorithm."""
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
    neighbors = neighbor_cache or find_neighbors(coords, weight.shape[1:4], dilation)
    count, channels = feats.shape
    cells = neighbors.rows.shape[0]
    kernel = weight.reshape(weight.shape[0], cells * channels)
    # An empty cell contributes the last row, which is zero.
    padded = torch.cat([feats, feats.new_zeros(1, channels)])
    chunk = max(1, CHUNK_BYTES // (cells * channels * feats.element_size()))
    with _float32_sums():
        if count <= chunk:
            return _rows(padded, neighbors.rows.t(), kernel, bias), neighbors
        out = feats.new_empty(count, weight.shape[0])
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            out[part] = _rows(padded, neighbors.rows[:, part].t(), kernel, bias)
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
