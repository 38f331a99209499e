"""TRELLIS.2's pipeline types: the models and resolutions that each uses.

Does not know: checkpoints, memory, how models are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Name of the image encoder, which `pipeline.json` does not name as a model.
IMAGE_ENCODER: Final = "image_encoder"
#: Name of the encoder of uploaded meshes.
MESH_ENCODER: Final = "shape_slat_encoder"
#: Lowest resolution, voxels.
_LOWEST: Final = 512
#: Resolution of a cascade in voxels, below which it is not lowered.
_LOWEST_CASCADE: Final = 1024


@dataclass(frozen=True, slots=True)
class PipelineModels:
    """Models and resolutions of one pipeline type.

    Attributes:
        structure_resolution: edge of the sparse structure's grid, voxels.
        shape_models: name of the shape model; two names for a cascade.
        texture_model: name of the texture model.
        resolution: intended edge of the final grid, voxels.
        lower: pipeline type that needs less memory; None for the lowest.
    """

    structure_resolution: int
    shape_models: tuple[str, ...]
    texture_model: str
    resolution: int
    lower: str | None

    @property
    def has_token_limit(self) -> bool:
        """Whether a smaller `max_num_tokens` lowers the resolution and the memory."""
        return self.resolution > _LOWEST_CASCADE

    @property
    def shape_order(self) -> tuple[str, ...]:
        """Names of the models in the order in which the shape stage uses them."""
        images = (IMAGE_ENCODER,) if self.resolution == _LOWEST else (IMAGE_ENCODER,) * 2
        first, *second = self.shape_models
        # A cascade's decoder refines the voxels between the two models.
        flows = (first, _SHAPE_DECODER, *second) if second else (first,)
        return (*images, *_STRUCTURE, *flows, _SHAPE_DECODER)

    @property
    def texture_order(self) -> tuple[str, ...]:
        """Names of the models in the order in which the texture stage uses them."""
        return (self.texture_model, _TEXTURE_DECODER)


_SHAPE_512, _SHAPE_1024 = "shape_slat_flow_model_512", "shape_slat_flow_model_1024"
_TEXTURE_512, _TEXTURE_1024 = "tex_slat_flow_model_512", "tex_slat_flow_model_1024"
_CASCADE: Final = (_SHAPE_512, _SHAPE_1024)
_STRUCTURE: Final = ("sparse_structure_flow_model", "sparse_structure_decoder")
_SHAPE_DECODER: Final = "shape_slat_decoder"
_TEXTURE_DECODER: Final = "tex_slat_decoder"
#: Models that every pipeline type uses.
SHARED_MODELS: Final = (*_STRUCTURE, _SHAPE_DECODER, _TEXTURE_DECODER)
#: Value of `pipeline_type` → its models and resolutions.
PIPELINE_TYPES: Final = {
    "512": PipelineModels(32, (_SHAPE_512,), _TEXTURE_512, 512, None),
    "1024": PipelineModels(64, (_SHAPE_1024,), _TEXTURE_1024, 1024, "512"),
    "1024_cascade": PipelineModels(32, _CASCADE, _TEXTURE_1024, 1024, "512"),
    "1536_cascade": PipelineModels(32, _CASCADE, _TEXTURE_1024, 1536, "1024_cascade"),
}
#: All models, by their names in `pipeline.json`.
MODEL_NAMES: Final = (*SHARED_MODELS, *_CASCADE, _TEXTURE_512, _TEXTURE_1024)


def mesh_texture_order(resolution: int) -> tuple[str, ...]:
    """Names of the models in the order in which an uploaded mesh's texture uses them."""
    texture = PIPELINE_TYPES["512" if resolution == _LOWEST else "1024"].texture_order
    return (IMAGE_ENCODER, MESH_ENCODER, *texture)
