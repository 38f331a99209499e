"""Features of sequences, and of sparse voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class VarLenTensor:
    """Rows of features."""

    def __init__(self, feats: torch.Tensor, layout: list[slice] | None = None) -> None:
        self.feats = feats
        self.layout = layout

    def replace(self, feats: torch.Tensor) -> VarLenTensor:
        """Return the same rows with other features."""
        return VarLenTensor(feats, self.layout)


class SparseTensor(VarLenTensor):
    """Voxels with features; tensors on the same voxels share one cache."""

    def __init__(
        self,
        feats: torch.Tensor,
        coords: torch.Tensor,
        cache: dict[str, object] | None = None,
        finer: tuple[tuple[torch.Tensor, ...], ...] = (),
    ) -> None:
        super().__init__(feats)
        self.coords = coords
        self.cache = {} if cache is None else cache
        #: For each finer level of an encoder: voxels, index of each voxel's parent, child number.
        self.finer = finer

    def replace(self, feats: torch.Tensor) -> SparseTensor:
        """Return the same voxels with other features."""
        return SparseTensor(feats, self.coords, self.cache, self.finer)

    def to(self, device: object) -> SparseTensor:
        """Return the same tensor on another device."""
        return SparseTensor(self.feats.to(device), self.coords.to(device), None, self.finer)
