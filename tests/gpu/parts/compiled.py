"""What `model.compile` brings: nothing, CUDA graphs, compiled blocks, both, on one model.

Does not know: exports.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, cast

from tests.gpu.full_model import FullModel
from tests.gpu.parts import steps
from tests.gpu.parts.engine_checks import differences, result
from tests.gpu.sample_job import job
from trellis2_server.engines.trellis2 import Trellis2Engine
from trellis2_server.engines.trellis2.loaded_model import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.gpu.full_model import MeasuredJob
    from tests.gpu.session import Session
    from trellis2_server.engines.trellis2.state import Trellis2State

MODES: Final = ("none", "graphs", "blocks", "both")
_TOKENS: Final = {False: 4_096, True: 60}
_STEPS: Final = {False: 12, True: 2}
#: Runs of a job that are measured, after the first.
_ROUNDS: Final = 2
#: Seconds on the modelled H100: of a job's runs, and of a long sampling.
_JOBS_S: Final = 10.0
_SAMPLING_S: Final = 15.0


def run(session: Session) -> None:
    """Measure a `512` job and a long sampling with each mode."""
    made = session.full()
    made.set_tokens("512", _TOKENS[session.is_tiny])
    references: dict[str, Any] = {}
    for mode in MODES:
        with compiled(session, made, mode) as (model, ready_s):
            session.attempt(
                "a 512 job",
                {"compile": mode},
                _JOBS_S,
                lambda model=model, ready_s=ready_s: {
                    "ready_s": ready_s,
                    **_measure_job(session, model, references),
                },
            )
            session.attempt(
                "sampling of a shape",
                {"compile": mode},
                _SAMPLING_S,
                lambda model=model: _measure_sampling(session, model),
            )


@contextlib.contextmanager
def compiled(
    session: Session, made: FullModel, mode: str
) -> Generator[tuple[FullModel, float], None, None]:
    """Compile the models in that way within the block; give the model and the seconds it took."""
    engine = Trellis2Engine(session.settings(compile=mode), oom_fallback="none")
    model = FullModel(made.upstream, engine, made.pipeline)
    loaded = LoadedModel(made.upstream, made.pipeline)
    _forget_blocks(made)
    _, ready_s, _ = session.meter.run(lambda: engine.use(loaded))
    try:
        yield model, ready_s
    finally:
        _forget_blocks(made)
        made.engine.use(loaded)


def _forget_blocks(made: FullModel) -> None:
    for model in made.pipeline.models.values():
        for module in model.modules():
            module.__dict__.pop("forward", None)  # that of a compiled block


def _measure_job(session: Session, model: FullModel, references: dict[str, Any]) -> dict[str, Any]:
    requested = job("512", _STEPS[session.is_tiny], session.size)
    first = model.measure(session.meter, requested)
    jobs = [model.measure(session.meter, requested) for _ in range(_ROUNDS)]
    best = min(jobs, key=lambda measured: measured.seconds)
    described = model.engine.describe()
    shape = best.shape
    state = cast("Trellis2State", shape.state)
    made = result(shape, best.field)
    reference, latent = references.setdefault("none", (made, state.features))
    found = differences(reference, made)
    return {
        "in_use": described["compile"],
        "first_job_s": first.seconds,
        "job_s": best.seconds,
        **_stages(best),
        "peak_gib": best.gib,
        "equal_to_none": found["equal"],
        "latent_difference": _difference(latent, state.features),
        "why_not": described.get("compile_failed", ""),
    }


def _difference(expected: Any, got: Any) -> float:
    """Largest difference of latents with the same voxels, of the largest value."""
    if expected.shape != got.shape:
        return float("inf")
    return float(abs(got - expected).max() / abs(expected).max())


def _stages(measured: MeasuredJob) -> dict[str, float]:
    """Seconds of the stages that sample."""
    shape, texture = (measured.times[step].measured for step in ("shape", "texture"))
    return {
        "structure_s": shape["structure"][0],
        "shape_s": shape["shape"][0],
        "texture_s": texture["texture"][0],
    }


def _measure_sampling(session: Session, model: FullModel) -> dict[str, Any]:
    sizes = steps.TINY_SIZES if session.is_tiny else steps.SIZES
    tokens, (resolution, _) = next(iter(sizes.items()))
    found = steps.measure(
        session, model, "shape", steps.Sampling(tokens, resolution, _STEPS[session.is_tiny])
    )
    return {"tokens": tokens, **{k: found[k] for k in ("steps", "seconds")}}
