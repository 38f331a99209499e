"""A few steps of the samplers at 25k and 49k tokens, extrapolated to a job's twelve.

A step has one or two evaluations of the model, by its place in the interval of guidance: the
evaluations are counted, here and in twelve steps, and the rows say what is extrapolated.

Does not know: decoders, structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.gpu.random_pipeline import shells

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session

#: Tokens → edge of the latent's grid, and seconds of an evaluation on the modelled H100.
SIZES: Final = {24_576: (64, 0.6), 49_152: (96, 1.6)}
TINY_SIZES: Final = {60: (8, 0.0), 100: (8, 0.0)}
#: Image features of the 1024 models: tokens of DINOv3 at 1024 pixels.
_FEATURES: Final = 4_101
_TINY_FEATURES: Final = 30
_STEPS: Final = 2
_JOB_STEPS: Final = 12


def run(session: Session) -> None:
    """Measure both samplers at both sizes."""
    made = session.full()
    for tokens, (resolution, evaluation_s) in (TINY_SIZES if session.is_tiny else SIZES).items():
        for what in ("shape", "texture"):
            session.attempt(
                f"{_STEPS} steps measured, {_JOB_STEPS} extrapolated",
                {"what": what, "tokens": tokens},
                # One step to warm up and the measured ones, each with both evaluations.
                2 * (_STEPS + 1) * evaluation_s,
                lambda what=what, sampling=Sampling(tokens, resolution): measure(
                    session, made, what, sampling
                ),
            )


@dataclass(frozen=True, slots=True)
class Sampling:
    """Size of a sampling.

    Attributes:
        tokens: voxels of the latent.
        resolution: edge of its grid, voxels.
        steps: of the sampler.
    """

    tokens: int
    resolution: int
    steps: int = _STEPS


def measure(session: Session, made: FullModel, what: str, sampling: Sampling) -> dict[str, Any]:
    """Sample a shape ("shape") or its material ("texture"); seconds, evaluations, memory."""
    torch, pipeline = session.torch, made.pipeline
    coords = shells(torch, sampling.resolution, sampling.tokens).to(session.device)
    model = pipeline.models[f"{'shape' if what == 'shape' else 'tex'}_slat_flow_model_1024"]
    sampler = pipeline.shape_slat_sampler if what == "shape" else pipeline.tex_slat_sampler
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = model.register_forward_pre_hook(count)
    try:
        with torch.inference_mode():
            cond = _condition(session, made)
            latent = made.upstream.sparse.SparseTensor(
                feats=torch.randn(len(coords), 32, device=session.device), coords=coords
            )

            def sample(steps: int) -> None:
                torch.manual_seed(1)
                if what == "shape":
                    pipeline.sample_shape_slat(cond, model, coords, {"steps": steps})
                else:
                    pipeline.sample_tex_slat(cond, model, latent, {"steps": steps})

            _, first_s, _ = session.meter.run(lambda: sample(1))
            calls = 0
            _, seconds, gib = session.meter.run(lambda: sample(sampling.steps))
    finally:
        hook.remove()
    parameters = pipeline.shape_slat_sampler_params
    if what != "shape":
        parameters = pipeline.tex_slat_sampler_params
    job_calls = count_evaluations(torch, sampler, {**parameters, "steps": _JOB_STEPS})
    each_s = seconds / max(calls, 1)
    return {
        "steps": sampling.steps,
        "evaluations": calls,
        "seconds": seconds,
        "evaluation_s": each_s,
        "first_step_s": first_s,
        "peak_gib": gib,
        "evaluations_in_12_steps": job_calls,
        "extrapolated_12_steps_s": each_s * job_calls,
    }


def _condition(session: Session, made: FullModel) -> dict[str, Any]:
    torch = session.torch
    features = _TINY_FEATURES if session.is_tiny else _FEATURES
    width = made.pipeline.image_cond_model.model.config.hidden_size
    cond = torch.randn(1, features, width, device=session.device)
    return {"cond": cond, "neg_cond": torch.zeros_like(cond)}


def count_evaluations(torch: Any, sampler: Any, parameters: dict[str, Any]) -> int:
    """How often a sampler evaluates its model, counted with a model that does nothing."""
    calls = 0

    def model(x: Any, *_: object, **__: object) -> Any:
        nonlocal calls
        calls += 1
        return x

    nothing = torch.randn(1, 4)
    graphs, sampler.graphs = getattr(sampler, "graphs", None), None  # of models only
    try:
        sampler.sample(model, nothing, cond=nothing, neg_cond=nothing, **parameters)
    finally:
        sampler.graphs = graphs
    return calls
