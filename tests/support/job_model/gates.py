"""Gates at which the calls of jobs stand until a model lets them go on, with an outcome.

A gate has a name of its own: (step, seed, number). The call of a cancelled job may still stand
where the next job with that picture comes to.

Does not know: jobs, what a step makes.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.job_model.virtual_loop import Fiber, VirtualLoop
    from trellis2_server.reports import Check, Report


class Place(NamedTuple):
    """Where a call stands."""

    step: str
    seed: int
    number: int


class Gates:
    """The gates of all calls.

    Args:
        loop: of the calls.

    Attributes:
        at: the calls that stand at one.
        opened: steps whose calls go on without a stop; None: all of them.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.at: dict[Place, Fiber] = {}
        self.opened: set[str] | None = {"load", "unload", "save", "snapshot"}
        self._loop = loop
        self._outcomes: dict[Place, object] = {}
        self._numbers = itertools.count()

    def stand(self, step: str, seed: int, report: Report) -> object:
        """Wait for a report-driven call, as an engine's: it only looks before and after.

        Returns:
            What `let_go` was given, unless that is an exception, which is raised.
        """
        report(step, 0, 2)
        outcome = self._wait(Place(step, seed, next(self._numbers)), None)
        report(step, 1, 2)
        return outcome

    def stand_and_look(self, step: str, seed: int, look: Check) -> object:
        """Wait for a call that looks again and again whether it goes on, as a decoder's."""
        look()
        return self._wait(Place(step, seed, next(self._numbers)), look)

    def _wait(self, place: Place, look: Callable[[], None] | None) -> object:
        if self.opened is not None and place.step not in self.opened:
            fiber = self._loop.current
            assert fiber is not None
            self.at[place] = fiber
            try:
                while place in self.at:
                    self._loop.pause(is_polling=look is not None)
                    if look is not None:
                        look()
            finally:
                self.at.pop(place, None)
        outcome = self._outcomes.pop(place, None)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def places(self, seed: int | None = None, *steps: str) -> list[Place]:
        """Return where calls stand, in order; those of a seed, or of some steps, if given."""
        return sorted(
            place
            for place in self.at
            if (seed is None or place.seed == seed) and (not steps or place.step in steps)
        )

    def let_go(self, place: Place, outcome: object = None) -> None:
        """Let a call go on with the loop's next turn; an outcome that is an exception is raised."""
        self._outcomes[place] = outcome
        fiber = self.at.pop(place)
        if not fiber.is_polling:  # otherwise it looks by itself
            self._loop.call_soon(fiber.go_on)

    def open_all(self) -> None:
        """Let everything go on, from now on without a stop."""
        self.opened = None
        for place in list(self.at):
            self.let_go(place)
