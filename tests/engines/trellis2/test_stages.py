from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.trellis2_engine import (
    TYPES,
    edit_pipeline,
    edit_weights,
    load,
    make,
    needs_checkout,
    options,
    picture,
    pipeline_of,
    same,
    silent,
    write_checkpoint,
)
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options


def one_run(torch: Any, pipeline: Any, cutout: Cutout, requested: Options) -> Any:
    """Resolution, mesh and voxels of the same calls in one run, with no state in between."""
    sets = [
        {"steps": o.sampling_steps, "guidance_strength": o.guidance_scale}
        for o in (requested.ss, requested.shape, requested.tex)
    ]
    image = Image.fromarray(cutout.rgb)
    plan = PIPELINE_TYPES[requested.pipeline_type]
    with torch.inference_mode():
        torch.manual_seed(requested.seed)
        low, high = pipeline.get_cond([image], 512), pipeline.get_cond([image], 1024)
        last = low if requested.pipeline_type == "512" else high
        coords = pipeline.sample_sparse_structure(low, plan.structure_resolution, 1, sets[0])
        models = [pipeline.models[name] for name in plan.shape_models]
        if len(models) == 1:
            latent = pipeline.sample_shape_slat(last, models[0], coords, sets[1])
            resolution = plan.resolution
        else:
            latent, resolution = pipeline.sample_shape_slat_cascade(
                low, high, *models, 512, plan.resolution, coords, sets[1], requested.max_num_tokens
            )
        texture = pipeline.sample_tex_slat(
            last, pipeline.models[plan.texture_model], latent, sets[2]
        )
        meshes, subdivisions = pipeline.decode_shape_slat(latent, resolution)
        return resolution, meshes[0], pipeline.decode_tex_slat(texture, subdivisions)


@pytest.mark.parametrize("pipeline_type", TYPES)
def test_the_two_stages_equal_one_run_bit_for_bit(
    loaded: Trellis2Engine, torch: Any, pipeline_type: str
) -> None:
    requested = options(pipeline_type)
    shape, field = make(loaded, picture(), requested)
    resolution, mesh, voxels = one_run(torch, pipeline_of(loaded), picture(), requested)
    assert len(shape.mesh.faces) > 100
    assert shape.resolution == field.resolution == resolution
    assert np.array_equal(shape.mesh.vertices, mesh.vertices.numpy())
    assert np.array_equal(shape.mesh.faces, mesh.faces.numpy())
    assert np.array_equal(field.coords, voxels.coords[:, 1:].numpy())
    assert np.array_equal(field.attributes, voxels.feats.numpy())


@needs_checkout
@pytest.mark.parametrize("pipeline_type", TYPES)
def test_the_two_stages_equal_trellis2s_own_run(
    loaded: Trellis2Engine, torch: Any, pipeline_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stay(tensor: Any, *_: object, **__: object) -> Any:
        return tensor

    monkeypatch.setattr(torch.Tensor, "cuda", stay)
    requested = options(pipeline_type)
    shape, field = make(loaded, picture(), requested)
    keys = ("sparse_structure", "shape_slat", "tex_slat")
    whole, (_, _, resolution) = pipeline_of(loaded).run(
        Image.fromarray(picture().rgb),
        seed=requested.seed,
        **{
            f"{key}_sampler_params": {
                "steps": given.sampling_steps,
                "guidance_strength": given.guidance_scale,
            }
            for key, given in zip(keys, (requested.ss, requested.shape, requested.tex), strict=True)
        },
        preprocess_image=False,
        return_latent=True,
        pipeline_type=pipeline_type,
        max_num_tokens=requested.max_num_tokens,
    )
    # run() closes small holes at the end: rows follow after those of the voxels.
    vertices, faces = whole[0].vertices.numpy(), whole[0].faces.numpy()
    assert shape.resolution == resolution
    assert np.array_equal(shape.mesh.vertices, vertices[: len(shape.mesh.vertices)])
    assert np.array_equal(shape.mesh.faces, faces[: len(shape.mesh.faces)])
    assert np.array_equal(field.coords, whole[0].coords.numpy())
    assert np.array_equal(field.attributes, whole[0].attrs.numpy())


@needs_checkout
def test_half_precision_as_in_the_real_checkpoint_works(tmp_path: Path, torch: Any) -> None:
    made = load(write_checkpoint(tmp_path, dtype="bfloat16", use_fp16=True))
    shape, field = make(made, picture(), options("1024_cascade"))
    models = pipeline_of(made).models
    kinds = {p.dtype for p in models["shape_slat_flow_model_512"].blocks.parameters()}
    assert torch.bfloat16 in kinds
    kinds = {p.dtype for p in models["tex_slat_decoder"].blocks.parameters()}
    assert torch.float16 in kinds
    _, mesh, voxels = one_run(torch, pipeline_of(made), picture(), options("1024_cascade"))
    assert np.array_equal(shape.mesh.vertices, mesh.vertices.numpy())
    assert np.array_equal(field.attributes, voxels.feats.numpy())
    made.unload()


def test_the_seed_the_picture_and_the_sampler_change_the_result(loaded: Trellis2Engine) -> None:
    first = make(loaded, picture(), options())
    assert same(first, make(loaded, picture(), options()))
    for cutout, requested in (
        (picture(), options(seed=8)),
        (picture(90), options()),
        (picture(), options(shape_guidance_scale=3)),
        (picture(), options(shape_rescale_t=5, shape_guidance_interval=[0.1, 0.9])),
    ):
        assert not same(first, make(loaded, cutout, requested))


def test_jobs_may_take_turns_between_their_stages(loaded: Trellis2Engine) -> None:
    jobs = [(picture(), options("1024_cascade")), (picture(50), options(seed=3))]
    expected = [make(loaded, *job) for job in jobs]
    shapes = [loaded.shape(*job, silent) for job in jobs]
    fields = [
        loaded.texture(shape, *job, silent)
        for shape, job in reversed(list(zip(shapes, jobs, strict=True)))
    ]
    for one, shape, field in zip(expected, shapes, reversed(fields), strict=True):
        assert same(one, (shape, field))


def test_fewer_tokens_lower_the_resolution_and_it_is_reported(loaded: Trellis2Engine) -> None:
    tokens = 300  # below the API's minimum of 4096, which this checkpoint never reaches
    requested = replace(options("1536_cascade"), max_num_tokens=tokens)
    shape = loaded.shape(picture(), requested, silent)
    assert shape.resolution < 1536
    assert shape.resolution % 128 == 0


def test_a_checkpoint_without_a_model_serves_the_types_that_do_not_need_it(copy: Path) -> None:
    edit_pipeline(copy, lambda args: args["models"].pop("shape_slat_flow_model_1024"))
    made = load(copy)
    make(made, picture(), options("512"))
    with pytest.raises(EngineError, match="shape_slat_flow_model_1024"):
        make(made, picture(), options("1024_cascade"))


def test_a_picture_without_an_object_is_an_error(copy: Path) -> None:
    file = copy / "ckpts" / "sparse_structure_decoder.safetensors"
    edit_weights(file, lambda tensors: tensors["out_layer.2.bias"].fill_(-100))
    made = load(copy)
    with pytest.raises(EngineError, match="no object"):
        made.shape(picture(), options(), silent)
