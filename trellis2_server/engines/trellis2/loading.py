"""Builds TRELLIS.2's pipelines from checked files.

TRELLIS.2's own `from_pretrained` is not used: it hides the cause of a failed load, leaves
missing tensors random, builds a gated background remover, and spends minutes on random
weights that the checkpoint then overwrites.

Does not know: where the files came from, jobs.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2 import checkpoint as checkpoints
from trellis2_server.engines.trellis2 import upstream as upstreams
from trellis2_server.engines.trellis2.device_errors import translated_device_errors
from trellis2_server.engines.trellis2.encoder import ImageEncoder
from trellis2_server.engines.trellis2.loaded_model import LoadedModel
from trellis2_server.engines.trellis2.oom_policy import build_within_memory
from trellis2_server.engines.trellis2.pipeline_types import MODEL_NAMES
from trellis2_server.engines.trellis2.progress import StageProgress
from trellis2_server.engines.trellis2.safetensors_header import compare, read_header
from trellis2_server.engines.trellis2.samplers import SAMPLERS, build_sampler
from trellis2_server.engines.trellis2.weights import construct, load, no_initial_values
from trellis2_server.engines.trellis2.working_memory import modelled, needs_low_vram
from trellis2_server.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.engines.trellis2.checkpoint import Checkpoint, ModelFiles
    from trellis2_server.engines.trellis2.device_memory import DeviceMemory
    from trellis2_server.engines.trellis2.residency import DeviceResidency
    from trellis2_server.engines.trellis2.upstream import Upstream
    from trellis2_server.reports import Report
    from trellis2_server.settings import ModelSettings

logger = logging.getLogger(__name__)

#: Of an element of the image encoder.
_FLOAT32_BYTES: Final = 4
#: Of TRELLIS.2's background remover, BiRefNet, 221 M parameters: known only once it is loaded.
_REMOVER_BYTES: Final = 221_000_000 * _FLOAT32_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The device that a model is loaded to.

    Attributes:
        memory: of the device.
        residency: moves weights with `low_vram`; None: PyTorch does.
        resolution: of a job with the server's defaults, voxels.
    """

    memory: DeviceMemory
    residency: DeviceResidency | None
    resolution: int

    def needs_low_vram(self, settings: ModelSettings, weights: int) -> bool:
        """Whether the weights, in bytes, and a usual job do not fit on the device together."""
        if settings.device == "cpu":
            return False
        total = self.memory.total()
        if settings.background == "upstream":
            weights += _REMOVER_BYTES
        needed = needs_low_vram(weights, self.resolution, total)
        logger.info(
            "Device memory decides about low_vram",
            extra={
                "low_vram": needed,
                "weights_mb": weights // 2**20,
                "modelled_job_mb": modelled(self.resolution) // 2**20,
                "total_mb": None if total is None else total // 2**20,
            },
        )
        return needed


def load_model(
    upstream: Upstream, settings: ModelSettings, target: Target, report: Report
) -> LoadedModel:
    """Find, download and check the weights, load them, and build all parts of the model.

    Args:
        upstream: TRELLIS.2.
        settings: of the model.
        target: the device.
        report: stages "download" (MiB), "check", "load".

    Raises:
        OutOfMemoryError: the weights do not fit on the device, even one model at a time.
        EngineError: a file or the weights are not usable; says what to do.
    """
    checkpoint = checkpoints.find(settings, MODEL_NAMES, report)
    report("check", 0, 1)
    weights = check(upstream, checkpoint)
    report("check", 1, 1)
    low_vram = settings.low_vram
    if low_vram is None:
        low_vram = target.needs_low_vram(settings, weights)
    progress = StageProgress(report)

    def build(low_vram: bool) -> Any:  # noqa: FBT001 - as `build_within_memory` calls it
        with translated_device_errors(progress, "loading", free_memory=target.memory.free):
            loader = partial(
                _load_model, upstream, target=target, device=settings.device, low_vram=low_vram
            )
            models = _load_models(checkpoint, loader, progress)
            made = _build_pipeline(upstream, checkpoint, models, low_vram=low_vram)
            made.to(upstream.torch.device(settings.device))
            progress("load", len(models) + 1, len(models) + 1)
            return made

    pipeline = build_within_memory(
        build,
        low_vram=low_vram,
        # An operator who turned low_vram off gets the error.
        may_lower=settings.low_vram is None and settings.device != "cpu",
        release=target.memory.release,
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


def check(upstream: Upstream, checkpoint: Checkpoint) -> int:
    """Compare every weights file with its model; load nothing.

    Returns:
        Bytes of the weights on the device, with `low_vram` off.

    Raises:
        EngineError: a class is unknown, a tensor is missing or has another shape, a file is
            truncated.
    """
    torch, size = upstream.torch, 0
    more = (checkpoint.mesh_encoder,) if checkpoint.mesh_encoder else ()
    for model in (*checkpoint.models, *more):
        tensors = read_header(model.weights)
        with torch.device("meta"), no_initial_values(torch):
            empty = construct(upstream, model)
        compare(model.name, tensors, {key: tuple(p.shape) for key, p in empty.named_parameters()})
        if model is not checkpoint.mesh_encoder:  # on the device only while it runs
            held = (*empty.parameters(), *empty.buffers())
            size += sum(tensor.numel() * tensor.element_size() for tensor in held)
        extra = tensors.keys() - empty.state_dict().keys()
        if extra:
            logger.warning(
                "Checkpoint has tensors that the model does not have",
                extra={"model": model.name, "tensors": len(extra), "first": min(extra)},
            )
    try:
        tensors = read_header(Path(checkpoint.encoder) / checkpoints.ENCODER_WEIGHTS)
    except EngineError as error:
        raise EngineError(f"the image encoder: {error}") from error
    return size + sum(_FLOAT32_BYTES * math.prod(shape) for shape in tensors.values())


def _load_models(
    checkpoint: Checkpoint, loader: Callable[[ModelFiles], Any], report: Report
) -> dict[str, Any]:
    """Load all models; report stage "load", one step for each and one for the image encoder."""
    steps = len(checkpoint.models) + 1
    models: dict[str, Any] = {}
    for step, files in enumerate(checkpoint.models):
        report("load", step, steps)
        models[files.name] = loader(files)
    report("load", steps - 1, steps)
    return models


def _load_model(
    upstream: Upstream, files: ModelFiles, *, target: Target, device: str, low_vram: bool
) -> Any:
    """Load a model to the device; with `low_vram` to memory from which it is copied there."""
    residency = target.residency
    if not low_vram or residency is None:
        return load(upstream, files, "cpu" if low_vram else device)
    model = load(upstream, files, "cpu", mapped=True)
    residency.add(files.name, model, is_on_device=False)
    residency.keep_on_host(files.name)
    return model


def _build_pipeline(
    upstream: Upstream, checkpoint: Checkpoint, models: dict[str, Any], *, low_vram: bool
) -> Any:
    """Build TRELLIS.2's pipeline for pictures, and its image encoder.

    Args:
        upstream: TRELLIS.2.
        checkpoint: checked.
        models: loaded, by name.
        low_vram: whether models stay on the CPU until they are needed.

    Raises:
        EngineError: the image encoder cannot be loaded.
    """
    args = checkpoint.args
    try:
        encoder = ImageEncoder(checkpoint.encoder)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EngineError(f"the image encoder cannot be loaded: {type(error).__name__}") from error
    return upstream.pipeline(
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
    encoder = load(upstream, checkpoint.mesh_encoder, "cpu")
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
