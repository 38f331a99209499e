"""TRELLIS.2's pipeline for uploaded meshes, with its signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nvdiffrast.torch as dr  # noqa: F401 - TRELLIS.2's module imports it too
import torch
import trimesh
from o_voxel.convert import mesh_to_flexible_dual_grid

from trellis2.modules.sparse import SparseTensor
from trellis2.pipelines import Trellis2ImageTo3DPipeline, moved

if TYPE_CHECKING:
    from PIL import Image

_Given = trimesh.Trimesh


class Trellis2TexturingPipeline:
    """Mesh and picture → voxels with attributes."""

    def __init__(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        models: dict[str, Any] | None = None,
        tex_slat_sampler: Any = None,
        tex_slat_sampler_params: Any = None,
        shape_slat_normalization: Any = None,
        tex_slat_normalization: Any = None,
        image_cond_model: Any = None,
        rembg_model: Any = None,
        low_vram: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        self.models = models or {}
        self.tex_slat_sampler = tex_slat_sampler
        self.tex_slat_sampler_params = tex_slat_sampler_params
        self.shape_slat_normalization = shape_slat_normalization
        self.tex_slat_normalization = tex_slat_normalization
        self.image_cond_model = image_cond_model
        self.rembg_model = rembg_model
        self.low_vram = low_vram
        self.device: Any = torch.device("cpu")

    def to(self, device: Any) -> None:
        """Set the device."""
        self.device = device

    def get_cond(
        self,
        image: torch.Tensor | list[Image.Image],
        resolution: int,
        include_neg_cond: bool = True,  # noqa: FBT001, FBT002
    ) -> dict[str, torch.Tensor]:
        """Return the picture's features, and zeros."""
        return Trellis2ImageTo3DPipeline.get_cond(self, image, resolution, include_neg_cond)

    def encode_shape_slat(self, mesh: _Given, resolution: int = 1024) -> SparseTensor:
        """Return the mesh's latent."""
        coords, dual, crossed = mesh_to_flexible_dual_grid(
            torch.from_numpy(mesh.vertices).float(),
            torch.from_numpy(mesh.faces).long(),
            grid_size=resolution,
            aabb=[[-0.5] * 3, [0.5] * 3],
            boundary_weight=0.2,
            regularization_weight=1e-2,
            timing=True,
        )
        full = torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1)
        vertices = SparseTensor(dual * resolution - coords, full).to(self.device)
        with moved(self, self.models["shape_slat_encoder"]) as encoder:
            return encoder(vertices, vertices.replace(crossed.to(self.device)))

    def sample_tex_slat(
        self, cond: Any, flow_model: Any, shape_slat: SparseTensor, sampler_params: Any = None
    ) -> SparseTensor:
        """Return the texture's latent."""
        return Trellis2ImageTo3DPipeline.sample_tex_slat(
            self, cond, flow_model, shape_slat, sampler_params
        )

    _scaled = Trellis2ImageTo3DPipeline._scaled

    def decode_tex_slat(self, slat: SparseTensor) -> SparseTensor:
        """Return the attributes at the mesh's own voxels."""
        with moved(self, self.models["tex_slat_decoder"]) as decoder:
            voxels = decoder(slat)
        return voxels.replace(voxels.feats * 0.5 + 0.5)
