"""Submanifold convolution as an implicit matrix product, in Triton.

A program computes `TILE_ROWS` voxels times a block of output channels. It reads the rows of
each voxel's neighbours directly, so gathered rows are never stored, and skips the cells that
none of its voxels has: on a sphere of 900,000 voxels it computes 17.0 of 27, where voxels have
16.4. Sums are float32. The sizes of blocks depend on the numbers of channels only, and each sum
has one fixed order: equal inputs give equal bits on the same kind of device.

The import needs Triton. A CPU can show that the kernel is right (Triton's interpreter) and that
it compiles for a GPU, but not which sizes of blocks are fastest there: they are not measured.

Does not know: coordinates, layers, what to do without Triton.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable.convolution_kernel import convolve_tile, is_interpreted
from trellis2_server.engines.portable.neighbors import TILE_ROWS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from trellis2_server.engines.portable.neighbors import NeighborMap

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Smallest side of a block that `tl.dot` takes.
_SMALLEST_BLOCK: Final = 16


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of a program.

    Attributes:
        columns: output channels of a program.
        depth: input channels of one step.
        warps: warps of a program.
        stages: steps whose inputs are loaded ahead.
    """

    columns: int
    depth: int
    warps: int
    stages: int


def choose_blocks(inputs: int, outputs: int, element_bytes: int) -> Blocks:
    """Return the sizes for numbers of channels.

    Compiled, they take at most 49 KiB of shared memory, and no more registers than there are: in
    float32 on AMD's RDNA only. With half as many warps, 64 columns take too many on RDNA, too.
    """
    columns = min(max(_power_of_two(outputs), _SMALLEST_BLOCK), 128 if element_bytes < 4 else 64)  # noqa: PLR2004
    deepest = 64 if columns <= 64 and element_bytes < 4 else 32  # noqa: PLR2004
    depth = min(max(_power_of_two(inputs), _SMALLEST_BLOCK), deepest)
    return Blocks(columns, depth, warps=8 if columns > 32 else 4, stages=3)  # noqa: PLR2004


def convolve(feats: Tensor, neighbors: NeighborMap, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution, [N, Co].

    Args:
        feats: [N, Ci], float16, bfloat16 or float32.
        neighbors: map with tiles.
        weight: [Co, V, Ci], dtype of the features.
        bias: [Co].
    """
    feats, weight = feats.contiguous(), weight.contiguous()
    (count, inputs), outputs = feats.shape, weight.shape[0]
    out = feats.new_empty(count, outputs)
    if not out.numel():
        return out
    tiles: Any = neighbors.tiles
    blocks = choose_blocks(inputs, outputs, feats.element_size())
    grid = (len(tiles.counts) * -(-outputs // blocks.columns),)
    with _on(feats.device):
        launch: Any = convolve_tile[grid]
        launch(
            feats,
            neighbors.rows,
            tiles.order,
            tiles.cells,
            tiles.counts,
            weight,
            weight if bias is None else bias.contiguous(),
            out,
            count,
            neighbors.rows.stride(0),
            inputs,
            outputs,
            CELLS=weight.shape[1],
            HAS_BIAS=bias is not None,
            PRECISION=_precision(feats),
            WIDENS=is_interpreted(),
            TILE=TILE_ROWS,
            COLUMNS=blocks.columns,
            DEPTH=blocks.depth,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return out


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is not lower."""
    return 1 << (number - 1).bit_length()


def _precision(feats: Tensor) -> str:
    """How float32 is multiplied: exactly, unless the process allows TF32."""
    if feats.device.type != "cuda" or torch.version.hip:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    # Before PyTorch 2.9 there is only `allow_tf32`; reading it later may be an error.
    chosen = getattr(matmul, "fp32_precision", None)
    is_allowed = matmul.allow_tf32 if chosen is None else chosen == "tf32"
    return "tf32" if is_allowed else "ieee"


def _on(device: Any) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return getattr(torch, device.type).device(device)
