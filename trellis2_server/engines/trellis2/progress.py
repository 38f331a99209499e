"""Progress of a stage, counted by hooks on TRELLIS.2's samplers and models.

TRELLIS.2 reports nothing itself. A sampler calls `on_step` after each step (see `samplers`);
a sparse model has blocks, on each of which PyTorch calls a hook before it runs. A report may
raise, which cancels the stage at that point.

Does not know: what a stage computes, who receives the reports.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.reports import Report


class StageProgress:
    """Reports of one job, and what has to be known of them afterwards.

    Attributes:
        raised: exception that the report raised; None otherwise.
        tokens: tokens of a cascade's second model; None until it runs.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = ("start", 0, 1)
        self.raised: BaseException | None = None
        self.tokens: int | None = None

    @property
    def stage(self) -> str:
        """Stage of the last report."""
        return self._last[0]

    def __call__(self, stage: str, step: int, steps: int) -> None:
        """Report that `step` of `steps` are done."""
        self._last = (stage, step, steps)
        try:
            self._report(stage, step, steps)
        except BaseException as error:
            self.raised = error
            raise

    def repeat(self) -> None:
        """Repeat the last report, so that it can raise."""
        self(*self._last)

    def counter(self, stage: str, steps: int) -> Callable[[], None]:
        """Report the beginning of a stage; return a function that reports the next step."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self(stage, min(done, steps), steps)

        self(stage, 0, steps)
        return advance

    @contextlib.contextmanager
    def sampling(self, sampler: Any, stage: str, steps: int) -> Generator[None, None, None]:
        """Report each step of a sampler; the last report again for each further view of a step."""
        sampler.on_step, sampler.on_view = self.counter(stage, steps), self.repeat
        try:
            yield
        finally:
            sampler.on_step = sampler.on_view = None

    @contextlib.contextmanager
    def decoding(self, decoder: Any) -> Generator[None, None, None]:
        """Report stage "decode", one step per block of a sparse decoder and one at the end."""
        advance = self.counter("decode", count_blocks(decoder) + 1)
        with self.block_hooks(decoder, advance):
            yield
        advance()

    @contextlib.contextmanager
    def cascade(self, decoder: Any, second_model: Any) -> Generator[None, None, None]:
        """Allow cancelling while a cascade refines its voxels; set `tokens` afterwards.

        Args:
            decoder: refines the voxels between the two models. Its blocks repeat the last
                report, so that the report can raise; they are not steps of their own.
            second_model: first argument is the sparse tensor whose tokens are counted.
        """

        def count(_: object, args: tuple[Any, ...]) -> None:
            self.tokens = len(args[0].coords)

        hook = second_model.register_forward_pre_hook(count, prepend=True)
        try:
            with self.block_hooks(decoder, self.repeat):
                yield
        finally:
            hook.remove()

    @contextlib.contextmanager
    def block_hooks(self, model: Any, advance: Callable[[], None]) -> Generator[None, None, None]:
        """Call `advance` before each block of a sparse model runs."""

        def before(*_: object) -> None:
            advance()

        hooks = [block.register_forward_pre_hook(before) for block in _blocks(model)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def count_blocks(model: Any) -> int:
    """Number of blocks of a sparse encoder or decoder."""
    return len(_blocks(model))


def _blocks(model: Any) -> list[Any]:
    return [block for level in model.blocks for block in level]
