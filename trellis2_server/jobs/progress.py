"""The steps that a job goes through, how far along one a stage is, and how long each takes.

A job's status is a way of one or more steps; each step has a part of that way, and each
stage of a step, as whoever does it calls it, a part of the step.

What this module does not know: jobs, threads, how a step does its work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from trellis2_server.parameters import Options
    from trellis2_server.settings import Settings

Step = Literal["cutout", "shape", "shape_export", "texture", "texture_export"]

SHAPE_STEPS: Final[tuple[Step, ...]] = ("cutout", "shape", "shape_export")
TEXTURE_STEPS: Final[tuple[Step, ...]] = ("texture", "texture_export")

#: How much the latest duration of a step weighs in what is expected of the next.
PACE_WEIGHT: Final = 0.3

#: The part of their status' way that each takes: where it begins, how long it is.
_SHARES: Final[dict[Step, tuple[float, float]]] = {
    "cutout": (0.0, 0.1),
    "shape": (0.1, 0.7),
    "shape_export": (0.8, 0.2),
    "texture": (0.0, 0.6),
    "texture_export": (0.6, 0.4),
}

#: Stages that count from 0 to their own end, with the part of their step that each takes; any
#: other counts on through the whole step.
_STAGE_SHARES: Final = {
    "retry": (0.0, 0.0),  # all of it begins again
    "condition": (0.0, 0.05),
    "structure": (0.05, 0.25),
    "shape": (0.3, 0.55),
    "texture": (0.0, 0.85),
    "decode": (0.85, 0.15),
    "clean": (0.0, 0.3),
    "decimate": (0.3, 0.7),
    "unwrap": (0.0, 0.2),
    "bake": (0.2, 0.5),
    "encode": (0.7, 0.25),
    "pack": (0.95, 0.05),
}


def device_steps(settings: Settings) -> frozenset[Step]:
    """Those that need the engine's device, and so run one at a time."""
    steps: set[Step] = {"shape", "texture"}
    if settings.model.background == "upstream":
        steps.add("cutout")
    if settings.export.backend == "upstream":
        steps.add("texture_export")
    return frozenset(steps)


def steps_from(step: Step) -> tuple[Step, ...]:
    """That step and those that follow it within the same status."""
    steps = SHAPE_STEPS if step in SHAPE_STEPS else TEXTURE_STEPS
    return steps[steps.index(step) :]


def fraction(step: Step, stage: str, done: int, of: int) -> float:
    """0 … 1 of the way of a status, when a stage of that step has done so much."""
    begin, share = _SHARES[step]
    stage_begin, stage_share = _STAGE_SHARES.get(stage, (0.0, 1.0))
    return round(begin + share * (stage_begin + stage_share * min(done / max(of, 1), 1.0)), 4)


def step_fraction(step: Step, way: float) -> float:
    """0 … 1 of a step, from that of its status' way."""
    begin, share = _SHARES[step]
    return min(max((way - begin) / share, 0.0), 1.0)


def seconds_left(expected_s: float, elapsed_s: float, done: float, said_at_s: float) -> float:
    """Until a step ends; never negative.

    At first that is what such steps took before. The further this one says it is, the more
    it counts how long it took to come so far: where a step goes on evenly, the error only
    shrinks, and is gone at the end.

    Args:
        expected_s: of the whole step.
        elapsed_s: since it began.
        done: 0 … 1, the part that is done, as it last said.
        said_at_s: when it said so, after it began.
    """
    return max(0.0, (1 - done) * expected_s + said_at_s - elapsed_s)


class StepDurations:
    """How long each step takes here, learned from the steps that ended; a moving mean."""

    def __init__(self) -> None:
        self._means: dict[tuple[Step, str, int], float] = {}

    def note(self, step: Step, options: Options, seconds: float) -> None:
        """A step of a job with these options took so long."""
        key = (step, options.pipeline_type, options.texture_size)
        mean = self._means.get(key, seconds)
        self._means[key] = mean + PACE_WEIGHT * (seconds - mean)

    def expect(self, step: Step, options: Options) -> float | None:
        """Seconds that such a step is expected to take; None: there was none yet."""
        return self._means.get((step, options.pipeline_type, options.texture_size))
