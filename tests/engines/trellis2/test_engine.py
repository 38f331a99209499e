"""The TRELLIS.2 engine, on the package that TRELLIS2_HOME names, else on the small stand-in.

The weights are random; what is tested is the way through the package, not the shapes.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trellis2_server import pipeline
from trellis2_server.engines.trellis2 import (
    Finding,
    Trellis2Engine,
    engine,
    environment,
    inspect_trellis2,
    inspection,
    loading,
    why_not,
)
from trellis2_server.engines.trellis2 import checkpoint as files
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    InputError,
    MissingPackageError,
    OutOfMemoryError,
)
from trellis2_server.inputs.images import Cutout
from trellis2_server.inputs.meshes import read_scene
from trellis2_server.mesh import Mesh
from trellis2_server.parameters import Options, read_options
from trellis2_server.settings import ExportSettings, ModelSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from trellis2_server.mesh import Shape, VoxelField

ROOT = Path(__file__).parents[3]
STANDIN = ROOT / "tests" / "support" / "standin"
HOME = Path(os.environ.get("TRELLIS2_HOME") or STANDIN)
TYPES = ("512", "1024", "1024_cascade", "1536_cascade")
#: The clone's own warnings are not ours to mend.
OF_THE_CLONE = ("ignore:invalid escape sequence", "ignore:::trellis2", "ignore:::torch")
pytestmark = [] if HOME == STANDIN else [pytest.mark.filterwarnings(f) for f in OF_THE_CLONE]
NEEDED = ("torch", "transformers", "safetensors", "easydict", "tqdm", "huggingface_hub")


@pytest.fixture(scope="session")
def packages() -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"needs torch and what goes with it: {package}")


@pytest.fixture(scope="session")
def torch(packages: None) -> Any:
    del packages
    module = importlib.import_module("torch")
    module.set_num_threads(1)  # spinning threads make small models slower
    return module


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, torch: Any) -> Path:
    del torch
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def write_checkpoint(folder: Path, **kinds: Any) -> Path:
    environment.import_upstream(settings(folder))
    return importlib.import_module("tests.support.tiny_checkpoint").write(folder, **kinds)


def settings(folder: Path | str, **more: Any) -> ModelSettings:
    return ModelSettings(
        engine="trellis2",
        model_path=str(folder),
        device="cpu",
        trellis2_path=str(HOME),
        offline=True,
        **more,
    )


def silent(stage: str, step: int, steps: int) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> Iterator[Trellis2Engine]:
    made = Trellis2Engine(settings(checkpoint))
    made.load(silent)
    yield made
    made.unload()


def picture(hue: int = 0) -> Cutout:
    rgba = np.zeros((64, 64, 4), np.uint8)
    y, x = np.mgrid[:64, :64]
    rgba[(y - 32) ** 2 + (x - 32) ** 2 < 1000] = (200, 60 + hue, 40, 255)
    rgba[:32][rgba[:32, :, 3] > 0] = (30, 90, 220 - hue, 255)
    return Cutout(rgba, "alpha")


def options(pipeline_type: str = "512", **more: Any) -> Options:
    fields = {f"{stage}_sampling_steps": 2 for stage in ("ss", "shape", "tex")}
    return read_options({"pipeline_type": pipeline_type, "seed": 7, **fields, **more}, Settings())


def make(
    made: Trellis2Engine, cutout: Cutout, asked: Options, report: Any = silent
) -> tuple[Shape, VoxelField]:
    shape = made.shape(cutout, asked, report)
    return shape, made.texture(shape, cutout, asked, report)


def same(a: tuple[Shape, VoxelField], b: tuple[Shape, VoxelField]) -> bool:
    return all(
        np.array_equal(x, y)
        for x, y in (
            (a[0].mesh.vertices, b[0].mesh.vertices),
            (a[0].mesh.faces, b[0].mesh.faces),
            (a[1].coords, b[1].coords),
            (a[1].attributes, b[1].attributes),
            (a[0].resolution, b[0].resolution),
        )
    )


def one_run(torch: Any, pipeline: Any, cutout: Cutout, asked: Options) -> Any:
    """Resolution, mesh and voxels of the same calls in one go, nothing saved in between."""
    sets = [
        {"steps": o.sampling_steps, "guidance_strength": o.guidance_scale}
        for o in (asked.ss, asked.shape, asked.tex)
    ]
    image = Image.fromarray(cutout.rgb)
    plan = engine.PLANS[asked.pipeline_type]
    with torch.inference_mode():
        torch.manual_seed(asked.seed)
        low, high = pipeline.get_cond([image], 512), pipeline.get_cond([image], 1024)
        last = low if asked.pipeline_type == "512" else high
        coords = pipeline.sample_sparse_structure(low, plan.structure_resolution, 1, sets[0])
        models = [pipeline.models[name] for name in plan.shape]
        if len(models) == 1:
            latent = pipeline.sample_shape_slat(last, models[0], coords, sets[1])
            resolution = plan.resolution
        else:
            latent, resolution = pipeline.sample_shape_slat_cascade(
                low, high, *models, 512, plan.resolution, coords, sets[1], asked.max_num_tokens
            )
        texture = pipeline.sample_tex_slat(last, pipeline.models[plan.texture], latent, sets[2])
        meshes, subdivisions = pipeline.decode_shape_slat(latent, resolution)
        return resolution, meshes[0], pipeline.decode_tex_slat(texture, subdivisions)


# ---- results -----------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline_type", TYPES)
def test_the_two_stages_equal_one_run_bit_for_bit(
    loaded: Trellis2Engine, torch: Any, pipeline_type: str
) -> None:
    asked = options(pipeline_type)
    shape, field = make(loaded, picture(), asked)
    resolution, mesh, voxels = one_run(torch, loaded._pipeline, picture(), asked)
    assert len(shape.mesh.faces) > 100
    assert shape.resolution == field.resolution == resolution
    assert np.array_equal(shape.mesh.vertices, mesh.vertices.numpy())
    assert np.array_equal(shape.mesh.faces, mesh.faces.numpy())
    assert np.array_equal(field.coords, voxels.coords[:, 1:].numpy())
    assert np.array_equal(field.attributes, voxels.feats.numpy())


@pytest.mark.skipif(HOME == STANDIN, reason="needs TRELLIS2_HOME")
@pytest.mark.parametrize("pipeline_type", TYPES)
def test_the_two_stages_equal_trellis2s_own_run(
    loaded: Trellis2Engine, torch: Any, pipeline_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stay(tensor: Any, *_: object, **__: object) -> Any:
        return tensor

    monkeypatch.setattr(torch.Tensor, "cuda", stay)
    asked = options(pipeline_type)
    shape, field = make(loaded, picture(), asked)
    keys = ("sparse_structure", "shape_slat", "tex_slat")
    whole, (_, _, resolution) = loaded._pipeline.run(
        Image.fromarray(picture().rgb),
        seed=asked.seed,
        **{
            f"{key}_sampler_params": {
                "steps": given.sampling_steps,
                "guidance_strength": given.guidance_scale,
            }
            for key, given in zip(keys, (asked.ss, asked.shape, asked.tex), strict=True)
        },
        preprocess_image=False,
        return_latent=True,
        pipeline_type=pipeline_type,
        max_num_tokens=asked.max_num_tokens,
    )
    # run() closes small holes at the end: more rows follow those of the voxels.
    vertices, faces = whole[0].vertices.numpy(), whole[0].faces.numpy()
    assert shape.resolution == resolution
    assert np.array_equal(shape.mesh.vertices, vertices[: len(shape.mesh.vertices)])
    assert np.array_equal(shape.mesh.faces, faces[: len(shape.mesh.faces)])
    assert np.array_equal(field.coords, whole[0].coords.numpy())
    assert np.array_equal(field.attributes, whole[0].attrs.numpy())


@pytest.mark.skipif(HOME == STANDIN, reason="needs TRELLIS2_HOME")
def test_half_precision_as_in_the_real_checkpoint_goes_through(tmp_path: Path, torch: Any) -> None:
    made = Trellis2Engine(settings(write_checkpoint(tmp_path, dtype="bfloat16", use_fp16=True)))
    made.load(silent)
    shape, field = make(made, picture(), options("1024_cascade"))
    models = made._pipeline.models
    kinds = {p.dtype for p in models["shape_slat_flow_model_512"].blocks.parameters()}
    assert torch.bfloat16 in kinds
    kinds = {p.dtype for p in models["tex_slat_decoder"].blocks.parameters()}
    assert torch.float16 in kinds
    _, mesh, voxels = one_run(torch, made._pipeline, picture(), options("1024_cascade"))
    assert np.array_equal(shape.mesh.vertices, mesh.vertices.numpy())
    assert np.array_equal(field.attributes, voxels.feats.numpy())
    made.unload()


def test_the_mesh_and_the_field_are_what_the_exporter_expects(loaded: Trellis2Engine) -> None:
    shape, field = make(loaded, picture(), options())
    mesh = shape.mesh
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.int32)
    assert np.abs(mesh.vertices).max() <= 0.6
    assert mesh.faces.max() < len(mesh.vertices) == len(field.coords)
    assert (field.coords.dtype, field.attributes.dtype) == (np.int32, np.float32)
    assert field.coords.min() >= 0
    assert field.coords.max() < field.resolution == 512
    assert field.attributes.shape == (len(field.coords), 6)


def test_the_seed_the_picture_and_the_sampler_change_the_result(loaded: Trellis2Engine) -> None:
    first = make(loaded, picture(), options())
    assert same(first, make(loaded, picture(), options()))
    for cutout, asked in (
        (picture(), options(seed=8)),
        (picture(90), options()),
        (picture(), options(shape_guidance_scale=3)),
        (picture(), options(shape_rescale_t=5, shape_guidance_interval=[0.1, 0.9])),
    ):
        assert not same(first, make(loaded, cutout, asked))


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


def test_what_stays_between_the_stages_is_small_and_on_the_cpu(loaded: Trellis2Engine) -> None:
    shape = loaded.shape(picture(), options("1024_cascade"), silent)
    state = shape.state
    assert isinstance(state, engine.Trellis2State)
    kept = [state.features, state.coords, state.condition, state.generator, *state.subdivisions]
    assert all(type(array) is np.ndarray and array.flags.owndata for array in kept[:4])
    assert state.nbytes == sum(array.nbytes for array in kept)
    levels = [len(bits) for bits in state.subdivisions]
    assert len(levels) == 4
    assert state.nbytes < 1000 * len(state.features) + sum(levels) + state.condition.nbytes


def test_the_process_own_random_numbers_are_left_alone(loaded: Trellis2Engine, torch: Any) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    make(loaded, picture(), options())
    assert torch.equal(before, torch.get_rng_state())


def test_fewer_tokens_lower_the_resolution_and_it_is_reported(loaded: Trellis2Engine) -> None:
    tokens = 300  # the API's least is 4096; this checkpoint never makes as many
    asked = engine.replace(options("1536_cascade"), max_num_tokens=tokens)
    shape = loaded.shape(picture(), asked, silent)
    assert shape.resolution < 1536
    assert shape.resolution % 128 == 0


# ---- progress, cancelling ----------------------------------------------------------------


class CancelledError(Exception):
    """What the worker's report may raise."""


