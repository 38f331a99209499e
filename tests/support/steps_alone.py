"""Results of steps without steps: a job whose steps end when the test says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.support.parts import Parts
from trellis2_server.jobs.step_results import StepResults
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.errors import (
        ServerError,
    )
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.steps import Step

CUTOUT: Any = SimpleNamespace(
    views=(), image_hash="a" * 32, background="alpha", warnings=("dark",), png=lambda: b"png"
)
SHAPE: Any = SimpleNamespace(
    resolution=512, warnings=("coarse",), details={"depth": "round", "back": "mirror"}
)
FIELD: Any = SimpleNamespace(warnings=("a seam",), details={"back": "fill"})
EXPORTED = ("geometry", b"glTF", "b" * 32)


class Calls:
    """Names each call by its step and what it works with."""

    def __getattr__(self, name: str) -> Any:
        return lambda first, *others: (name, *(others or (first,)))


class Shelf:
    """An archive that notes what is stored."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.deferred: dict[str, tuple[Any, bool]] = {}

    def store_file(self, uid: str, name: str, content: bytes) -> Artifact:
        self.files[name] = content
        return Artifact(uid, name, len(content))

    def store_deferred(self, uid: str, name: str, make: Any, *, is_evictable: bool) -> None:
        del uid
        self.deferred[name] = make, is_evictable


class Matcher:
    """Knows the job that a test says."""

    def __init__(self) -> None:
        self.known: Job | None = None
        self.heard: list[str] = []

    def find_by_cutout(self, active: ActiveJob, cutout: Any) -> Job | None:
        del active, cutout
        return self.known

    def merge(self, active: ActiveJob, known: Job) -> None:
        del active, known
        self.heard.append("merge")

    def follow(self, active: ActiveJob, known: Job) -> None:
        del active, known
        self.heard.append("follow")


class Stage:
    """The results, and a job that waits for them; `done` is a step that has ended."""

    def __init__(self, *, wants_texture: bool = True, mesh: bytes | None = None) -> None:
        self.parts, self.shelf, self.matcher = Parts(), Shelf(), Matcher()
        calls: Any = Calls()
        shelf: Any = self.shelf
        matcher: Any = self.matcher
        self.results = StepResults(
            calls, self.parts.active_jobs, shelf, matcher, self.parts.availability,
            self.parts.endings,
        )  # fmt: skip
        self.results.enqueue = self._enqueue
        self.queued: list[tuple[Step, Any]] = []
        self.active = self.parts.add(mesh=mesh)
        self.active.wants_texture = wants_texture

    def _enqueue(self, active: ActiveJob, step: Step, call: Callable[[], Any]) -> None:
        active.add_step(step, call)
        self.queued.append((step, call))

    def take(self, step: Step, result: Any) -> None:
        self.active.steps.pop(step, None)
        self.results.take(self.active, step, result)

    def fail(self, step: Step, error: ServerError) -> None:
        self.active.steps.pop(step, None)
        self.results.fail(self.active, step, error)

    @property
    def job(self) -> Job:
        return self.parts.active_jobs.record(self.active)

    @property
    def steps(self) -> list[Step]:
        return [step for step, _ in self.queued]


def shaped(**more: Any) -> Stage:
    """A job whose shape was made just now."""
    stage = Stage(**more)
    stage.results.start_job(stage.active, b"picture")
    stage.take("cutout", CUTOUT)
    stage.take("shape", SHAPE)
    return stage
