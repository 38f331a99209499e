"""`Lookups`: cut-outs that only serve to find the image hash of a picture, and so its job.

Requests for the same picture of the same owner share one cut-out. When the last of them goes
away, the cut-out stops at its next report. A lookup never delays the steps that wait for the CPU
pool: see `ThreadPools.look_up`.

Does not know: HTTP, how a picture is cut out, limits on new lookups.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter, deque
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from trellis2_server.errors import EngineBrokenError, JobCancelledError, ServerError
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.pending_models import ModelWait
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.images import Cutout, Pictures
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.threads import ThreadPools
    from trellis2_server.jobs.uploads import Upload, Uploads


def _future() -> asyncio.Future[str | ServerError]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Lookup:
    """One cut-out, and the requests that wait for its image hash.

    Attributes:
        upload: key of the picture.
        picture: content of the picture file, or of several.
        clients: number of requests of each client.
        held_bytes: size of the files of these requests, bytes.
        done: future that resolves to the name of the picture's job, or to the error.
        is_stopped: set when no request waits; the cut-out stops at its next report.
        context: of the first request; the cut-out runs in a copy of it.
        model_wait: while it waits for a background model.
    """

    upload: Upload
    picture: Pictures
    clients: Counter[str] = field(default_factory=Counter[str])
    held_bytes: int = 0
    done: asyncio.Future[str | ServerError] = field(default_factory=_future)
    is_stopped: bool = False
    context: Context = field(default_factory=copy_context)
    model_wait: ModelWait | None = None

    def report(self, stage: str, step: int, steps: int) -> None:
        """Do nothing, on any thread, while a request waits.

        Raises:
            StepCancelled: none does.
        """
        del stage, step, steps
        if self.is_stopped:
            raise StepCancelled


class Lookups:
    """The lookups that wait and run. Belongs to the event loop's thread.

    Args:
        executor: cuts pictures out.
        threads: where it does so.
        uploads: remembers image hashes.
        active_jobs: the jobs in progress, whose pictures need no lookup.
        endings: for fatal errors.

    Attributes:
        on_end: called when a cut-out has ended: a thread is free.
    """

    def __init__(
        self,
        executor: Executor,
        threads: ThreadPools,
        uploads: Uploads,
        active_jobs: ActiveJobs,
        endings: JobEndings,
    ) -> None:
        self.on_end: Callable[[], None] = lambda: None
        self._executor = executor
        self._threads = threads
        self._uploads = uploads
        self._active_jobs = active_jobs
        self._endings = endings
        self._by_upload: dict[Upload, Lookup] = {}
        self._queue: deque[Lookup] = deque()
        self._without_model: set[Lookup] = set()

    # ---- counts ----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of lookups that wait for a thread, or for a background model."""
        return len(self._queue) + len(self._without_model)

    @property
    def is_stuck(self) -> bool:
        """Whether lookups wait, and every thread that may run them has hung for long."""
        return bool(self._queue) and self._threads.is_cpu_stuck(for_lookups=True)

    @property
    def held_bytes(self) -> int:
        """Size of the files of all requests that wait for a lookup, bytes."""
        return sum(lookup.held_bytes for lookup in self._by_upload.values())

    def requests_of(self, client: str) -> int:
        """Return the number of requests of the client that wait for a lookup."""
        return sum(lookup.clients[client] for lookup in self._by_upload.values())

    # ---- requests --------------------------------------------------------------------------

    def known_name(self, upload: Upload) -> str | None:
        """Return the upload's image hash, or the uid of an active job; None: look it up."""
        return self._uploads.image_hash(upload) or self._active_jobs.find_by_upload(upload)

    def is_active(self, upload: Upload) -> bool:
        """Return whether a lookup of that upload waits or runs."""
        return upload in self._by_upload

    async def find(self, upload: Upload, picture: Pictures, client: str) -> str:
        """Return the name of the picture's job: its image hash, or the uid of an active job.

        Args:
            upload: key of the picture.
            picture: content of the picture file, or of several.
            client: who asks.

        Raises:
            InputError: the file is no picture, or there is no object in it.
            ServerError: the picture could not be cut out.
        """
        lookup = self._by_upload.get(upload)
        if lookup is None:
            lookup = self._by_upload[upload] = Lookup(upload, picture)
            self._queue.append(lookup)
        lookup.clients[client] += 1
        lookup.held_bytes += len(picture)
        self.wake()
        try:
            name = await asyncio.shield(lookup.done)
        finally:
            lookup.clients[client] -= 1
            lookup.held_bytes -= len(picture)
            if not lookup.clients.total():
                self._drop(lookup)
        if isinstance(name, ServerError):
            raise copy.copy(name)
        return name

    def fail_all(self, error: ServerError, *, running: bool) -> None:
        """Answer all requests with the error: those of waiting lookups, or of running ones too."""
        waiting = {*self._queue, *self._without_model}
        for lookup in list(self._by_upload.values()):
            if running or lookup in waiting:
                self._resolve(lookup, error)

    # ---- work ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Start every lookup that can start; call it whenever that may have changed."""
        for lookup in list(self._queue):
            name = self._uploads.image_hash(lookup.upload)
            if name is not None:  # a job has cut the picture out in the meantime
                self._resolve(lookup, name)
        while self._queue and self._threads.lookup_has_room:
            lookup = self._queue.popleft()
            uid = self._active_jobs.find_by_upload(lookup.upload)
            if uid is not None:
                self._resolve(lookup, uid)
            else:
                self._start(lookup)

    def _start(self, lookup: Lookup) -> None:
        cut_out = partial(
            self._executor.cut_out,
            lookup.picture,
            remove_background=lookup.upload.remove_background,
            report=lookup.report,
        )
        future = self._threads.look_up(cut_out, lookup.context, lookup.clients)
        future.add_done_callback(partial(self._ended, lookup), context=lookup.context)

    def _ended(self, lookup: Lookup, future: asyncio.Future[Cutout]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            self._resolve(lookup, self._uploads.remember(lookup.upload, future.result()))
        elif isinstance(error, ModelPending) and not lookup.is_stopped:
            self._wait_for_model(lookup, error)
        elif isinstance(error, ServerError):
            self._resolve(lookup, error)
        else:
            self._resolve(lookup, JobCancelledError("cancelled"))
        if isinstance(error, EngineBrokenError):
            self._endings.fail_permanently(str(error))
        self.on_end()

    def _wait_for_model(self, lookup: Lookup, pending: ModelPending) -> None:
        """Queue the lookup again when its background model is loaded; no thread waits."""
        self._without_model.add(lookup)

        def requeue() -> None:
            if lookup in self._without_model:
                self._without_model.discard(lookup)
                self._queue.append(lookup)
                self.wake()

        lookup.model_wait = ModelWait(pending, requeue)

    def _resolve(self, lookup: Lookup, name: str | ServerError) -> None:
        if not lookup.done.done():
            # Without its traceback, whose frames would hold the picture.
            lookup.done.set_result(copy.copy(name) if isinstance(name, ServerError) else name)
        self._drop(lookup)

    def _drop(self, lookup: Lookup) -> None:
        """Forget a lookup; a cut-out that runs stops at its next report."""
        lookup.is_stopped = True
        lookup.picture = b""  # the step's thread may refer to the lookup for long
        if lookup.model_wait is not None:
            lookup.model_wait.cancel()
        if self._by_upload.get(lookup.upload) is lookup:
            del self._by_upload[lookup.upload]
        if lookup in self._queue:
            self._queue.remove(lookup)
        self._without_model.discard(lookup)
