"""What happens when the device runs out of memory.

While the model loads:

    the weights do not fit at once      load again with `low_vram`, unless it is configured

In a stage of a job, in this order, until the stage succeeds:

    1. `low_vram`      move all models to the CPU and to the device when they are needed; the
                       stage runs again unchanged. If that is on: make no copies ahead
    2. fewer tokens    cascades above 1024: three quarters of `max_num_tokens`, repeatedly,
                       not below `MIN_TOKENS`
    3. lower type      the next lower pipeline type, repeatedly; for an uploaded mesh the next
                       lower resolution

Step 1 changes no result. Steps 2 and 3 do; each is a warning of the job. The setting
`worker.oom_fallback` allows steps: "none" only 1, "tokens" 1 and 2, "resolution" all. The
texture stage of a picture has only step 1, since its voxels are those of the shape.

All models stay on the device again as soon as its memory allows, as the last stages needed it:
see `working_memory.WorkingMemory`.

Does not know: what a stage computes, how models move.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from trellis2_server.engines.trellis2.device_errors import translated_device_errors
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES
from trellis2_server.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trellis2_server.engines.trellis2.placement import ModelPlacement
    from trellis2_server.engines.trellis2.progress import StageProgress
    from trellis2_server.parameters import Options
    from trellis2_server.settings import OomFallback

logger = logging.getLogger(__name__)

Step = TypeVar("Step")
Result = TypeVar("Result")

#: A cascade with this many tokens has its lowest resolution; fewer change nothing.
MIN_TOKENS: Final = 24_576
_SHRINK: Final = 0.75
#: Resolutions at which TRELLIS.2 textures uploaded meshes, voxels.
_MESH_RESOLUTIONS: Final = (1536, 1024, 512)


def _always(failed: object, lower: object, tokens: int | None) -> bool:
    del failed, lower, tokens
    return True


@dataclass(frozen=True, slots=True)
class Attempts(Generic[Step]):
    """Parameters with which a stage may run, from most to least memory.

    Attributes:
        steps: parameters of each attempt; the first are those of the request.
        describe: one step → words for a warning.
        needs_less: (failed step, lower step, tokens of the failed attempt or None) → whether
            the lower step can need less memory.
    """

    steps: tuple[Step, ...]
    describe: Callable[[Step], str] = str
    needs_less: Callable[[Step, Step, int | None], bool] = _always


def shape_attempts(options: Options, fallback: OomFallback) -> Attempts[Options]:
    """Attempts of the shape stage."""
    steps = (options, *_lower_options(options, fallback))
    return Attempts(steps, _describe_options, _needs_less)


def mesh_texture_attempts(pipeline_type: str, fallback: OomFallback) -> Attempts[int]:
    """Attempts of texturing an uploaded mesh: resolutions, in voxels."""
    wanted = PIPELINE_TYPES[pipeline_type].resolution
    lower = tuple(r for r in _MESH_RESOLUTIONS if r < wanted)
    steps = (wanted, *lower) if fallback == "resolution" else (wanted,)
    return Attempts(steps, lambda resolution: f"resolution {resolution}")


class OomPolicy:
    """Runs a stage again, with less memory, as long as the device runs out of memory.

    Args:
        placement: of the loaded model.
        clean_up: frees memory of the device that nothing uses.
        finish_stage: called after a stage that succeeded.
        may_return: whether all models may stay on the device when memory allows.
    """

    def __init__(
        self,
        placement: ModelPlacement,
        clean_up: Callable[[], None],
        finish_stage: Callable[[], None],
        *,
        may_return: bool,
    ) -> None:
        self._placement = placement
        self._clean_up = clean_up
        self._finish_stage = finish_stage
        self._may_return = may_return

    def run(
        self, stage: Callable[[Step], Result], attempts: Attempts[Step], progress: StageProgress
    ) -> tuple[Result, tuple[str, ...]]:
        """Run a stage, and again with lower attempts.

        Args:
            stage: runs one attempt.
            attempts: first and lower ones.
            progress: stage "retry" is reported before each further attempt.

        Returns:
            What the stage returned, and a warning for each lower attempt.

        Raises:
            OutOfMemoryError: memory ran out in the last attempt.
            EngineBrokenError: the device failed while weights moved.
        """
        self._placement.allow_copies_ahead()
        self._return_if_it_fits(progress)
        steps = list(attempts.steps)
        warnings: list[str] = []
        retries = 0
        while True:
            progress.tokens = None
            try:
                result = stage(steps[0])
            except OutOfMemoryError:
                lower = [s for s in steps[1:] if attempts.needs_less(steps[0], s, progress.tokens)]
                if not lower and not self._placement.can_save_memory:
                    raise
            else:
                self._finish_stage()
                return result, tuple(warnings)
            # Here, outside of `except`, the error no longer holds tensors on the device.
            with translated_device_errors(progress, "freeing memory"):
                if self._placement.can_save_memory:
                    changed = self._placement.save_memory()
                    logger.warning("Out of device memory: %s", changed)
                else:
                    failed, steps = attempts.describe(steps[0]), lower
                    warnings.append(
                        f"out of memory with {failed}; tried again with "
                        f"{attempts.describe(steps[0])}"
                    )
                    logger.warning("Retry with less memory", extra={"why": warnings[-1]})
                self._clean_up()
            retries += 1
            progress("retry", retries, retries + len(steps) - 1)

    def _return_if_it_fits(self, progress: StageProgress) -> None:
        """Turn `low_vram` off if the last stages would fit beside all weights."""
        placement = self._placement
        if not (self._may_return and placement.low_vram):
            return
        room = placement.room()
        if room is None or not placement.working.fits(room):
            return
        self._clean_up()  # what is reserved in pieces is of no use for the weights
        try:
            with translated_device_errors(progress, "moving the weights"):
                placement.use_device()
        except OutOfMemoryError:
            self._clean_up()
        else:
            logger.info("Enough device memory: low_vram is off again")


def build_within_memory(
    build: Callable[[bool], Any],
    *,
    low_vram: bool,
    may_lower: bool,
    release: Callable[[], None],
) -> Any:
    """Build the pipeline; if it does not fit on the device, build it with `low_vram`.

    Args:
        build: called with `low_vram`.
        low_vram: first value to try.
        may_lower: whether a second attempt is allowed.
        release: frees what the first attempt left on the device.

    Raises:
        OutOfMemoryError: the weights do not fit, even one model at a time.
    """
    try:
        return build(low_vram)
    except OutOfMemoryError:
        if low_vram or not may_lower:
            raise
    logger.warning("The weights do not fit on the device at once: loading with low_vram")
    release()
    return build(True)  # noqa: FBT003 - see above


def _lower_options(options: Options, fallback: OomFallback) -> Iterator[Options]:
    if fallback == "none":
        return
    if PIPELINE_TYPES[options.pipeline_type].has_token_limit:
        tokens = options.max_num_tokens
        while tokens > MIN_TOKENS:
            tokens = max(int(tokens * _SHRINK), MIN_TOKENS)
            yield replace(options, max_num_tokens=tokens)
    lower = PIPELINE_TYPES[options.pipeline_type].lower
    while fallback == "resolution" and lower is not None:
        yield replace(options, pipeline_type=cast("Any", lower))
        lower = PIPELINE_TYPES[lower].lower


def _needs_less(failed: Options, lower: Options, tokens: int | None) -> bool:
    """Whether the lower options change what is computed where memory ran out.

    A limit above the number of tokens changes nothing; no limit does when memory ran out
    before there were tokens.
    """
    if lower.pipeline_type != failed.pipeline_type:
        return True
    return tokens is not None and lower.max_num_tokens <= tokens


def _describe_options(options: Options) -> str:
    if PIPELINE_TYPES[options.pipeline_type].has_token_limit:
        return f"{options.pipeline_type} and {options.max_num_tokens} tokens"
    return options.pipeline_type