def test_every_stage_reports_from_nothing_to_all(loaded: Trellis2Engine) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def report(stage: str, step: int, steps: int) -> None:
        seen.setdefault(stage, []).append((step, steps))

    shape = loaded.shape(picture(), options("1024_cascade"), report)
    assert list(seen) == ["condition", "structure", "shape", "decode"]
    assert seen["structure"] == [(0, 2), (1, 2), (2, 2)]
    # Between its two halves the decoder refines, which may be cancelled and is no step.
    assert list(dict.fromkeys(seen["shape"])) == [(i, 4) for i in range(5)]
    assert seen["shape"].count((2, 4)) > 4
    seen.clear()
    loaded.texture(shape, picture(), options("1024_cascade"), report)
    assert list(seen) == ["texture", "decode"]
    for stage in seen.values():
        assert stage == [(i, stage[0][1]) for i in range(stage[0][1] + 1)]


@pytest.mark.parametrize("low_vram", [False, True])
def test_a_job_cancelled_at_any_step_leaves_the_next_one_unchanged(
    loaded: Trellis2Engine, *, low_vram: bool
) -> None:
    expected = make(loaded, picture(), options())
    reports: list[str] = []
    make(loaded, picture(), options(), lambda stage, *_: reports.append(stage))
    pipeline = loaded._pipeline
    pipeline.low_vram = low_vram
    try:
        for last in range(len(reports)):
            left = iter(range(last))

            def report(stage: str, step: int, steps: int, left: Any = left) -> None:
                if next(left, None) is None:
                    raise CancelledError(f"{stage} {step} {steps}")

            with pytest.raises(CancelledError):
                make(loaded, picture(), options(seed=9), report)
            assert pipeline.models["shape_slat_decoder"].low_vram is False
            hooks = [m._forward_pre_hooks for d in pipeline.models.values() for m in d.modules()]
            assert not any(hooks)
        assert same(expected, make(loaded, picture(), options()))
    finally:
        pipeline.low_vram = False


# ---- errors ------------------------------------------------------------------------------


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "copy")


