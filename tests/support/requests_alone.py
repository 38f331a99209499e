"""All that stands between a request and its job, without threads."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.managers import options
from tests.support.parts import Parts
from trellis2_server.inputs.images import Cutout
from trellis2_server.jobs.job import Caller, Job
from trellis2_server.jobs.lookups import Lookups
from trellis2_server.jobs.matching import JobMatcher
from trellis2_server.jobs.queue import job_future
from trellis2_server.jobs.submissions import Submissions
from trellis2_server.jobs.uploads import Uploads
from trellis2_server.jobs.waiting import ResultWaiter
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.jobs.queue import ActiveJob

SHAPE, TEXTURED = Artifact("uid", "shape.glb", 1), Artifact("uid", "textured.glb", 1)
ME = Caller("owner", "client")


def cutout(value: int = 0, alpha: int = 255) -> Cutout:
    pixels = np.full((4, 4, 4), value, np.uint8)
    pixels[..., 3] = alpha
    return Cutout(pixels, "alpha")


class Heard:
    """An observer of matches."""

    def __init__(self) -> None:
        self.matches: list[str] = []

    def note_match(self, how: str) -> None:
        self.matches.append(how)


class Threads:
    """Look-ups that end when the test says so."""

    def __init__(self) -> None:
        self.room = 1
        self.running: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self.is_stuck: list[bool] = []

    @property
    def lookup_has_room(self) -> bool:
        return self.room > 0

    def look_up(self, call: Any, context: Any, clients: Any) -> asyncio.Future[Any]:
        del context, clients
        self.room -= 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.running.append((call, future))
        return future

    def is_cpu_stuck(self, *, for_lookups: bool = False) -> bool:
        self.is_stuck.append(for_lookups)
        return True


class Requests:
    """All that stands between a request and its job."""

    def __init__(self) -> None:
        self.parts, self.uploads, self.heard, self.threads = Parts(), Uploads(), Heard(), Threads()
        self.registry = self.parts.registry
        observer: Any = self.heard
        threads: Any = self.threads
        executor: Any = SimpleNamespace(cut_out=lambda *_, **__: cutout())
        self.matcher = JobMatcher(self.parts.active_jobs, self.uploads, observer)
        self.lookups = Lookups(
            executor, threads, self.uploads, self.parts.active_jobs, self.parts.endings
        )
        self.checked: list[tuple[Any, ...]] = []
        self.started: list[bytes] = []
        self.textures: list[str] = []
        self.wakes = 0
        admission: Any = SimpleNamespace(
            check_open=lambda: self.checked.append(("open",)),
            check_queue=lambda: self.checked.append(("queue",)),
            check_new_job=lambda size, caller: self.checked.append(("job", size, caller.client)),
            check_upload=lambda size, caller: self.checked.append(("upload", size, caller.client)),
        )
        results: Any = SimpleNamespace(start_job=self._start, request_texture=self._request)
        texts: Any = SimpleNamespace(
            digest=lambda text, seed, owner: f"{text} {seed} {owner}", start=self._start_text
        )
        self.submissions = Submissions(
            self.parts.active_jobs, admission, self.matcher, self.lookups, results, texts
        )
        self.submissions.engine = "engine"
        self.submissions.on_request = self._wake
        self.waiter = ResultWaiter(self.parts.active_jobs, results, self.parts.availability)

    def _start(self, active: ActiveJob, picture: bytes) -> None:
        self.parts.active_jobs.add(active)
        self.started.append(picture)

    def _start_text(self, active: ActiveJob, text: str, seed: int) -> None:
        del seed
        self._start(active, text.encode())

    def _request(self, job: Job) -> None:
        self.textures.append(job.uid)
        active = self.parts.active_jobs.get(job.uid)
        if active is not None:
            active.wants_texture = True
            active.texture_done = active.texture_done or job_future()

    def _wake(self) -> None:
        self.wakes += 1

    def active(self, job: Job) -> ActiveJob:
        found = self.parts.active_jobs.get(job.uid)
        assert found is not None
        return found

    def change(self, job: Job, **changes: Any) -> Job:
        return self.parts.active_jobs.change(self.active(job), **changes)

    async def submit(
        self,
        picture: bytes = b"picture",
        *,
        texture: bool | None = None,
        seed: int = 1,
        **more: Any,
    ) -> Job:
        return await self.submissions.submit(picture, options(seed), ME, texture=texture, **more)
