"""TRELLIS.2's own `run` with given patches."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.support.trellis2_engine import options, picture

if TYPE_CHECKING:
    from collections.abc import Collection

SAMPLERS = ("sparse_structure_sampler", "shape_slat_sampler", "tex_slat_sampler")
#: A pipeline type → options with guided steps and a step without guidance, for each sampler.
REQUESTED = partial(
    options,
    **{
        f"{stage}_{name}": value
        for stage in ("ss", "shape", "tex")
        for name, value in {
            "sampling_steps": 3,
            "guidance_scale": 3.0,
            "guidance_rescale": 0.5,
            "guidance_interval": [0.8, 1.0],
        }.items()
    },
)


def use(pipeline: Any, names: Collection[str]) -> None:
    """Let the samplers of a pipeline use those patches."""
    for sampler in SAMPLERS:
        getattr(pipeline, sampler).patches = tuple(names)


def run(pipeline: Any, pipeline_type: str, names: Collection[str]) -> dict[str, Any]:
    """Mesh, voxels, latents and resolution of TRELLIS.2's `run` with those patches."""
    tensor: Any = importlib.import_module("torch").Tensor
    requested = REQUESTED(pipeline_type)
    before, cuda = pipeline.tex_slat_sampler.patches, tensor.cuda

    def stay(values: Any, *_: object, **__: object) -> Any:
        return values

    tensor.cuda = stay
    use(pipeline, names)
    parameters = {
        f"{key}_sampler_params": {
            "steps": given.sampling_steps,
            "guidance_strength": given.guidance_scale,
            "guidance_rescale": given.guidance_rescale,
            "guidance_interval": given.guidance_interval,
        }
        for key, given in {
            "sparse_structure": requested.ss,
            "shape_slat": requested.shape,
            "tex_slat": requested.tex,
        }.items()
    }
    try:
        meshes, (shape, texture, resolution) = pipeline.run(
            Image.fromarray(picture().rgb),
            seed=requested.seed,
            **parameters,
            preprocess_image=False,
            return_latent=True,
            pipeline_type=pipeline_type,
            max_num_tokens=requested.max_num_tokens,
        )
    finally:
        tensor.cuda = cuda
        use(pipeline, before)
    return {
        "vertices": meshes[0].vertices,
        "faces": meshes[0].faces,
        "coords": meshes[0].coords,
        "attributes": meshes[0].attrs,
        "shape latent": shape.feats,
        "shape coords": shape.coords,
        "texture latent": texture.feats,
        "resolution": meshes[0].faces.new_tensor(resolution),
    }


def same_bits(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two results are bit-identical."""
    return all(found[name].equal(values) for name, values in expected.items())