def edit_pipeline(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "pipeline.json"
    content = json.loads(file.read_text())
    change(content["args"])
    file.write_text(json.dumps(content))


def edit_weights(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = importlib.import_module("safetensors.torch")
    content = tensors.load_file(file)
    change(content)
    tensors.save_file(content, file, metadata={"format": "pt"})


def load_error(folder: Path | str, **more: Any) -> str:
    with pytest.raises(EngineError) as caught:
        Trellis2Engine(settings(folder, **more)).load(silent)
    text = str(caught.value)
    assert not isinstance(folder, Path) or str(folder) not in text
    return text


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "ckpts" / "tex_slat_decoder.safetensors").unlink()
    assert "tex_slat_decoder.safetensors" in load_error(copy)


def test_a_file_that_was_cut_short_is_named(copy: Path) -> None:
    file = copy / "ckpts" / "shape_slat_decoder.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "shape_slat_decoder.safetensors is cut short" in load_error(copy)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"version lfs"])
def test_a_file_that_is_no_safetensors_is_named(copy: Path, content: bytes) -> None:
    (copy / "ckpts" / "shape_slat_decoder.safetensors").write_bytes(content)
    assert "shape_slat_decoder.safetensors is no safetensors file" in load_error(copy)


def safetensors_bytes(shapes: dict[str, list[int]]) -> bytes:
    """A file of zeros, written by hand."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


@given(
    shapes=st.dictionaries(
        st.text("ab._é", min_size=1, max_size=8),
        st.lists(st.integers(0, 4), max_size=3),
        max_size=4,
    ),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_header_is_read_as_written_and_any_cut_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], share: float
) -> None:
    file = tmp_path_factory.mktemp("header") / "x.safetensors"
    content = safetensors_bytes(shapes)
    file.write_bytes(content)
    assert files.read_header(file) == {name: tuple(shape) for name, shape in shapes.items()}
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(EngineError, match=r"x\.safetensors"):
        files.read_header(file)


def test_a_missing_tensor_is_named_instead_of_left_random(copy: Path) -> None:
    file = copy / "ckpts" / "shape_slat_flow_model_512.safetensors"
    edit_weights(file, lambda tensors: tensors.pop("out_layer.weight"))
    assert "shape_slat_flow_model_512 lacks out_layer.weight" in load_error(copy)


def test_a_tensor_of_another_shape_is_named(copy: Path, torch: Any) -> None:
    file = copy / "ckpts" / "tex_slat_flow_model_512.safetensors"
    edit_weights(file, lambda t: t.update({"out_layer.bias": torch.zeros(3)}))
    assert "another shape of out_layer.bias" in load_error(copy)


def test_an_encoder_that_lacks_a_tensor_is_refused(copy: Path) -> None:
    edit_pipeline(
        copy, lambda args: args["image_cond_model"]["args"].update(model_name="image_encoder")
    )
    file = copy / "image_encoder" / "model.safetensors"
    lost: list[str] = []

    def change(tensors: dict[str, Any]) -> None:
        lost.append(next(key for key in tensors if "cls_token" in key))
        tensors.pop(lost[0])

    edit_weights(file, change)
    assert "the image encoder lacks embeddings.cls_token" in load_error(copy)


def test_an_encoder_that_was_cut_short_is_named(copy: Path) -> None:
    file = copy / "image_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    text = load_error(copy, image_encoder="image_encoder")
    assert text.startswith("the image encoder: ")
    assert "model.safetensors is cut short" in text


def test_tensors_that_nobody_needs_are_only_warned_of(copy: Path, torch: Any) -> None:
    file = copy / "ckpts" / "tex_slat_flow_model_512.safetensors"
    edit_weights(file, lambda t: t.update({"ema.step": torch.zeros(3)}))
    Trellis2Engine(settings(copy)).load(silent)


def test_a_pipeline_without_a_section_is_refused(copy: Path) -> None:
    edit_pipeline(copy, lambda args: args.pop("tex_slat_normalization"))
    assert "lacks tex_slat_normalization" in load_error(copy)


def test_an_unknown_class_sampler_or_encoder_is_named(copy: Path) -> None:
    edit_pipeline(copy, lambda args: args["image_cond_model"].update(name="ClipExtractor"))
    assert "'ClipExtractor'" in load_error(copy)
    edit_pipeline(copy, lambda args: args["image_cond_model"].update(name="DinoV3FeatureExtractor"))
    edit_pipeline(copy, lambda args: args["tex_slat_sampler"].update(name="Heun"))
    assert "'Heun'" in load_error(copy)
    config = copy / "ckpts" / "tex_slat_decoder.json"
    config.write_text(json.dumps({"name": "Unheard", "args": {}}))
    assert "Unheard" in load_error(copy)


def test_the_image_encoder_can_be_another_folder(copy: Path) -> None:
    edit_pipeline(
        copy, lambda args: args["image_cond_model"]["args"].update(model_name="gated/encoder")
    )
    assert "gated/encoder is not on this machine" in load_error(copy)
    Trellis2Engine(settings(copy, image_encoder="image_encoder")).load(silent)


@pytest.mark.usefixtures("packages")
def test_a_model_path_that_is_neither_folder_nor_repository_is_refused() -> None:
    assert "no folder" in load_error("nowhere")
    assert "not on this machine" in load_error("nobody/nothing-of-this-name")


def test_a_checkpoint_without_a_model_serves_the_types_that_do_not_need_it(copy: Path) -> None:
    edit_pipeline(copy, lambda args: args["models"].pop("shape_slat_flow_model_1024"))
    made = Trellis2Engine(settings(copy))
    made.load(silent)
    make(made, picture(), options("512"))
    with pytest.raises(EngineError, match="shape_slat_flow_model_1024"):
        make(made, picture(), options("1024_cascade"))


def test_a_picture_without_an_object_says_so(copy: Path) -> None:
    file = copy / "ckpts" / "sparse_structure_decoder.safetensors"
    edit_weights(file, lambda tensors: tensors["out_layer.2.bias"].fill_(-100))
    made = Trellis2Engine(settings(copy))
    made.load(silent)
    with pytest.raises(EngineError, match="no object"):
        made.shape(picture(), options(), silent)


def test_a_failure_inside_is_one_line_without_paths_and_leaves_no_trace(
    loaded: Trellis2Engine, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make(loaded, picture(), options())

    def fail(*_: object) -> None:
        raise RuntimeError("broken in /home/somebody/x.py\nTraceback: more")

    decoder = loaded._pipeline.models["tex_slat_decoder"]
    handle = decoder.register_forward_pre_hook(fail)
    with pytest.raises(EngineError, match=r"failed in decode: RuntimeError: broken in …$"):
        make(loaded, picture(), options())
    handle.remove()
    assert "x.py" in caplog.text  # where it was is for the operator
    assert "in fail" in caplog.text
    assert same(expected, make(loaded, picture(), options()))


def test_an_engine_that_is_not_loaded_says_so_and_can_be_loaded_again(checkpoint: Path) -> None:
    made = Trellis2Engine(settings(checkpoint))
    with pytest.raises(EngineError, match="not loaded"):
        made.shape(picture(), options(), silent)
    made.load(silent)
    first = make(made, picture(), options())
    made.unload()
    with pytest.raises(EngineError, match="not loaded"):
        made.shape(picture(), options(), silent)
    made.load(silent)
    assert same(first, make(made, picture(), options()))


# ---- memory ------------------------------------------------------------------------------


def out_of_memory(torch: Any, pipeline: Any, name: str, times: int) -> Any:
    """The model fails so many times for want of memory."""
    left = iter(range(times))

    def fail(*_: object) -> None:
        if next(left, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return pipeline.models[name].register_forward_pre_hook(fail)


def test_a_job_out_of_memory_is_tried_again_with_less(loaded: Trellis2Engine, torch: Any) -> None:
    seen: list[tuple[str, int, int]] = []
    lower = make(loaded, picture(), options("512"))
    handle = out_of_memory(torch, loaded._pipeline, "shape_slat_flow_model_1024", 99)
    try:
        asked = options("1024_cascade")
        shape = loaded.shape(picture(), asked, lambda *report: seen.append(report))
        field = loaded.texture(shape, picture(), asked, silent)
    finally:
        handle.remove()
    assert same(lower, (shape, field))
    assert ("retry", 1, 1) in seen
    assert isinstance(shape.state, engine.Trellis2State)
    assert shape.warnings == ("out of memory with 1024_cascade; tried again with 512",)


class Elsewhere(Trellis2Engine):
    """Believes that it is on a GPU; its tensors are on the CPU all the same."""

    def _may_save_memory(self, pipeline: Any) -> bool:
        return not pipeline.low_vram


def test_out_of_memory_first_moves_models_one_at_a_time_which_changes_no_result(
    checkpoint: Path, torch: Any
) -> None:
    made = Elsewhere(settings(checkpoint), oom_fallback="none")
    made.load(silent)
    pipeline = made._pipeline
    expected = make(made, picture(), options("1024_cascade"))
    for name in ("shape_slat_decoder", "tex_slat_flow_model_1024"):
        pipeline.low_vram = False
        handle = out_of_memory(torch, pipeline, name, 1)
        assert same(expected, make(made, picture(), options("1024_cascade")))
        assert pipeline.low_vram is True
        handle.remove()


def test_a_job_that_stays_out_of_memory_says_so(checkpoint: Path, torch: Any) -> None:
    made = Trellis2Engine(settings(checkpoint), oom_fallback="none")
    made.load(silent)
    handle = out_of_memory(torch, made._pipeline, "sparse_structure_flow_model", 1)
    with pytest.raises(OutOfMemoryError, match="ran out of memory in structure"):
        made.shape(picture(), options("1024_cascade"), silent)
    handle.remove()
    make(made, picture(), options())


def test_the_retries_go_from_fewer_tokens_to_lower_types() -> None:
    asked = options("1536_cascade", max_num_tokens=65_536)
    ladder = [(o.pipeline_type, o.max_num_tokens) for o in engine._attempts(asked, "resolution")]
    assert ladder == [
        ("1536_cascade", 49_152),
        ("1536_cascade", 36_864),
        ("1536_cascade", 27_648),
        ("1536_cascade", 24_576),
        ("1024_cascade", 65_536),
        ("512", 65_536),
    ]
    assert len(list(engine._attempts(asked, "tokens"))) == 4
    assert not list(engine._attempts(asked, "none"))
    assert not list(engine._attempts(options("512"), "resolution"))


def test_a_limit_that_changes_nothing_is_not_tried(
    loaded: Trellis2Engine, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options("1536_cascade", max_num_tokens=65_536)
    expected = make(loaded, picture(), options("1024_cascade", max_num_tokens=65_536))
    for name in ("shape_slat_decoder", "shape_slat_flow_model_1024"):
        handle = out_of_memory(torch, loaded._pipeline, name, 1)
        shape = loaded.shape(picture(), asked, silent)
        handle.remove()
        assert shape.warnings == (
            "out of memory with 1536_cascade and 65536 tokens; tried again with 1024_cascade",
        )
        assert same(expected, (shape, loaded.texture(shape, picture(), asked, silent)))
    # One that there are more tokens than is.
    tokens = len(loaded.shape(picture(), asked, silent).state.features)
    monkeypatch.setattr(engine, "MIN_TOKENS", tokens // 2)
    handle = out_of_memory(torch, loaded._pipeline, "shape_slat_flow_model_1024", 1)
    shape = loaded.shape(picture(), asked, silent)
    handle.remove()
    (warning,) = shape.warnings
    assert "tried again with 1536_cascade and " in warning
    assert tokens // 2 <= int(warning.split()[-2]) <= tokens
    assert 1024 <= shape.resolution < 1536


def live_tensors(torch: Any) -> int:
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def held_tensors(torch: Any) -> int:
    """Those that are in use, and those that only a search for garbage would find."""
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_job_that_ends_early_holds_nothing_once_its_error_is_gone(
    loaded: Trellis2Engine, torch: Any, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    monkeypatch.setattr(engine.logger, "disabled", True)  # pytest keeps what is logged
    make(loaded, picture(), options())
    before = live_tensors(torch)

    def report(stage: str, step: int, steps: int) -> None:
        if is_cancelled and (stage, step) == ("decode", 3):
            raise CancelledError(f"{stage} {step} {steps}")

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    block = loaded._pipeline.models["shape_slat_decoder"].blocks[1][0]
    handle = None if is_cancelled else block.register_forward_pre_hook(fail)
    gc.disable()
    try:
        with contextlib.suppress(CancelledError, EngineError):
            loaded.shape(picture(), options(), report)
            pytest.fail("the job went through")
        assert held_tensors(torch) == before
        try:
            loaded.shape(picture(), options(), report)
        except (CancelledError, EngineError):
            # What PyTorch's call of the module keeps: its one argument.
            assert held_tensors(torch) <= before + 3
    finally:
        gc.enable()
        if handle is not None:
            handle.remove()


def test_fifty_jobs_leave_nothing_behind(loaded: Trellis2Engine, torch: Any) -> None:
    make(loaded, picture(), options())
    before = live_tensors(torch)
    for seed in range(50):
        make(loaded, picture(), options(seed=seed))
    assert live_tensors(torch) == before


# ---- around it ---------------------------------------------------------------------------


def test_the_encoder_gives_the_last_layer_before_the_norm(checkpoint: Path, torch: Any) -> None:
    encoder_module = importlib.import_module("trellis2_server.engines.trellis2.encoder")
    transformers = importlib.import_module("transformers")
    encoder = encoder_module.ImageEncoder(str(checkpoint / "image_encoder"))
    encoder.image_size = 64
    image = Image.fromarray(picture().rgb)
    model = transformers.DINOv3ViTModel.from_pretrained(checkpoint / "image_encoder").eval()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    pixels = (pixels - mean) / std
    with torch.no_grad():
        hidden = model.embeddings(pixels)
        rope = model.rope_embeddings(pixels)
        for layer in getattr(model, "layer", None) or model.model.layer:
            hidden = layer(hidden, position_embeddings=rope)
        expected = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:])
        assert torch.equal(encoder([image]), expected)
    assert encoder([image]).shape == (1, 1 + 4 + 16, 32)


def test_a_sampler_parameter_that_the_sampler_lacks_is_refused(torch: Any) -> None:
    del torch
    samplers = importlib.import_module("trellis2.pipelines").samplers
    plain = loading._watched(samplers.FlowEulerSampler)(sigma_min=1e-5)
    assert loading.supported_parameters(plain) == {"steps", "rescale_t"}
    given = options(tex_guidance_interval=[0.2, 0.8]).tex
    with pytest.raises(InputError, match="tex_guidance_interval"):
        Trellis2Engine._parameters(plain, given, "tex")
    full = loading._watched(samplers.FlowEulerGuidanceIntervalSampler)(sigma_min=1e-5)
    assert Trellis2Engine._parameters(full, given, "tex") == {
        "steps": 2,
        "guidance_strength": 1.0,
        "guidance_interval": (0.2, 0.8),
    }


def test_why_not_names_the_first_thing_that_is_missing(tmp_path: Path) -> None:
    def why(**changes: Any) -> str:
        return why_not(settings("x").model_copy(update=changes)) or ""

    assert "is the CPU" in why()
    assert "model.trellis2_path: no checkout" in why(device="cuda", trellis2_path=str(tmp_path))


def test_a_device_that_is_not_there_is_named(torch: Any) -> None:
    if not torch.cuda.is_available():
        missing = settings("x").model_copy(update={"device": "cuda"})
        assert "finds no cuda device" in (why_not(missing) or "")
    with pytest.raises(EngineError, match=r"model\.device"):
        environment.import_upstream(settings("x").model_copy(update={"device": "cuda:99"}))


@pytest.mark.usefixtures("packages")
def test_pytorch_is_not_imported_to_say_that_it_has_no_gpu() -> None:
    code = f"""
import sys
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import environment, why_not
import importlib.util
why = why_not(ModelSettings(device="cuda:97", trellis2_path={str(HOME)!r}))
assert "cuda" in why, why
assert "torch" not in sys.modules
import torch
assert torch.cuda.is_available() or "finds no cuda device" in why, why
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\n", "built without CUDA"),
        (
            "__version__ = '2.9.0'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n",
            "driver",
        ),
        ("__version__ = '2.9.0'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", ""),
    ],
)
def test_the_build_of_pytorch_is_read_from_its_files(
    tmp_path: Path, version: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('too slow')")
    (tmp_path / "torch" / "version.py").write_text(version)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    counts = {"": 0} if says else {"": 2}
    monkeypatch.setattr(environment, "_count_cuda", lambda: counts[""])
    monkeypatch.setattr(environment, "_count_rocm", lambda: counts[""])
    why = environment._missing_build("cuda") or ""
    assert says in why
    assert bool(why) is bool(says)


def test_a_missing_checkout_names_what_to_do(tmp_path: Path) -> None:
    made = Trellis2Engine(settings("x").model_copy(update={"trellis2_path": str(tmp_path)}))
    with pytest.raises(MissingPackageError, match="git clone"):
        made.load(silent)


def test_nothing_heavy_is_imported_to_say_why_not() -> None:
    code = """
import sys
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import Trellis2Engine, why_not
assert "git clone" in why_not(ModelSettings(device="cuda", trellis2_path="nowhere"))
assert why_not(ModelSettings(device="cpu"))
Trellis2Engine(ModelSettings())
heavy = {"torch", "transformers", "trellis2", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_description_is_plain_json(loaded: Trellis2Engine) -> None:
    said = json.loads(json.dumps(loaded.describe()))
    assert said["device"] == "cpu"
    assert set(said["extensions"]) == {"flash_attn", "flex_gemm", "o_voxel", "cumesh"}
    assert said["low_vram"] is False


def test_only_an_inspection_that_is_told_to_asks_the_network(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    elsewhere = settings("some/model").model_copy(update={"offline": False})
    loaded.describe()
    inspect_trellis2(elsewhere)
    assert not asked
    inspect_trellis2(elsewhere, ask_network=True)
    assert asked


def levels(found: list[Finding]) -> dict[str, set[str]]:
    return {f.what: {g.level for g in found if g.what == f.what} for f in found}


def test_an_inspection_of_a_whole_checkpoint_finds_no_error(checkpoint: Path) -> None:
    found = inspect_trellis2(settings(checkpoint))
    assert levels(found) == {
        "packages": {"ok"},
        "trellis2": {"ok"},
        "device": {"warning"},
        "extensions": {"warning"},
        "checkpoint": {"ok"},
    }
    assert "8 models" in found[-1].text
    assert "every tensor is there" in found[-1].text


def test_an_inspection_goes_on_after_the_first_error(copy: Path, tmp_path: Path) -> None:
    edit_weights(
        copy / "ckpts" / "tex_slat_decoder.safetensors", lambda t: t.pop("output_layer.bias")
    )
    found = inspect_trellis2(settings(copy).model_copy(update={"device": "cuda:99"}))
    assert levels(found)["device"] == {"error"}
    assert found[-1] == Finding("checkpoint", "error", found[-1].text)
    assert "lacks output_layer.bias" in found[-1].text
    found = inspect_trellis2(
        settings("nobody/nothing").model_copy(update={"trellis2_path": str(tmp_path)})
    )
    assert levels(found)["trellis2"] == {"error"}
    assert "not on this machine" in found[-1].text
    online = settings("nobody/nothing", background="upstream").model_copy(update={"offline": False})
    found = inspect_trellis2(online)
    assert levels(found)["checkpoint"] == {"warning"}
    assert [f.text for f in found if f.what in {"encoder", "background"}] == [
        "whether facebook/dinov3-vitl16-pretrain-lvd1689m is gated was not asked",
        "whether briaai/RMBG-2.0 is gated was not asked",
    ]


def test_an_inspection_says_that_given_meshes_are_refused(copy: Path) -> None:
    (copy / "texturing_pipeline.json").unlink()
    found = inspect_trellis2(settings(copy))
    assert "it has no shape_slat_encoder: given meshes are refused" in [f.text for f in found]


def test_the_check_ends_with_what_comes_of_it(copy: Path, tmp_path: Path) -> None:
    def check(device: str) -> tuple[int, list[str], str]:
        model = settings(copy).model_copy(update={"device": device})
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"model": model.model_dump()}))
        run = subprocess.run(
            [sys.executable, ROOT / "api_server_trellis2.py", "--config", config, "--check"],
            check=False,
            capture_output=True,
            text=True,
        )
        return run.returncode, run.stdout.splitlines(), run.stderr

    code, lines, errors = check("cpu")
    assert (code, lines[-1].split(None, 1)[1]) == (0, "it can be started")
    assert "stand-in" not in errors
    assert not any(line.startswith("[") for line in lines)
    code, lines, _ = check("cuda:99")
    assert (code, lines[-1].split(None, 1)[1]) == (1, "it will not start: 1 error(s) above")


@pytest.mark.parametrize(
    ("capability", "made_for", "fits"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 0), ["sm_120a"], True),
        ((7, 5), ["sm_80"], False),
    ],
)
def test_kernels_run_on_later_minor_versions_and_ptx_on_all_later_ones(
    capability: tuple[int, int], made_for: list[str], *, fits: bool
) -> None:
    assert inspection._has_kernels(*capability, made_for) is fits


FIND = """
import json
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import checkpoint, engine, inspect_trellis2
from trellis2_server.errors import EngineError
settings = ModelSettings(
    engine="trellis2", model_path="some/model", device="cpu", trellis2_path={home!r}, **{more!r})
reports = []
try:
    if {inspects!r}:
        found = inspect_trellis2(settings, ask_network=True)
        said = [[f.what, f.level, f.text] for f in found if f.what in ("checkpoint", "encoder")]
    else:
        found = checkpoint.find(settings, engine.MODELS, lambda *report: reports.append(report))
        said = [str(m.weights) for m in found.models] + [found.encoder]
except EngineError as error:
    said = str(error)
print(json.dumps({{"said": said, "reports": reports}}))
"""


class OtherMachine:
    """A process with a Hub's cache of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.cache = folder / "cache"
        self._environ = {**os.environ, "HF_HUB_CACHE": str(self.cache), "HF_ENDPOINT": url}
        self._environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            self._environ.pop(name, None)

    def find(self, *, inspects: bool = False, **more: Any) -> tuple[Any, list[list[Any]]]:
        code = FIND.format(home=str(HOME), more=more, inspects=inspects)
        run = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            env=self._environ,
            cwd=ROOT,
        )
        assert run.returncode == 0, run.stderr
        answer = json.loads(run.stdout.splitlines()[-1])
        return answer["said"], answer["reports"]


