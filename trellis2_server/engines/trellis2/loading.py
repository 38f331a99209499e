"""From checked files to a pipeline.

Built by hand instead of by TRELLIS.2's `from_pretrained`, which hides the cause of a failed
load, fills what is missing at random, builds a gated background remover, and spends minutes
on random weights that are then overwritten.

What this module does not know: where the files came from, jobs.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trellis2_server.engines.trellis2 import checkpoint as files
from trellis2_server.engines.trellis2 import environment
from trellis2_server.engines.trellis2.encoder import ImageEncoder
from trellis2_server.errors import EngineError, MissingPackageError, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.engines.trellis2.checkpoint import Checkpoint, ModelFiles
    from trellis2_server.engines.trellis2.environment import Upstream

    Report = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)

#: Sampler's attribute in the pipeline → section of `pipeline.json`.
SAMPLERS = ("sparse_structure_sampler", "shape_slat_sampler", "tex_slat_sampler")


def check(upstream: Upstream, checkpoint: Checkpoint) -> None:
    """Hold every file against the model that it is for, without loading any.

    Raises:
        EngineError: a class is unknown, a tensor is missing or of another shape, a file is
            cut short.
    """
    torch = upstream.torch
    more = (checkpoint.mesh_encoder,) if checkpoint.mesh_encoder else ()
    for model in (*checkpoint.models, *more):
        have = files.read_header(model.weights)
        with torch.device("meta"), _NoInitialValues.mode(torch):
            skeleton = _construct(upstream, model)
        files.compare(
            model.name, have, {key: tuple(p.shape) for key, p in skeleton.named_parameters()}
        )
        extra = have.keys() - skeleton.state_dict().keys()
        if extra:
            logger.warning(
                "Checkpoint with tensors that the model does not have",
                extra={"model": model.name, "tensors": len(extra), "first": min(extra)},
            )
    try:
        files.read_header(Path(checkpoint.encoder) / files.ENCODER_WEIGHTS)
    except EngineError as error:
        raise EngineError(f"the image encoder: {error}") from error


def build(
    upstream: Upstream, checkpoint: Checkpoint, *, device: str, low_vram: bool, report: Report
) -> Any:
    """The pipeline, on its device.

    Args:
        upstream: TRELLIS.2.
        checkpoint: checked.
        device: PyTorch's name of it.
        low_vram: whether models stay on the CPU until they are needed.
        report: stage "load", one step a model and one for the image encoder.

    Raises:
        EngineError: something does not load.
    """
    torch, args = upstream.torch, checkpoint.args
    steps = len(checkpoint.models) + 1
    models: dict[str, Any] = {}
    for step, files_of_model in enumerate(checkpoint.models):
        report("load", step, steps)
        model = _load(upstream, files_of_model)
        models[files_of_model.name] = model if low_vram else model.to(device)
    report("load", steps - 1, steps)
    try:
        encoder = ImageEncoder(checkpoint.encoder)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EngineError(f"the image encoder does not load: {type(error).__name__}") from error
    pipeline = upstream.pipeline(
        models=models,
        **{name: _sampler(upstream, args[name]) for name in SAMPLERS},
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


def build_texturing(upstream: Upstream, checkpoint: Checkpoint, pipeline: Any) -> Any:
    """TRELLIS.2's pipeline for given meshes, on the models of the other one.

    Its one model more, the encoder, stays on the CPU until it is needed: it is seldom.

    Raises:
        MissingPackageError: a part of it is not there; says which.
    """
    if checkpoint.mesh_encoder is None:
        raise MissingPackageError(
            f"the checkpoint has no {files.MESH_ENCODER} ({files.TEXTURING_FILE} names it)"
        )
    texturing = environment.import_texturing()
    encoder = _load(upstream, checkpoint.mesh_encoder)
    made = texturing(
        models={**pipeline.models, files.MESH_ENCODER: encoder},
        tex_slat_sampler=pipeline.tex_slat_sampler,
        tex_slat_sampler_params=pipeline.tex_slat_sampler_params,
        shape_slat_normalization=pipeline.shape_slat_normalization,
        tex_slat_normalization=pipeline.tex_slat_normalization,
        image_cond_model=pipeline.image_cond_model,
        rembg_model=None,
        low_vram=True,
    )
    made.to(pipeline.device)  # notes where to compute, and moves nothing
    return made


def build_remover(checkpoint: Checkpoint, device: str, *, low_vram: bool) -> Any:
    """TRELLIS.2's background remover, which downloads its weights, and code with them.

    Raises:
        EngineError: it does not load.
    """
    name, args = files.remover(checkpoint.args)
    remover = environment.import_remover(name)
    try:
        made = remover(**args)
        if not low_vram:
            made.to(device)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise EngineError(
            f"model.background: TRELLIS.2's remover does not load: {type(error).__name__}"
        ) from error
    return made


def supported_parameters(sampler: Any) -> frozenset[str]:
    """The sampler's parameters that a request may set."""
    names = set(inspect.signature(type(sampler).__mro__[1].sample).parameters)
    if "guidance_strength" in names:
        names.add("guidance_rescale")
    known = {
        "steps",
        "rescale_t",
        "guidance_strength",
        "guidance_rescale",
        "guidance_interval",
    }
    return frozenset(names & known)


def _load(upstream: Upstream, model: ModelFiles) -> Any:
    load_file: Any = importlib.import_module("safetensors.torch").load_file
    with _NoInitialValues.mode(upstream.torch):
        made = _construct(upstream, model)
    made.load_state_dict(load_file(model.weights), strict=False)
    return made.eval().requires_grad_(requires_grad=False)


def _construct(upstream: Upstream, model: ModelFiles) -> Any:
    name, args = model.read_config()
    try:
        return getattr(upstream.models, name)(**args)
    except ServerError:
        raise
    except (AttributeError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise EngineError(
            f"the checkpoint's {model.name} is a {name} that this version of TRELLIS.2 does not "
            f"build: {error}"
        ) from error


def _sampler(upstream: Upstream, section: Any) -> Any:
    base = getattr(upstream.samplers, section.get("name", ""), None)
    if base is None:
        raise EngineError(
            f"the checkpoint asks for the sampler {section.get('name')!r}, which this version of "
            "TRELLIS.2 does not have"
        )
    return _watched(base)(**section.get("args", {}))


def _watched(base: Any) -> Any:
    """The sampler's class, which says when a step is done, and draws no bar of its own."""

    class Watched(base):
        """TRELLIS.2's sampler; `on_step()` is called after each step and may raise."""

        on_step: Callable[[], None] | None = None

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["verbose"] = False
            return super().sample(*args, **kwargs)

        def sample_once(self, *args: Any, **kwargs: Any) -> Any:
            out = super().sample_once(*args, **kwargs)
            if self.on_step is not None:
                self.on_step()
            return out

    Watched.__name__ = Watched.__qualname__ = base.__name__
    return Watched


class _NoInitialValues:
    """Leaves new weights as the memory was: they are overwritten, and drawing them is slow."""

    @staticmethod
    def mode(torch: Any) -> Any:
        skipped = {
            torch.Tensor.normal_,
            torch.Tensor.uniform_,
            torch.nn.init.normal_,
            torch.nn.init.uniform_,
            torch.nn.init.xavier_uniform_,
            torch.nn.init.kaiming_uniform_,
            torch.nn.init.trunc_normal_,
        }

        class Mode(torch.overrides.TorchFunctionMode):
            def __torch_function__(
                self, func: Any, _: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if func in skipped:
                    return args[0] if args else kwargs["tensor"]
                return func(*args, **(kwargs or {}))

        return Mode()
