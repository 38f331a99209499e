"""The stages: calls of TRELLIS.2's pipeline for one job.

    shape           condition → structure → shape (twice in a cascade) → decode
    texture         texture → decode
    mesh_texture    condition → texture → decode, for an uploaded mesh

Shape and texture one after the other give the result of TRELLIS.2's `run(seed)` bit for bit.
TRELLIS.2 draws noise only on the CPU and in a fixed order, so it is enough to save the state
of PyTorch's CPU generator between them.

Does not know: retries, errors of the device, files.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from trellis2_server.engines.trellis2.arrays import (
    pack_signs,
    to_array,
    to_field,
    to_mesh,
    unpack_signs,
)
from trellis2_server.engines.trellis2.pipeline_types import (
    MESH_ENCODER,
    PIPELINE_TYPES,
    SHARED_MODELS,
)
from trellis2_server.engines.trellis2.progress import count_blocks
from trellis2_server.engines.trellis2.samplers import sampler_arguments
from trellis2_server.engines.trellis2.state import Trellis2State
from trellis2_server.engines.trellis2.views import conditions, is_order_of_no_effect, join
from trellis2_server.errors import EngineError
from trellis2_server.mesh import Shape

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2.loaded_model import LoadedModel
    from trellis2_server.engines.trellis2.pipeline_types import PipelineModels
    from trellis2_server.engines.trellis2.placement import ModelPlacement
    from trellis2_server.engines.trellis2.progress import StageProgress
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh, VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.request_fields import MultiImage

Tensor = Any


class Stages:
    """Stages on one loaded model. To be called within `StageRunner.running`.

    Args:
        model: loaded.
        placement: of that model.
    """

    def __init__(self, model: LoadedModel, placement: ModelPlacement) -> None:
        self._model = model
        self._placement = placement
        self._torch = model.upstream.torch

    def shape(self, cutout: Cutout, options: Options, progress: StageProgress) -> Shape:
        """Make the surface.

        Raises:
            InputError: the checkpoint's sampler does not have a requested parameter.
            EngineError: no object was found, or the checkpoint lacks a model.
        """
        pipeline, torch = self._model.pipeline, self._torch
        pipeline_type = self._pipeline_type(options.pipeline_type)
        structure_arguments = sampler_arguments(pipeline.sparse_structure_sampler, options.ss, "ss")
        shape_arguments = sampler_arguments(pipeline.shape_slat_sampler, options.shape, "shape")
        torch.manual_seed(options.seed)
        features, last_features = self._features(cutout, options, progress)
        steps = structure_arguments["steps"]
        condition = conditions(features, options.multi_image, steps, itertools.count())
        with progress.sampling(pipeline.sparse_structure_sampler, "structure", steps):
            coords = pipeline.sample_sparse_structure(
                condition, pipeline_type.structure_resolution, 1, structure_arguments
            )
        if not coords.shape[0]:
            raise EngineError("TRELLIS.2 found no object in the picture; another seed may help")
        latent, resolution = self._shape_latent(
            (features, last_features), coords, shape_arguments, options, progress
        )
        generator = torch.get_rng_state().numpy().copy()
        with progress.decoding(pipeline.models["shape_slat_decoder"]):
            meshes, subdivisions = pipeline.decode_shape_slat(latent, resolution)
        state = Trellis2State(
            pipeline_type=options.pipeline_type,
            features=to_array(latent.feats, np.float32),
            coords=to_array(latent.coords, np.int32),
            condition=to_array(last_features, np.float32),
            generator=generator,
            subdivisions=tuple(pack_signs(level.feats) for level in subdivisions),
        )
        return Shape(to_mesh(meshes[0]), int(resolution), state)

    def texture(
        self, state: Trellis2State, resolution: int, options: Options, progress: StageProgress
    ) -> VoxelField:
        """Make the material of a shape.

        Args:
            state: of the shape.
            resolution: of the shape, voxels.
            options: of the request; the pipeline type is that of the state.
            progress: of the job.

        Raises:
            InputError: the checkpoint's sampler does not have a requested parameter.
            EngineError: the checkpoint lacks a model, or the attributes are not finite.
        """
        pipeline, torch = self._model.pipeline, self._torch
        pipeline_type = self._pipeline_type(state.pipeline_type)
        arguments = sampler_arguments(pipeline.tex_slat_sampler, options.tex, "tex")
        sparse, device = self._model.upstream.sparse, pipeline.device
        condition = torch.from_numpy(state.condition).to(device)
        latent = sparse.SparseTensor(
            feats=torch.from_numpy(state.features).to(device),
            coords=torch.from_numpy(state.coords).to(device),
        )
        torch.set_rng_state(torch.from_numpy(state.generator))
        with progress.sampling(pipeline.tex_slat_sampler, "texture", arguments["steps"]):
            texture = pipeline.sample_tex_slat(
                conditions(condition, options.multi_image, arguments["steps"], itertools.count()),
                pipeline.models[pipeline_type.texture_model],
                latent,
                arguments,
            )
        # TRELLIS.2 uses only the sign of a subdivision's logits.
        guides = [
            sparse.VarLenTensor(unpack_signs(torch.from_numpy(level).to(device)))
            for level in state.subdivisions
        ]
        with progress.decoding(pipeline.models["tex_slat_decoder"]):
            voxels = pipeline.decode_tex_slat(texture, guides)
        return to_field(voxels, resolution)

    def mesh_texture(
        self,
        mesh: Mesh,
        cutout: Cutout,
        options: Options,
        resolution: int,
        progress: StageProgress,
    ) -> VoxelField:
        """Make the material of an uploaded mesh, by TRELLIS.2's texturing pipeline.

        Args:
            mesh: in the model frame, filling the cube.
            cutout: the picture.
            options: of the request.
            resolution: edge of the voxel grid, voxels.
            progress: of the job.

        Raises:
            InputError: the checkpoint's sampler does not have a requested parameter.
            EngineError: the checkpoint lacks a model, or the attributes are not finite.
        """
        texturing = self._model.texturing
        is_512 = resolution == PIPELINE_TYPES["512"].resolution
        pipeline_type = PIPELINE_TYPES["512" if is_512 else "1024"]
        if pipeline_type.texture_model not in texturing.models:
            raise EngineError(f"this checkpoint has no {pipeline_type.texture_model}")
        arguments = sampler_arguments(texturing.tex_slat_sampler, options.tex, "tex")
        texturing.low_vram = self._placement.low_vram
        encoder = texturing.models[MESH_ENCODER]
        self._torch.manual_seed(options.seed)
        advance = progress.counter("condition", count_blocks(encoder) + 2)
        pictures = _pictures(cutout, options.multi_image)
        encoded = texturing.get_cond(pictures, pipeline_type.resolution)["cond"]
        condition = conditions(
            join(encoded, options.multi_image),
            options.multi_image,
            arguments["steps"],
            itertools.count(),
        )
        advance()
        with self._placement.mesh_encoder_on_device(), progress.block_hooks(encoder, advance):
            latent = texturing.encode_shape_slat(mesh, resolution)
        advance()
        with progress.sampling(texturing.tex_slat_sampler, "texture", arguments["steps"]):
            texture = texturing.sample_tex_slat(
                condition, texturing.models[pipeline_type.texture_model], latent, arguments
            )
        with progress.decoding(texturing.models["tex_slat_decoder"]):
            voxels = texturing.decode_tex_slat(texture)
        return to_field(voxels, resolution)

    def _pipeline_type(self, name: str) -> PipelineModels:
        pipeline_type, models = PIPELINE_TYPES[name], self._model.pipeline.models
        needed = (*SHARED_MODELS, *pipeline_type.shape_models, pipeline_type.texture_model)
        missing = [model for model in needed if model not in models]
        if missing:
            raise EngineError(
                f"this checkpoint has no {missing[0]}, which pipeline_type {name} needs"
            )
        return pipeline_type

    def _features(
        self, cutout: Cutout, options: Options, progress: StageProgress
    ) -> tuple[Tensor, Tensor]:
        """Image features for the first models, and for the last shape and texture models."""
        pipeline, mode = self._model.pipeline, options.multi_image
        pictures = _pictures(cutout, mode)
        is_512 = options.pipeline_type == "512"
        progress("condition", 0, 1)
        pipeline.image_cond_model.prepare(pictures, (512,) if is_512 else (512, 1024))
        features = join(pipeline.get_cond(pictures, 512)["cond"], mode)
        last = features if is_512 else join(pipeline.get_cond(pictures, 1024)["cond"], mode)
        progress("condition", 1, 1)
        return features, last

    def _shape_latent(
        self,
        features: tuple[Tensor, Tensor],
        coords: Tensor,
        arguments: dict[str, Any],
        options: Options,
        progress: StageProgress,
    ) -> tuple[Any, int]:
        """Latent of the shape, a sparse tensor, and its resolution in voxels."""
        pipeline, pipeline_type = self._model.pipeline, PIPELINE_TYPES[options.pipeline_type]
        models = [pipeline.models[name] for name in pipeline_type.shape_models]
        steps = arguments["steps"] * len(models)
        turn = itertools.count()  # of all steps of the stage
        condition, last_condition = (
            conditions(each, options.multi_image, steps, turn) for each in features
        )
        with progress.sampling(pipeline.shape_slat_sampler, "shape", steps):
            if len(models) == 1:
                latent = pipeline.sample_shape_slat(last_condition, models[0], coords, arguments)
                return latent, pipeline_type.resolution
            with progress.cascade(pipeline.models["shape_slat_decoder"], models[1]):
                return pipeline.sample_shape_slat_cascade(
                    condition,
                    last_condition,
                    *models,
                    512,
                    pipeline_type.resolution,
                    coords,
                    arguments,
                    options.max_num_tokens,
                )


def _pictures(cutout: Cutout, mode: MultiImage) -> list[Image.Image]:
    """Pictures of the object, on black: as they came, or in an order of their own."""
    squares = [view.rgb for view in cutout.views] or [cutout.rgb]
    if is_order_of_no_effect(mode):
        squares.sort(key=lambda square: square.tobytes())
    return [Image.fromarray(square) for square in squares]
