"""Builds TRELLIS.2's pipelines from checked files.

TRELLIS.2's own `from_pretrained` is not used: it hides the cause of a failed load, leaves
missing tensors random, builds a gated background remover, and spends minutes on random
weights that the checkpoint then overwrites.

Does not know: where the files came from, jobs.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trellis2_server.engines.trellis2 import checkpoint as checkpoints
from trellis2_server.engines.trellis2 import upstream as upstreams
from trellis2_server.engines.trellis2.device_errors import translated_device_errors
from trellis2_server.engines.trellis2.encoder import ImageEncoder
from trellis2_server.engines.trellis2.loaded_model import LoadedModel
from trellis2_server.engines.trellis2.oom_policy import build_within_memory
from trellis2_server.engines.trellis2.progress import StageProgress
from trellis2_server.engines.trellis2.safetensors_header import compare, read_header
from trellis2_server.engines.trellis2.samplers import SAMPLERS, build_sampler
from trellis2_server.errors import EngineError, MissingPackageError, ServerError

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2.checkpoint import Checkpoint, ModelFiles
    from trellis2_server.engines.trellis2.device_memory import DeviceMemory
    from trellis2_server.engines.trellis2.upstream import Upstream
    from trellis2_server.reports import Report
    from trellis2_server.settings import ModelSettings

logger = logging.getLogger(__name__)


def check(upstream: Upstream, checkpoint: Checkpoint) -> None:
    """Compare every weights file with its model; load nothing.

    Raises:
        EngineError: a class is unknown, a tensor is missing or has another shape, a file is
            truncated.
    """
    torch = upstream.torch
    more = (checkpoint.mesh_encoder,) if checkpoint.mesh_encoder else ()
    for model in (*checkpoint.models, *more):
        tensors = read_header(model.weights)
        with torch.device("meta"), no_initial_values(torch):
            empty = _construct(upstream, model)
        compare(model.name, tensors, {key: tuple(p.shape) for key, p in empty.named_parameters()})
        extra = tensors.keys() - empty.state_dict().keys()
        if extra:
            logger.warning(
                "Checkpoint has tensors that the model does not have",
                extra={"model": model.name, "tensors": len(extra), "first": min(extra)},
            )
    try:
        read_header(Path(checkpoint.encoder) / checkpoints.ENCODER_WEIGHTS)
    except EngineError as error:
        raise EngineError(f"the image encoder: {error}") from error


def build_model(
    upstream: Upstream,
    checkpoint: Checkpoint,
    settings: ModelSettings,
    memory: DeviceMemory,
    report: Report,
) -> LoadedModel:
    """Load the weights and build all parts of the model.

    Args:
        upstream: TRELLIS.2.
        checkpoint: checked.
        settings: `device`, `low_vram`, `background`.
        memory: of the device.
        report: stage "load".

    Raises:
        OutOfMemoryError: the weights do not fit on the device, even one model at a time.
        EngineError: a part cannot be loaded.
    """
    progress = StageProgress(report)

    def build(low_vram: bool) -> Any:  # noqa: FBT001 - as `build_within_memory` calls it
        with translated_device_errors(progress, "loading", free_memory=memory.free):
            return _build_pipeline(
                upstream, checkpoint, device=settings.device, low_vram=low_vram, report=progress
            )

    low_vram = settings.low_vram
    if low_vram is None:
        low_vram = bool(checkpoint.args.get("low_vram", True))
    pipeline = build_within_memory(
        build,
        low_vram=low_vram,
        # An operator who turned low_vram off gets the error.
        may_lower=settings.low_vram is None and settings.device != "cpu",
        release=memory.release,
    )
    remover = None
    if settings.background == "upstream":
        remover = _build_remover(checkpoint, settings.device, low_vram=pipeline.low_vram)
    texturing, why_no_texturing = None, ""
    try:
        texturing = _build_texturing(upstream, checkpoint, pipeline)
    except MissingPackageError as error:
        why_no_texturing = str(error)
        logger.warning("Uploaded meshes cannot be textured: %s", error)
    return LoadedModel(upstream, pipeline, texturing, why_no_texturing, remover)


def no_initial_values(torch: Any) -> Any:
    """Return a context in which new models are not initialised.

    Their weights are uninitialised memory: the checkpoint overwrites them, and random numbers
    for all of them take minutes.
    """
    skipped = {
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        torch.nn.init.normal_,
        torch.nn.init.uniform_,
        torch.nn.init.xavier_uniform_,
        torch.nn.init.kaiming_uniform_,
        torch.nn.init.trunc_normal_,
    }

    class NoInitialValues(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in skipped:
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    return NoInitialValues()


def _build_pipeline(
    upstream: Upstream, checkpoint: Checkpoint, *, device: str, low_vram: bool, report: Report
) -> Any:
    """Load the models and build TRELLIS.2's pipeline for pictures.

    Args:
        upstream: TRELLIS.2.
        checkpoint: checked.
        device: PyTorch's name of the device.
        low_vram: whether models stay on the CPU until they are needed.
        report: stage "load", one step per model and one for the image encoder.

    Raises:
        EngineError: a model cannot be loaded.
    """
    torch, args = upstream.torch, checkpoint.args
    steps = len(checkpoint.models) + 1
    models: dict[str, Any] = {}
    for step, files in enumerate(checkpoint.models):
        report("load", step, steps)
        model = _load(upstream, files)
        models[files.name] = model if low_vram else model.to(device)
    report("load", steps - 1, steps)
    try:
        encoder = ImageEncoder(checkpoint.encoder)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EngineError(f"the image encoder cannot be loaded: {type(error).__name__}") from error
    pipeline = upstream.pipeline(
        models=models,
        **{name: build_sampler(upstream, args[name]) for name in SAMPLERS},
        **{f"{name}_params": dict(args[name].get("params", {})) for name in SAMPLERS},
        shape_slat_normalization=args["shape_slat_normalization"],
        tex_slat_normalization=args["tex_slat_normalization"],
        image_cond_model=encoder,
        rembg_model=None,
        low_vram=low_vram,
        default_pipeline_type=args.get("default_pipeline_type", "1024_cascade"),
    )
    pipeline.to(torch.device(device))
    report("load", steps, steps)
    return pipeline


def _build_texturing(upstream: Upstream, checkpoint: Checkpoint, pipeline: Any) -> Any:
    """Build TRELLIS.2's pipeline for uploaded meshes, with the models of the other pipeline.

    Its own model, the encoder, stays on the CPU until it is needed, which is seldom.

    Raises:
        MissingPackageError: names the part that is missing.
    """
    if checkpoint.mesh_encoder is None:
        raise MissingPackageError(
            f"the checkpoint has no {checkpoints.MESH_ENCODER} ({checkpoints.TEXTURING_FILE} "
            "names it)"
        )
    texturing = upstreams.import_texturing()
    encoder = _load(upstream, checkpoint.mesh_encoder)
    made = texturing(
        models={**pipeline.models, checkpoints.MESH_ENCODER: encoder},
        tex_slat_sampler=pipeline.tex_slat_sampler,
        tex_slat_sampler_params=pipeline.tex_slat_sampler_params,
        shape_slat_normalization=pipeline.shape_slat_normalization,
        tex_slat_normalization=pipeline.tex_slat_normalization,
        image_cond_model=pipeline.image_cond_model,
        rembg_model=None,
        low_vram=True,
    )
    made.to(pipeline.device)  # with low_vram this sets the device and moves nothing
    return made


def _build_remover(checkpoint: Checkpoint, device: str, *, low_vram: bool) -> Any:
    """Build TRELLIS.2's background remover; this downloads its weights and code.

    Raises:
        EngineError: it cannot be loaded.
    """
    name, args = checkpoints.remover(checkpoint.args)
    remover = upstreams.import_remover(name)
    try:
        made = remover(**args)
        if not low_vram:
            made.to(device)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise EngineError(
            f"model.background: TRELLIS.2's remover cannot be loaded: {type(error).__name__}"
        ) from error
    return made


def _load(upstream: Upstream, files: ModelFiles) -> Any:
    load_file: Any = importlib.import_module("safetensors.torch").load_file
    with no_initial_values(upstream.torch):
        made = _construct(upstream, files)
    made.load_state_dict(load_file(files.weights), strict=False)
    return made.eval().requires_grad_(requires_grad=False)


def _construct(upstream: Upstream, files: ModelFiles) -> Any:
    name, args = files.read_config()
    try:
        return getattr(upstream.models, name)(**args)
    except ServerError:
        raise
    except (AttributeError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise EngineError(
            f"the checkpoint's {files.name} is a {name}, which this version of TRELLIS.2 cannot "
            f"build: {error}"
        ) from error
