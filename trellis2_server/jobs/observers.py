"""`JobObserver`: who is told of what happens to jobs, without being able to change it.

What this module does not know: what an observer does with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Status
    from trellis2_server.jobs.progress import Step


class JobObserver(Protocol):
    """Called on the event loop, but for `note_retry`, which may come from any thread."""

    def note_step(self, step: Step, seconds: float) -> None:
        """A step has ended well."""
        ...

    def note_end(self, engine: str, status: Status) -> None:
        """A job is finished; again, where its texture was asked for after that."""
        ...

    def note_match(self, how: str) -> None:
        """A request got a job that was there: "upload" or, after its cut-out, "picture"."""
        ...

    def note_retry(self) -> None:
        """The engine was out of memory and tries again with less."""
        ...


class NullObserver:
    """An observer that does not look."""

    def note_step(self, step: Step, seconds: float) -> None:
        """Pass."""

    def note_end(self, engine: str, status: Status) -> None:
        """Pass."""

    def note_match(self, how: str) -> None:
        """Pass."""

    def note_retry(self) -> None:
        """Pass."""
