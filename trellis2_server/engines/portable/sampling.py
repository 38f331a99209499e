"""Trilinear and nearest sampling of sparse voxels: `flex_gemm.ops.grid_sample`.

Voxel i covers [i, i + 1] of its axis; its value belongs to i + 0.5. Corners without a voxel
are left out and the others' weights renormalised; a point without any corner has value 0.

Does not know: the attributes' meaning.
"""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable.lookup import Lookup, sortable

if TYPE_CHECKING:
    from collections.abc import Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Points sampled at one time.
CHUNK_POINTS: Final = 2**20
_SMALLEST_WEIGHT: Final = 1e-12


def grid_sample_3d(
    feats: Tensor, coords: Tensor, shape: Sequence[int], grid: Tensor, mode: str = "trilinear"
) -> Tensor:
    """Return values at points.

    Args:
        feats: [L, C].
        coords: integer [L, 4]: batch, x, y, z.
        shape: ignored.
        grid: [B, M, 3], points in voxels, in the order of the batch index.
        mode: "trilinear" or "nearest".

    Returns:
        [B, M, C], dtype of the features.

    Raises:
        ValueError: the mode is unknown.
    """
    del shape
    if mode not in {"trilinear", "nearest"}:
        raise ValueError(f"mode must be trilinear or nearest, not {mode!r}")
    batch, count, _ = grid.shape
    out = feats.new_zeros(batch * count, feats.shape[1])
    if feats.shape[0]:
        lookup = Lookup(sortable(coords), (0, 0, 0))
        owner = torch.arange(batch, device=grid.device).repeat_interleave(count)
        points = grid.reshape(-1, 3).float()
        sample = _trilinear if mode == "trilinear" else _nearest
        for start in range(0, batch * count, CHUNK_POINTS):
            part = slice(start, start + CHUNK_POINTS)
            out[part] = sample(feats, lookup, owner[part], points[part]).to(out.dtype)
    return out.view(batch, count, -1)


def _nearest(feats: Tensor, lookup: Lookup, owner: Tensor, points: Tensor) -> Tensor:
    rows, found = lookup.rows(torch.cat([owner[:, None], points.floor().long()], dim=1))
    return feats[rows] * found[:, None]


def _trilinear(feats: Tensor, lookup: Lookup, owner: Tensor, points: Tensor) -> Tensor:
    shifted = points - 0.5
    base = shifted.floor()
    fraction = shifted - base
    total = points.new_zeros(len(points), feats.shape[1])
    weights = points.new_zeros(len(points))
    for corner in itertools.product((0, 1), repeat=3):
        # Numbers of Python, since a tensor made of them is copied to the device and waited for.
        near = [base[:, axis] + corner[axis] for axis in range(3)]
        rows, found = lookup.rows(torch.stack([owner, *(n.long() for n in near)], dim=1))
        shares = [fraction[:, i] if corner[i] else 1 - fraction[:, i] for i in range(3)]
        weight = shares[0] * shares[1] * shares[2] * found
        total.addcmul_(feats[rows].float(), weight[:, None])
        weights += weight
    return total / weights.clamp(min=_SMALLEST_WEIGHT)[:, None]
