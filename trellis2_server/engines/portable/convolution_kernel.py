"""The Triton kernel of `implicit_gemm`.

Triton's interpreter (`TRITON_INTERPRET=1` before Triton's first import) runs it on a CPU.
Annotations other than `tl.constexpr` would be compiled, and fail.
"""

# pyright: basic
# ruff: noqa: ANN001, N803, PLR0913, PLR0917

from __future__ import annotations

import triton
import triton.language as tl


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernel, on the CPU."""
    return not isinstance(convolve_tile, triton.JITFunction)


# Each job has another number of voxels: it must not be part of what is compiled.
@triton.jit(do_not_specialize=["count", "cell_stride"])
def convolve_tile(
    feats,
    rows,
    order,
    cells,
    counts,
    weight,
    bias,
    out,
    count,
    cell_stride,
    inputs,
    outputs,
    CELLS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDENS: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """One tile of voxels times one block of output channels.

    Args:
        feats: [N, Ci].
        rows: int32 [V, N], see `neighbors.NeighborMap`.
        order: int32 [N], see `neighbors.Tiles`; `cells` and `counts`, too.
        cells: int32 [T, V].
        counts: int32 [T].
        weight: [Co, V, Ci].
        bias: [Co], or any pointer.
        out: [N, Co].
        count: N.
        cell_stride: distance of two cells in `rows`.
        inputs: Ci.
        outputs: Co.
        CELLS: V.
        HAS_BIAS: whether `bias` is added.
        PRECISION: of float32 products, as `tl.dot` names it.
        WIDENS: whether products are made of float32 copies.
        TILE: voxels of a program.
        COLUMNS: output channels of a program.
        DEPTH: input channels of one step.
    """
    # Programs of one tile follow each other: its rows come from the cache.
    blocks = (outputs + COLUMNS - 1) // COLUMNS
    tile = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    row = tile * TILE + tl.arange(0, TILE)
    depth = tl.arange(0, DEPTH)
    is_row, is_column = row < count, column < outputs
    # 64-bit: rows times channels can exceed 2 ** 31.
    kernel = weight + column[None, :].to(tl.int64) * (CELLS * inputs)
    total = tl.zeros((TILE, COLUMNS), dtype=tl.float32)
    parts = (inputs + DEPTH - 1) // DEPTH
    # One loop over cells and parts of the channels, so that loads overlap with products.
    for step in range(tl.load(counts + tile) * parts):
        cell = tl.load(cells + tile * CELLS + step // parts)
        channel = step % parts * DEPTH + depth
        is_channel = channel < inputs
        near = tl.load(rows + cell.to(tl.int64) * cell_stride + row, mask=is_row, other=count)
        left = tl.load(
            feats + near[:, None].to(tl.int64) * inputs + channel[None, :],
            mask=(near < count)[:, None] & is_channel[None, :],
            other=0.0,
        )
        right = tl.load(
            kernel + cell * inputs + channel[:, None],
            mask=is_channel[:, None] & is_column[None, :],
            other=0.0,
        )
        if WIDENS:  # The interpreter multiplies the bits of bfloat16 numbers, as integers.
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    voxel = tl.load(order + row, mask=is_row, other=0)
    tl.store(
        out + voxel[:, None].to(tl.int64) * outputs + column[None, :],
        total.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_column[None, :],
    )
