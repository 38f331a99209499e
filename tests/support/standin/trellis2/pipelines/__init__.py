"""TRELLIS.2's pipeline for pictures, with its signatures."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from trellis2.modules.sparse import SparseTensor
from trellis2.pipelines import samplers

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2.models import Mesh

__all__ = ["Trellis2ImageTo3DPipeline", "samplers"]


@contextlib.contextmanager
def moved(pipeline: Any, model: Any) -> Generator[Any, None, None]:
    """With `low_vram`, a model on the device; after an error it stays there."""
    if pipeline.low_vram:
        model.to(pipeline.device)
    yield model
    if pipeline.low_vram:
        model.cpu()


class Trellis2ImageTo3DPipeline:
    """Picture → mesh and voxels with attributes."""

    def __init__(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        models: dict[str, Any] | None = None,
        sparse_structure_sampler: Any = None,
        shape_slat_sampler: Any = None,
        tex_slat_sampler: Any = None,
        sparse_structure_sampler_params: Any = None,
        shape_slat_sampler_params: Any = None,
        tex_slat_sampler_params: Any = None,
        shape_slat_normalization: Any = None,
        tex_slat_normalization: Any = None,
        image_cond_model: Any = None,
        rembg_model: Any = None,
        low_vram: bool = True,  # noqa: FBT001, FBT002
        default_pipeline_type: str = "1024_cascade",
    ) -> None:
        self.models = models or {}
        self.sparse_structure_sampler = sparse_structure_sampler
        self.shape_slat_sampler = shape_slat_sampler
        self.tex_slat_sampler = tex_slat_sampler
        self.sparse_structure_sampler_params = sparse_structure_sampler_params
        self.shape_slat_sampler_params = shape_slat_sampler_params
        self.tex_slat_sampler_params = tex_slat_sampler_params
        self.shape_slat_normalization = shape_slat_normalization
        self.tex_slat_normalization = tex_slat_normalization
        self.image_cond_model = image_cond_model
        self.rembg_model = rembg_model
        self.low_vram = low_vram
        self.default_pipeline_type = default_pipeline_type
        self.device: Any = torch.device("cpu")

    def to(self, device: Any) -> None:
        """Set the device; with `low_vram` no model is moved."""
        self.device = device
        if not self.low_vram:
            for model in [*self.models.values(), self.image_cond_model]:
                model.to(device)

    def get_cond(
        self,
        image: Any,
        resolution: int,
        include_neg_cond: bool = True,  # noqa: FBT001, FBT002
    ) -> dict[str, torch.Tensor]:
        """Return the picture's features, and zeros."""
        self.image_cond_model.image_size = resolution
        with moved(self, self.image_cond_model) as encoder:
            cond = encoder(image)
        return (
            {"cond": cond, "neg_cond": torch.zeros_like(cond)}
            if include_neg_cond
            else {"cond": cond}
        )

    def sample_sparse_structure(
        self, cond: Any, resolution: int, num_samples: int = 1, sampler_params: Any = None
    ) -> torch.Tensor:
        """Return the occupied voxels, int32 [T, 4]."""
        model = self.models["sparse_structure_flow_model"]
        noise = torch.randn(num_samples, model.in_channels, *[model.resolution] * 3)
        params = {**self.sparse_structure_sampler_params, **(sampler_params or {})}
        with moved(self, model):
            latent = self.sparse_structure_sampler.sample(
                model, noise.to(self.device), **cond, **params, verbose=True, tqdm_desc="structure"
            ).samples
        with moved(self, self.models["sparse_structure_decoder"]) as decoder:
            decoded = (decoder(latent) > 0).float()
        ratio = decoded.shape[2] // resolution
        decoded = functional.max_pool3d(decoded, ratio) if ratio > 1 else decoded
        return torch.argwhere(decoded > 0)[:, [0, 2, 3, 4]].int()

    def _scaled(self, latent: SparseTensor, by: Any) -> SparseTensor:
        std, mean = (torch.tensor(by[k], device=latent.feats.device) for k in ("std", "mean"))
        return latent.replace(latent.feats * std + mean)

    def sample_shape_slat(
        self, cond: Any, flow_model: Any, coords: torch.Tensor, sampler_params: Any = None
    ) -> SparseTensor:
        """Return the shape's latent."""
        noise = torch.randn(coords.shape[0], flow_model.in_channels).to(self.device)
        params = {**self.shape_slat_sampler_params, **(sampler_params or {})}
        with moved(self, flow_model):
            latent = self.shape_slat_sampler.sample(
                flow_model,
                SparseTensor(noise, coords),
                **cond,
                **params,
                verbose=True,
                tqdm_desc="shape",
            ).samples
        return self._scaled(latent, self.shape_slat_normalization)

    def sample_shape_slat_cascade(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        lr_cond: Any,
        cond: Any,
        flow_model_lr: Any,
        flow_model: Any,
        lr_resolution: int,
        resolution: int,
        coords: torch.Tensor,
        sampler_params: Any = None,
        max_num_tokens: int = 49152,
    ) -> tuple[SparseTensor, int]:
        """Return the shape's latent by a cascade, and the resolution that was reached."""
        latent = self.sample_shape_slat(lr_cond, flow_model_lr, coords, sampler_params)
        with moved(self, self.models["shape_slat_decoder"]) as decoder:
            fine = decoder.upsample(latent, upsample_times=4)
        while True:
            scale = resolution // 16 / lr_resolution
            place = ((fine[:, 1:] + 0.5) * scale).int()
            coords = torch.cat([fine[:, :1], place], dim=1).unique(dim=0)
            if len(coords) < max_num_tokens or resolution == 1024:
                break
            resolution -= 128
        return self.sample_shape_slat(cond, flow_model, coords, sampler_params), resolution

    def decode_shape_slat(
        self, slat: SparseTensor, resolution: int
    ) -> tuple[list[Mesh], list[Any]]:
        """Return the mesh and the subdivisions of the voxels."""
        with moved(self, self.models["shape_slat_decoder"]) as decoder:
            decoder.set_resolution(resolution)
            return decoder(slat, return_subs=True)

    def sample_tex_slat(
        self, cond: Any, flow_model: Any, shape_slat: SparseTensor, sampler_params: Any = None
    ) -> SparseTensor:
        """Return the texture's latent."""
        norm = self.shape_slat_normalization
        std, mean = (torch.tensor(norm[k], device=self.device) for k in ("std", "mean"))
        shape = shape_slat.replace((shape_slat.feats - mean) / std)
        channels = flow_model.in_channels - shape.feats.shape[1]
        noise = torch.randn(shape.feats.shape[0], channels).to(self.device)
        params = {**self.tex_slat_sampler_params, **(sampler_params or {})}
        with moved(self, flow_model):
            latent = self.tex_slat_sampler.sample(
                flow_model,
                shape.replace(noise),
                concat_cond=shape,
                **cond,
                **params,
                verbose=True,
                tqdm_desc="texture",
            ).samples
        return self._scaled(latent, self.tex_slat_normalization)

    def decode_tex_slat(self, slat: SparseTensor, subs: list[Any]) -> SparseTensor:
        """Return the attributes."""
        with moved(self, self.models["tex_slat_decoder"]) as decoder:
            voxels = decoder(slat, guide_subs=subs)
        return voxels.replace(voxels.feats * 0.5 + 0.5)
