"""The callbacks of long calls: a report of progress, and a check whether to go on.

Does not know: which stages there are, jobs.
"""

from __future__ import annotations

from collections.abc import Callable

#: Called with the stage, the number of finished steps and the number of steps. An exception that
#: it raises ends the call. Any thread may call it, several threads one at a time; it may get the
#: same progress several times.
Report = Callable[[str, int, int], None]
#: Called again and again by a call that waits. An exception that it raises ends the call.
Check = Callable[[], None]


def no_report(stage: str, step: int, steps: int) -> None:
    """Do nothing: the report of a call whose progress nobody sees."""
    del stage, step, steps


def no_check() -> None:
    """Do nothing: the check of a call that nobody ends."""


def stage_report(report: Report | None, stage: str, steps: int) -> Callable[[int], None]:
    """Return a function that reports the number of finished steps of one stage.

    Args:
        report: callback of the whole call; None: nothing is reported.
        stage: name of the stage.
        steps: number of steps of the stage.
    """

    def finished(step: int) -> None:
        if report:
            report(stage, step, steps)

    return finished