@pytest.fixture
def hub(copy: Path) -> Iterator[Any]:
    """The checkpoint as three repositories: one model and the encoder are others'."""
    encoder, decoder = copy.parent / "encoder", copy.parent / "decoder"
    shutil.move(copy / "image_encoder", encoder)
    name = "sparse_structure_decoder"
    decoder.mkdir()
    for suffix in (".json", ".safetensors"):
        (decoder / "ckpts").mkdir(exist_ok=True)
        shutil.move(copy / "ckpts" / (name + suffix), decoder / "ckpts")

    def change(args: dict[str, Any]) -> None:
        args["image_cond_model"]["args"]["model_name"] = "gated/encoder"
        args["models"][name] = f"other/decoder/ckpts/{name}"

    edit_pipeline(copy, change)
    module = importlib.import_module("tests.support.hub")
    repositories = {"some/model": copy, "other/decoder": decoder, "gated/encoder": encoder}
    with module.serve(repositories) as server:
        yield server


def test_a_checkpoint_is_downloaded_once_and_then_found_offline(hub: Any, tmp_path: Path) -> None:
    machine = OtherMachine(tmp_path, hub.url)
    assert "not on this machine" in machine.find(offline=True)[0]
    found, reports = machine.find()
    assert len(found) == 9
    assert all(str(machine.cache) in path for path in found)
    stages = [report[0] for report in reports]
    assert set(stages) == {"download"}
    assert len(stages) == 2 + 2 * 9 + 1
    assert reports[-1][1] == reports[-1][2] >= 1
    assert [r[1] for r in reports] == sorted(r[1] for r in reports)
    asked = len(hub.asked)
    assert machine.find(offline=True)[0] == found
    assert machine.find(revision="c" * 40, offline=True)[0] == found
    assert len(hub.asked) == asked
    assert "not on this machine" in machine.find(revision="b" * 40, offline=True)[0]
    assert "no such revision (model.revision)" in machine.find(revision="b" * 40)[0]


