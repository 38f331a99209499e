"""TRELLIS.2's own `run` with given patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from tests.support.trellis2_engine import picture

if TYPE_CHECKING:
    from collections.abc import Collection

SAMPLERS = ("sparse_structure_sampler", "shape_slat_sampler", "tex_slat_sampler")


def use(pipeline: Any, names: Collection[str]) -> None:
    """Let the samplers of a pipeline use those patches."""
    for sampler in SAMPLERS:
        getattr(pipeline, sampler).patches = tuple(names)


def run(pipeline: Any, pipeline_type: str, names: Collection[str]) -> dict[str, Any]:
    """Mesh, voxels, latents and resolution of TRELLIS.2's `run` with those patches.

    Every sampler takes guided steps and steps without guidance.
    """
    before = pipeline.sparse_structure_sampler.patches
    cuda, torch.Tensor.cuda = torch.Tensor.cuda, lambda tensor, *_, **__: tensor
    use(pipeline, names)
    sampler = {"steps": 3, "guidance_strength": 3.0, "guidance_interval": [0.8, 1.0]}
    try:
        meshes, (shape, texture, resolution) = pipeline.run(
            Image.fromarray(picture().rgb),
            seed=7,
            sparse_structure_sampler_params=sampler,
            shape_slat_sampler_params=sampler,
            tex_slat_sampler_params=sampler,
            preprocess_image=False,
            return_latent=True,
            pipeline_type=pipeline_type,
        )
    finally:
        torch.Tensor.cuda = cuda
        use(pipeline, before)
    return {
        "vertices": meshes[0].vertices,
        "faces": meshes[0].faces,
        "coords": meshes[0].coords,
        "attributes": meshes[0].attrs,
        "shape latent": shape.feats,
        "shape coords": shape.coords,
        "texture latent": texture.feats,
        "resolution": torch.tensor(resolution),
    }
