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
        """The same rows with other features."""
        return VarLenTensor(feats, self.layout)


class SparseTensor(VarLenTensor):
    """Voxels with features; what was computed for the voxels is shared by all on them."""

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
        #: Of each level that an encoder left: its voxels, whose child each is, and which.
        self.finer = finer

    def replace(self, feats: torch.Tensor) -> SparseTensor:
        """The same voxels with other features."""
        return SparseTensor(feats, self.coords, self.cache, self.finer)

    def to(self, device: object) -> SparseTensor:
        """The same elsewhere."""
        return SparseTensor(self.feats.to(device), self.coords.to(device), None, self.finer)
