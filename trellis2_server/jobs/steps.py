"""The steps of a job, their order, and which of them need the engine's device.

Does not know: jobs, threads, how a step is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from trellis2_server.settings import Settings

Step = Literal["cutout", "shape", "shape_export", "texture", "texture_export"]

#: The steps of the status `shape_processing`, in order.
SHAPE_STEPS: Final[tuple[Step, ...]] = ("cutout", "shape", "shape_export")
#: The steps of the status `texture_processing`, in order.
TEXTURE_STEPS: Final[tuple[Step, ...]] = ("texture", "texture_export")


def device_steps(settings: Settings) -> frozenset[Step]:
    """Return the steps that need the engine's device; the others run on the CPU pool."""
    steps: set[Step] = {"shape", "texture"}
    if settings.model.background == "upstream":
        steps.add("cutout")
    if settings.export.backend == "upstream":
        steps.add("texture_export")
    return frozenset(steps)


def steps_from(step: Step) -> tuple[Step, ...]:
    """Return the step and those that follow it within the same status."""
    steps = SHAPE_STEPS if step in SHAPE_STEPS else TEXTURE_STEPS
    return steps[steps.index(step) :]
