"""Random sparse voxels; needs torch."""

from __future__ import annotations

from typing import Any

import torch

Tensor = Any


def random_voxels(size: int, share: float, *, batch: int = 1, seed: int = 0) -> Tensor:
    """Random voxels, shuffled within a batch, int32 [N, 4]: batch, x, y, z."""
    made = torch.Generator().manual_seed(seed)
    full = torch.cartesian_prod(torch.arange(batch), *[torch.arange(size)] * 3).int()
    chosen = full[torch.rand(len(full), generator=made) < share]
    chosen = chosen[torch.randperm(len(chosen), generator=made)]
    return chosen[torch.sort(chosen[:, 0], stable=True).indices]
