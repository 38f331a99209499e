"""The steps of a job, which of them follow each other, and which need the engine's device.

    cutout ─ shape ─┬─ shape_export ─┬─ texture_export
                    └─ texture ──────┘

The shape's export and the texture need nothing of each other, so they run side by side where the
texture is requested before the shape exists. Without a shape of the engine (an uploaded mesh), or
when it is requested later, the texture follows `shape_export`.

Does not know: jobs, threads, how a step is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from trellis2_server.settings import Settings

Step = Literal["cutout", "shape", "shape_export", "texture", "texture_export"]

#: The steps that the untextured GLB needs, in order; the status is `shape_processing` until then.
SHAPE_STEPS: Final[tuple[Step, ...]] = ("cutout", "shape", "shape_export")
#: The further steps that the textured GLB needs, in order.
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
    """Return the step and those that follow it towards the same GLB."""
    steps = SHAPE_STEPS if step in SHAPE_STEPS else TEXTURE_STEPS
    return steps[steps.index(step) :]
