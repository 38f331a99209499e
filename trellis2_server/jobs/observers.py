"""`JobObserver`: is notified of what happens to jobs, and cannot change it.

Does not know: what an observer does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Status
    from trellis2_server.jobs.steps import Step


class JobObserver(Protocol):
    """Called on the event loop; `note_retry` may be called on any thread."""

    def note_step(self, step: Step, seconds: float) -> None:
        """Note that a step has succeeded, and its duration."""
        ...

    def note_end(self, engine: str, status: Status) -> None:
        """Note that a job is finished; a job whose texture is requested later ends twice."""
        ...

    def note_match(self, how: str) -> None:
        """Note that a request got a known job: by "upload" or, after the cut-out, "picture"."""
        ...

    def note_retry(self) -> None:
        """Note that the engine ran out of memory and tries again with less."""
        ...


class NullObserver:
    """An observer that does nothing."""

    def note_step(self, step: Step, seconds: float) -> None:
        """Do nothing."""

    def note_end(self, engine: str, status: Status) -> None:
        """Do nothing."""

    def note_match(self, how: str) -> None:
        """Do nothing."""

    def note_retry(self) -> None:
        """Do nothing."""