def test_a_gated_encoder_is_named_before_any_weights_are_downloaded(
    hub: Any, tmp_path: Path
) -> None:
    hub.gated.add("gated/encoder")
    machine = OtherMachine(tmp_path, hub.url)
    text, _ = machine.find()
    assert "gated/encoder is gated: accept its terms at" in text
    assert not any("safetensors" in request for request in hub.asked if "resolve" in request)
    findings, _ = machine.find(inspects=True)
    assert ["encoder", "error"] in [finding[:2] for finding in findings]
    hub.folders["free/encoder"] = hub.folders["gated/encoder"]
    found, _ = machine.find(image_encoder="free/encoder")
    assert "free--encoder" in found[-1]


@pytest.mark.usefixtures("packages")
def test_a_large_file_reports_while_it_comes_and_may_be_cancelled() -> None:
    seen: list[tuple[str, int, int]] = []

    def report(stage: str, step: int, steps: int) -> None:
        seen.append((stage, step, steps))
        if step > 40:
            raise CancelledError

    progress = files._Bytes(report, 100)
    with progress.bar()(total=100 * 2**20, name="x") as bar:
        for _ in range(9):
            bar.update(4 * 2**20)
        assert seen == [("download", 16, 100), ("download", 32, 100)]
        with pytest.raises(CancelledError) as caught:
            bar.update(20 * 2**20)
    assert progress.raised is caught.value


def test_what_the_hub_does_not_have_is_named(hub: Any, tmp_path: Path) -> None:
    machine = OtherMachine(tmp_path, hub.url)
    (hub.folders["other/decoder"] / "ckpts" / "sparse_structure_decoder.safetensors").unlink()
    assert "other/decoder lacks a file" in machine.find()[0]
    del hub.folders["other/decoder"]
    assert "the Hugging Face Hub has no other/decoder" in machine.find()[0]


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        (401, "Invalid credentials in Authorization header", "does not know this machine's token"),
        (403, "Please enable access to public gated repositories", "give the token access"),
        (503, "", "the Hub answered 503"),
    ],
)
def test_what_the_hub_says_of_a_token_becomes_what_to_do(
    hub: Any, tmp_path: Path, code: int, message: str, says: str
) -> None:
    machine = OtherMachine(tmp_path, hub.url)
    hub.refused["gated/encoder"] = (code, message)
    text, _ = machine.find()
    assert text.startswith("gated/encoder could not be downloaded: ")
    assert says in text
    findings, _ = machine.find(inspects=True)
    assert isinstance(findings, list)
    errors = [(what, text) for what, level, text in findings if level == "error"]
    assert [what for what, _ in errors] == ["checkpoint", "encoder"]
    assert all(says in text for _, text in errors)


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_cause(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs torch and what goes with it")
    text, _ = OtherMachine(tmp_path, "http://127.0.0.1:9").find()
    assert text.startswith("some/model could not be downloaded: ")
    assert "is the Hub reachable from here?" in text


SIGNATURES = """
import inspect, json, sys
sys.path[:0] = [{root!r}, {home!r}]
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import environment
up = environment.import_upstream(ModelSettings(device="cpu", trellis2_path={home!r}))
def names(f):
    return [p.name for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_KEYWORD]
P = up.pipeline
found = {{m: names(getattr(P, m)) for m in (
    "__init__", "to", "get_cond", "sample_sparse_structure", "sample_shape_slat",
    "sample_shape_slat_cascade", "decode_shape_slat", "sample_tex_slat", "decode_tex_slat")}}
for s in ("FlowEulerSampler", "FlowEulerGuidanceIntervalSampler"):
    for m in ("sample", "sample_once"):
        found[s + "." + m] = names(getattr(getattr(up.samplers, s), m))
found["upsample"] = names(up.models.SparseUnetVaeDecoder.upsample)
found["decode"] = names(up.models.SparseUnetVaeDecoder.forward)
T = environment.import_texturing()
for m in ("__init__", "to", "get_cond", "encode_shape_slat", "sample_tex_slat", "decode_tex_slat"):
    found["T." + m] = names(getattr(T, m))
found["encode"] = names(up.models.FlexiDualGridVaeEncoder.forward)
found["VarLenTensor"] = names(up.sparse.VarLenTensor.__init__)
print(json.dumps(found))
"""


@pytest.mark.skipif(HOME == STANDIN, reason="needs TRELLIS2_HOME")
def test_the_stand_in_has_the_signatures_of_the_real_package() -> None:
    def signatures(home: Path) -> Any:
        code = SIGNATURES.format(root=str(ROOT), home=str(home))
        environ = {k: v for k, v in os.environ.items() if k != "TRELLIS2_HOME"}
        run = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environ
        )
        return json.loads(run.stdout.splitlines()[-1])

    assert signatures(STANDIN) == signatures(HOME)


# ---- given meshes ------------------------------------------------------------------------


def cone() -> Mesh:
    """A closed surface, small so that it has few voxels, in the model frame."""
    angle = np.arange(24) * np.pi / 12 + 0.05
    ring = np.stack([0.48 * np.cos(angle), 0.48 * np.sin(angle), np.full(24, -0.49)], axis=1)
    vertices = np.concatenate([ring, [[0, 0, 0.49], [0, 0, -0.49]]]).astype(np.float32) * 0.09
    i, j = np.arange(24), np.roll(np.arange(24), -1)
    sides = np.stack([i, j, np.full(24, 24)], axis=1)
    floor = np.stack([j, i, np.full(24, 25)], axis=1)
    return Mesh(vertices, np.concatenate([sides, floor]).astype(np.int32))


def test_a_given_mesh_is_textured_at_the_resolution_of_its_type(loaded: Trellis2Engine) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def report(stage: str, step: int, steps: int) -> None:
        seen.setdefault(stage, []).append((step, steps))

    fields = [
        loaded.texture_mesh(cone(), picture(), options(kind), report)
        for kind in ("512", "1024_cascade")
    ]
    assert [field.resolution for field in fields] == [512, 1024]
    assert 3 < len(fields[1].coords) / len(fields[0].coords) < 5
    assert list(seen) == ["condition", "texture", "decode"]
    for stage in seen.values():
        assert stage[: len(stage) // 2] == [(i, stage[0][1]) for i in range(stage[0][1] + 1)]
    centres = (fields[0].coords + 0.5) / 512 - 0.5
    away = 0.98 * np.hypot(*centres.T[:2]) + 0.48 * (centres[:, 2] - 0.49 * 0.09)
    on_floor = np.abs(centres[:, 2] + 0.49 * 0.09) < 2 / 512
    assert (on_floor | (np.abs(away) < 3 / 512)).all()
    assert fields[0].attributes.shape == (len(fields[0].coords), 6)


def test_a_given_mesh_gets_the_same_texture_after_cancels_and_other_jobs(
    loaded: Trellis2Engine,
) -> None:
    reports: list[str] = []
    first = loaded.texture_mesh(
        cone(), picture(), options(), lambda stage, *_: reports.append(stage)
    )
    other = loaded.texture_mesh(cone(), picture(90), options(seed=8), silent)
    assert not np.array_equal(first.attributes, other.attributes)
    for last in range(0, len(reports), 1 if HOME == STANDIN else 5):
        left = iter(range(last))

        def report(stage: str, step: int, steps: int, left: Any = left) -> None:
            if next(left, None) is None:
                raise CancelledError(f"{stage} {step} {steps}")

        with pytest.raises(CancelledError):
            loaded.texture_mesh(cone(), picture(), options(seed=9), report)
        hooks = [m._forward_pre_hooks for m in loaded._texturing.models.values()]
        assert not any(hooks)
    make(loaded, picture(), options())
    again = loaded.texture_mesh(cone(), picture(), options(), silent)
    assert np.array_equal(first.coords, again.coords)
    assert np.array_equal(first.attributes, again.attributes)


@pytest.mark.skipif(HOME == STANDIN, reason="needs TRELLIS2_HOME")
@pytest.mark.parametrize("pipeline_type", ["512", "1024_cascade"])
def test_a_given_mesh_gets_what_trellis2s_own_run_gives(
    loaded: Trellis2Engine, pipeline_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimesh = pytest.importorskip("trimesh", reason="TRELLIS.2's own run takes its meshes")
    asked, mesh = options(pipeline_type), cone()
    field = loaded.texture_mesh(mesh, picture(), asked, silent)
    pipeline = loaded._texturing
    # It turns the mesh from Y up to Z up itself, and what it made is looked at before the GLB.
    x, y, z = mesh.vertices.astype(np.float64).T
    module = sys.modules["trellis2.pipelines.trellis2_texturing"]
    monkeypatch.setattr(module, "trimesh", trimesh)
    monkeypatch.setattr(type(pipeline), "postprocess_mesh", lambda *args: args[2])
    monkeypatch.setattr(type(pipeline), "preprocess_mesh", lambda _, given: given)
    voxels = pipeline.run(
        trimesh.Trimesh(np.stack([x, y, z], axis=1), mesh.faces, process=False),
        Image.fromarray(picture().rgb),
        seed=asked.seed,
        tex_slat_sampler_params={
            "steps": asked.tex.sampling_steps,
            "guidance_strength": asked.tex.guidance_scale,
        },
        preprocess_image=False,
        resolution=field.resolution,
    )
    assert np.array_equal(field.coords, voxels.coords[:, 1:].numpy())
    assert np.array_equal(field.attributes, voxels.feats.numpy())


def test_a_given_mesh_out_of_memory_is_textured_at_a_lower_resolution(
    loaded: Trellis2Engine, torch: Any
) -> None:
    handle = out_of_memory(torch, loaded._pipeline, "tex_slat_flow_model_1024", 99)
    try:
        field = loaded.texture_mesh(cone(), picture(), options("1536_cascade"), silent)
    finally:
        handle.remove()
    assert field.resolution == 512
    assert field.warnings == (
        "out of memory with 1536 voxels along an edge; tried again with 1024",
        "out of memory with 1024 voxels along an edge; tried again with 512",
    )
    handle = out_of_memory(torch, loaded._pipeline, "tex_slat_flow_model_512", 99)
    with pytest.raises(OutOfMemoryError):
        loaded.texture_mesh(cone(), picture(), options("512"), silent)
    handle.remove()


def test_a_given_mesh_is_refused_with_what_is_missing(copy: Path) -> None:
    (copy / "texturing_pipeline.json").unlink()
    made = Trellis2Engine(settings(copy))
    made.load(silent)
    make(made, picture(), options())
    with pytest.raises(InputError, match=r"^mesh: .* has no shape_slat_encoder"):
        made.texture_mesh(cone(), picture(), options(), silent)
    made.unload()


def test_what_only_trellis2s_glbs_need_is_not_left_behind(loaded: Trellis2Engine) -> None:
    del loaded
    for package in ("nvdiffrast", "nvdiffrast.torch", "trimesh"):
        module = sys.modules.get(package)
        assert module is None or module.__doc__ != "Not installed."


# ---- TRELLIS.2's own exporter and remover --------------------------------------------------


def test_trellis2s_own_exporter_gives_the_same_frame_and_says_whose_it_is(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trimesh", reason="TRELLIS.2's exporter makes its files with it")
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.setitem(sys.modules, "o_voxel.postprocess", importlib.import_module("to_glb"))
    asked = options(decimation_target=20_000, texture_size=512, texture_format="png")
    shape, field = make(loaded, picture(), asked)
    geometry, _ = pipeline.export_shape(loaded, shape, asked, silent)
    boxes: list[NDArray[np.float32]] = []
    for backend in ("own", "upstream"):
        glb = pipeline.export_model(
            loaded, geometry, field, asked, ExportSettings(backend=backend), silent
        )
        asset = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])["asset"]
        assert asset["generator"].startswith("trellis2-server")
        assert asset["extras"].get("exporter", "own") == backend
        assert asset["extras"]["seed"] == 7
        points = np.concatenate([part.positions for part in read_scene(glb).parts])
        boxes.append(np.stack([points.min(axis=0), points.max(axis=0)]))
    assert np.abs(boxes[0] - boxes[1]).max() < 2 / shape.resolution
    assert loaded.texture(shape, picture(), asked, silent).attributes.tobytes() == (
        field.attributes.tobytes()
    )


def test_a_missing_exporter_stops_the_load_by_name(checkpoint: Path) -> None:
    made = Trellis2Engine(settings(checkpoint), exports=True)
    with pytest.raises(MissingPackageError, match=r"export\.backend: .*compiled o_voxel, cumesh"):
        made.load(silent)
    found = inspect_trellis2(settings(checkpoint), exports=True)
    assert [f.level for f in found if f.what == "export"] == ["error"]


def test_an_exporter_is_found_where_all_of_it_is_there(tmp_path: Path) -> None:
    for package in ("o_voxel", "cumesh", "flex_gemm", "nvdiffrast", "trimesh", "cv2"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "o_voxel" / "postprocess.py").write_text("import nvdiffrast.torch\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines.trellis2 import upstream_glb
print(upstream_glb.lacking())
"""

    def lacking() -> str:
        run = [sys.executable, "-B", "-c", code]
        return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()

    assert "does not import: ModuleNotFoundError: No module named 'nvdiffrast.torch'" in lacking()
    (tmp_path / "nvdiffrast" / "torch.py").write_text("")
    assert lacking() == "None"
    shutil.rmtree(tmp_path / "cumesh")
    shutil.rmtree(tmp_path / "nvdiffrast")
    assert "not installed: cumesh, nvdiffrast" in lacking()


def with_remover(folder: Path) -> Settings:
    """With a remover whose files are on this machine, as far as anybody looks."""
    edit_pipeline(folder, lambda args: args["rembg_model"]["args"].update(model_name=str(folder)))
    return Settings(model=settings(folder, background="upstream"))


@pytest.mark.skipif(HOME != STANDIN, reason="TRELLIS.2's own remover runs on CUDA alone")
@pytest.mark.parametrize("low_vram", [False, True])
def test_trellis2s_own_remover_cuts_out_where_it_is_asked_for(
    copy: Path, *, low_vram: bool
) -> None:
    whole = with_remover(copy)
    made = Trellis2Engine(whole.model.model_copy(update={"low_vram": low_vram}))
    made.load(silent)
    image = Image.new("RGB", (90, 60), (9, 200, 9))
    image.paste((200, 10, 10), (30, 20, 60, 50))
    file = io.BytesIO()
    image.save(file, "PNG")
    cutout = pipeline.make_cutter(made, whole).cut_out(file.getvalue())
    assert cutout.background == "upstream"
    assert cutout.rgba.shape[:2] == (30, 30)
    assert cutout.rgba[..., 3].min() == 255
    make(made, cutout, options())
    made.unload()


def test_nothing_of_trellis2s_remover_is_loaded_unless_it_is_asked_for(
    loaded: Trellis2Engine,
) -> None:
    assert loaded._remover is None
    assert pipeline.make_cutter(loaded, Settings(model=settings("x")))._remover is None
    with pytest.raises(EngineError, match="not loaded"):
        loaded.remove_background(np.zeros((9, 9, 3), np.uint8))


def test_a_gated_remover_is_named_before_any_weights_are_downloaded(
    hub: Any, tmp_path: Path
) -> None:
    hub.folders["briaai/RMBG-2.0"] = hub.folders["gated/encoder"]
    hub.gated.add("briaai/RMBG-2.0")
    text, _ = OtherMachine(tmp_path, hub.url).find(background="upstream")
    assert "briaai/RMBG-2.0 is gated: accept its terms at" in text
    assert "model.background to rembg" in text
    assert not any("safetensors" in request for request in hub.asked)


# ---- errors that do not pass -------------------------------------------------------------

LOST = (
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unknown error\nSearch for `cudaErrorUnknown' in https://docs.nvidia.com",
    "HIP error: an illegal memory access was encountered",
)


@pytest.mark.parametrize("text", LOST)
@pytest.mark.parametrize("kind", ["AcceleratorError", "RuntimeError"])
def test_an_error_that_the_device_keeps_breaks_the_engine_for_good(
    loaded: Trellis2Engine, torch: Any, kind: str, text: str
) -> None:
    raised = getattr(torch, kind, None) or RuntimeError

    def fail(*_: object) -> None:
        raise raised(text)

    pipeline = loaded._pipeline
    handle = pipeline.models["shape_slat_decoder"].register_forward_pre_hook(fail)
    try:
        with pytest.raises(EngineBrokenError, match=r"for good in decode: .*must be started again"):
            loaded.shape(picture(), options(), silent)
        handle.remove()
        for call in (
            lambda: loaded.shape(picture(), options(), silent),
            lambda: loaded.texture_mesh(cone(), picture(), options(), silent),
        ):
            with pytest.raises(EngineBrokenError, match="for good"):
                call()
        assert loaded.device_memory() == {}
        assert "vram_used_mb" not in loaded.describe()
    finally:
        handle.remove()
        loaded._broken = None


def test_a_device_that_cannot_be_tidied_up_breaks_the_engine_for_good(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(stage: str, step: int, steps: int) -> None:
        if stage == "shape":
            raise CancelledError(f"{stage} {step} {steps}")

    def fail() -> None:
        raise RuntimeError("CUDA error: something new")

    pipeline = loaded._pipeline
    monkeypatch.setattr(pipeline, "low_vram", True)
    monkeypatch.setattr(pipeline.models["tex_slat_decoder"], "cpu", fail, raising=False)
    try:
        with pytest.raises(EngineBrokenError, match=r"after shape: RuntimeError: CUDA error"):
            loaded.shape(picture(), options(), report)
        with pytest.raises(EngineBrokenError):
            loaded.shape(picture(), options(), silent)
    finally:
        loaded._broken = None


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB", OutOfMemoryError),
        ("AcceleratorError", "CUDA error: out of memory", OutOfMemoryError),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", OutOfMemoryError),
        ("AcceleratorError", "CUDA error: invalid argument", EngineError),
        ("RuntimeError", "CUDA error: no kernel image is available for execution", EngineError),
        ("RuntimeError", "Expected all tensors on cuda:0, found two devices", EngineError),
        ("ValueError", "device-side assert", EngineError),
    ],
)
def test_an_error_that_passes_leaves_the_engine_as_it_was(
    torch: Any, kind: str, text: str, expected: type[Exception]
) -> None:
    raised = getattr(torch, kind, None) or getattr(builtins, kind, RuntimeError)
    with (
        pytest.raises(EngineError) as caught,
        engine._translated(engine._Progress(silent), "the stage"),
    ):
        raise raised(text)
    assert type(caught.value) is expected


def test_the_script_for_gpus_runs_through_on_a_cpu(tmp_path: Path, torch: Any) -> None:
    del torch
    report, document = tmp_path / "report.json", tmp_path / "gpu.md"
    run = subprocess.run(
        [
            *(
                sys.executable,
                ROOT / "tests" / "gpu" / "run.py",
                "--size",
                "tiny",
                "--device",
                "cpu",
            ),
            *("--types", "512", "--steps", "1", "--json", report, "--markdown", document),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRELLIS2_HOME": str(HOME), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    said = json.loads(report.read_text())
    (row,) = said["types"]
    assert "error" not in row
    assert {"shape structure", "shape decode", "texture texture"} < set(row["stages"])
    assert row["export_model_s"] > 0
    assert max(e for name, e in said["errors"].items() if "float32" in name) < 1e-5
    assert len(set(said["allocated_after_each_job"])) == 1
    text = document.read_text()
    assert text in run.stdout
    assert "| 512 | 512 | 60 |" in text
    assert text.endswith("Nothing failed.\n")


def test_the_benchmark_runs_through(torch: Any) -> None:
    del torch
    run = subprocess.run(
        [
            *(sys.executable, ROOT / "bench" / "engine.py", "--json", "--types", "512"),
            *("--steps", "1", "--rounds", "1", "--jobs", "2"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRELLIS2_HOME": "" if HOME == STANDIN else str(HOME)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    said = json.loads(run.stdout)
    assert said["types"]["512"]["outside_percent"] < 50
    assert said["small_s"] > 0
    assert said["memory"]["jobs"] == 2
    assert said["queue"]["lane_busy_percent"] > 50
    assert said["queue"]["glb_bytes"] > 1000
