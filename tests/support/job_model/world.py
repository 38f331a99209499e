"""A job manager in a world without time and threads, all requests to it, and what must hold.

Does not know: in which order things happen.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tests.support.job_model.disk import Disk, Kept
from tests.support.job_model.executor import GatedExecutor, mesh, picture
from tests.support.job_model.gates import Gates
from tests.support.job_model.virtual_loop import VirtualLoop
from tests.support.managers import NoMetrics
from trellis2_server.api.routes.jobs import _events
from trellis2_server.digests import md5
from trellis2_server.errors import JobNotFoundError, ServerError
from trellis2_server.jobs.job import Caller, Job, Status
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import ARCHIVE_GRACE_S, JobManager
from trellis2_server.parameters import Delivery, Options, read_options
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

TIMEOUT_S, GRACE_S, IDLE_S, ABANDONED_S, MAX_AGE_S = 1000.0, 10.0, 300.0, 120.0, 5000.0
QUEUE_LENGTH = 4
#: Seeds of jobs from this one on have a mesh.
FIRST_MESH_SEED = 100


@functools.cache
def options(seed: int) -> Options:
    made = read_options({"seed": seed, "texture_size": 256}, Settings())
    return replace(made, mesh=md5(mesh(seed))) if seed >= FIRST_MESH_SEED else made


@functools.cache
def settings(limit: int, recycle_after: int | None) -> Settings:
    return Settings.model_validate(
        {
            "worker": {
                "limit_model_concurrency": limit,
                "stage_timeout_seconds": TIMEOUT_S,
                "recycle_after_jobs": recycle_after,
                "max_queue_length": QUEUE_LENGTH,
                "max_exports_per_client": 2,
                "abandoned_job_seconds": ABANDONED_S,
                "job_max_age_seconds": MAX_AGE_S,
                "job_cleanup_interval_seconds": 60,
            },
            "server": {"shutdown_grace_seconds": GRACE_S},
            "model": {"idle_unload_seconds": IDLE_S},
        }
    )


@dataclass(eq=False)
class Asked:
    """A requested job, and the requests that wait for it.

    Attributes:
        uid: of the job as it was accepted; it may have been merged since.
        seed: of its picture and options.
        caller: who asked.
        streams: its event streams: what each has received, and its task.
    """

    uid: str
    seed: int
    caller: Caller
    for_shape: list[asyncio.Task[Job]] = field(default_factory=list["asyncio.Task[Job]"])
    for_texture: list[asyncio.Task[Job]] = field(default_factory=list["asyncio.Task[Job]"])
    streams: list[tuple[list[str], asyncio.Task[None]]] = field(
        default_factory=list["tuple[list[str], asyncio.Task[None]]"]
    )

    @property
    def waiters(self) -> list[asyncio.Task[Job]]:
        return self.for_shape + self.for_texture


@dataclass(eq=False)
class Request:
    """A request that is none for a job: an export, a conversion, a lookup or a deletion."""

    kind: str
    seed: int
    task: asyncio.Task[Any]


class Complaints(logging.Handler):
    """Takes note of results that were not understood, and of callbacks that failed."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Any] = []
        self.are_allowed = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.getMessage() in {"Result not understood", "The cleanup failed"}:
            self.note(record.getMessage(), record.exc_info)

    def note(self, *what: object) -> None:
        if not self.are_allowed:
            self.all.append(what)


class World:
    """A job manager, its engine, its disk and its clients.

    Args:
        limit: `worker.limit_model_concurrency`.
        cpu_workers: number of calls on the CPU pool at a time.
        decoders: maximum number of decoders.
        recycle_after: `worker.recycle_after_jobs`.

    Attributes:
        ends: how often each job has come to an end.
        deleted: jobs whose deletion was confirmed.
    """

    def __init__(
        self,
        *,
        limit: int = 2,
        cpu_workers: int = 2,
        decoders: int = 4,
        recycle_after: int | None = None,
    ) -> None:
        self.loop = VirtualLoop()
        self.complaints = Complaints()
        self.loop.set_exception_handler(lambda _, context: self.complaints.note(context))
        logging.getLogger("trellis2_server").addHandler(self.complaints)
        self.settings = settings(limit, recycle_after)
        self.sizes = (cpu_workers, decoders)
        self.disk = Disk()
        self.asked: list[Asked] = []
        self.requests: list[Request] = []
        self.ends: Counter[str] = Counter()
        self.deleted: set[str] = set()
        self.accepted: set[str] = {"", "a", "b"}
        self.closing: asyncio.Task[None] | None = None
        self.start()

    # ---- the manager ---------------------------------------------------------------------

    def start(self) -> None:
        """Start a manager on the disk, and load its engine."""
        self.closing = None
        self.gates = Gates(self.loop)
        self.executor = GatedExecutor(self.loop, self.gates, *self.sizes)
        self.store = Kept(self.disk, self.gates)
        self.loop.do(self._start())
        assert self.manager.lifecycle.status == "ok"

    async def _start(self) -> None:
        self.manager = JobManager(
            self.executor, self.settings, store=self.store, clock=self.loop.time
        )
        self.service = LocalJobService(self.manager, NoMetrics())
        self.manager.start()
        self.ends.update({job.uid: 1 - self.ends[job.uid] for job in self.manager.registry})
        self._check_changes(self.manager)

    def _check_changes(self, manager: JobManager) -> None:
        """Check each change of a job, and count how often it comes to an end."""
        registry, put = manager.registry, manager.registry.put

        def checked(job: Job) -> Job:
            if self.manager is not manager or self.store.is_cut_off:
                return put(job)
            known = registry._jobs.get(job.uid)
            was_finished = known is not None and known.status.is_finished
            if job.status.is_finished and not was_finished and known is not None:
                self.ends[job.uid] += 1
            if known and known.status is Status.COMPLETED and not job.status.is_finished:
                self.ends[job.uid] -= 1  # its texture is made after all
            if known and known.status is job.status and known.progress and job.progress:
                assert known.progress.fraction <= job.progress.fraction <= 1
            if job.status is Status.TEXTURE_PROCESSING:
                assert job.shape_glb
            if job.status is Status.COMPLETED:
                assert job.shape_glb or (job.shape_error and job.textured_glb)
            return put(job)

        registry.put = checked  # type: ignore[method-assign]

    @property
    def is_open(self) -> bool:
        """Whether new work is accepted."""
        return self.closing is None and self.manager.availability.fatal_error is None

    def shut_down(self) -> None:
        """Start to close the manager; jobs that run have `GRACE_S`."""
        if self.closing is None:
            self.closing = self.loop.create_task(self.manager.close())
            self.loop.settle()

    def close(self) -> None:
        """Close the manager, whatever stands where; everybody is answered."""
        self.shut_down()
        self.loop.pass_time(GRACE_S + ARCHIVE_GRACE_S + 1)
        assert self.closing is not None
        assert self.closing.done()
        self.check_answers()
        for job in self.manager.registry:
            assert job.status.is_finished
            assert self.ends[job.uid] == 1, (job, self.ends[job.uid])
        self.gates.open_all()
        self.loop.settle()
        self.check_nothing_is_left()

    def reopen(self) -> None:
        """Close the manager, and start another one on its disk."""
        self.close()
        before = {job.uid: job for job in self.manager.registry}
        is_written = not self.disk.is_full
        self._forget_requests()
        self.start()
        if is_written:
            self._check_restored(before)

    def kill(self) -> None:
        """End the process without a warning, and start another one on its disk."""
        told = self._told()
        self.store.is_cut_off = True
        # What follows only frees what the operating system would: nobody is answered any more.
        self.complaints.are_allowed = True
        for task in self._tasks():
            task.cancel()
        self.gates.open_all()
        self.shut_down()
        self.loop.pass_time(2 * (GRACE_S + ARCHIVE_GRACE_S))
        self.complaints.are_allowed = False
        self._forget_requests()
        self.start()
        registry = self.manager.registry
        for uid, files in told.items():
            assert uid in registry, "a job that a client was told of is lost"
            assert files <= _files(registry[uid]), "a file that a client was told of is lost"
        assert not {uid for uid in self.deleted if uid in registry}

    def _told(self) -> dict[str, set[str]]:
        """What clients know to exist, by the uid of a job."""
        told: dict[str, set[str]] = {}
        for asked in self.asked:
            for waiter in asked.waiters:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    job = waiter.result()
                    if job.uid in self.manager.registry and job.uid not in self.deleted:
                        told.setdefault(job.uid, set()).update(_files(job))
        is_saved = not self.disk.is_full and not self.service._results.notes
        lost = {file.uid for file in self.disk.lost}
        return {uid: files for uid, files in told.items() if uid not in lost} if is_saved else {}

    def _check_restored(self, before: dict[str, Job]) -> None:
        registry = self.manager.registry
        lost = {file.uid for file in self.disk.lost}
        for uid, job in before.items():
            if uid in lost:
                continue
            assert uid in registry
            assert _files(registry[uid]) == _files(job)
            was_stopped = job.status is Status.CANCELLED and "shutting down" in str(job.error)
            assert registry[uid].status is (Status.ERROR if was_stopped else job.status)
        assert {job.uid for job in registry} <= before.keys()

    def _forget_requests(self) -> None:
        for asked in self.asked:
            asked.for_shape, asked.for_texture, asked.streams = [], [], []
        self.requests = []
        self.asked = [asked for asked in self.asked if asked.uid not in self.deleted]

    def _tasks(self) -> list[asyncio.Task[Any]]:
        asking = [task for each in self.asked for task in (*each.waiters, *_streams(each))]
        return asking + [request.task for request in self.requests]

    # ---- requests ------------------------------------------------------------------------

    def run(self, call: Callable[[], object]) -> Any:
        """Call a function on the event loop, then settle."""

        async def calling() -> object:
            return call()

        return self.loop.do(calling())

    def begin(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a request; settle."""
        task = self.loop.create_task(call)
        self.loop.settle()
        return task

    def submit(
        self,
        seed: int,
        *,
        texture: bool | None = True,
        caller: Caller | None = None,
        variant: str = "",
        waits: bool = True,
    ) -> Asked:
        """Request a job, wait for its models, and watch it.

        Raises:
            ServerError: it is refused.
        """
        caller = caller or Caller("a", "a")
        given = mesh(seed) if seed >= FIRST_MESH_SEED else None
        job = self.loop.do(
            self.service.submit(
                picture(seed, variant), options(seed), caller, texture=texture, mesh=given
            )
        )
        asked = Asked(job.uid, seed, caller)
        self.asked.append(asked)
        if waits:
            self.watch(asked)
            asked.for_shape.append(self.begin(self.service.wait_for_shape(job)))
            if texture is not False:
                asked.for_texture.append(self.begin(self.service.wait_for_texture(job)))
        return asked

    def job(self, asked: Asked) -> Job | None:
        """Return the job that was asked for; None: it is removed."""
        registry = self.manager.registry
        uid = registry._merged.get(asked.uid, asked.uid)
        return registry[uid] if uid in registry else None

    def watch(self, asked: Asked) -> None:
        """Open an event stream."""
        job = self.job(asked)
        assert job is not None
        received: list[str] = []

        async def read() -> None:
            async for event in _events(
                self.service, job, lambda: asked.caller.owner in self.accepted
            ):
                received.append(event)

        asked.streams.append((received, self.begin(read())))

    def want_texture(self, asked: Asked) -> None:
        """Wait for a job's texture, which may have to be made yet."""
        job = self.job(asked)
        if job is not None:
            asked.for_texture.append(self.begin(self.service.wait_for_texture(job)))

    def send(self, asked: Asked) -> str | None:
        """Make another uid of a job, as `/send` does; return it."""
        job = self.job(asked)
        if job is None:
            return None
        request = self._request("send", asked.seed, self.service.create_alias(job, Delivery()))
        return request.task.result() if request.task.done() else None

    def delete(self, asked: Asked, caller: Caller | None = None) -> None:
        """Cancel or delete a job."""
        job = self.job(asked)
        uid = job.uid if job else asked.uid
        was_finished = bool(job and job.status.is_finished)

        async def delete() -> None:
            await self.service.delete(uid, caller or asked.caller)
            if was_finished and uid not in self.manager.registry:
                self.deleted.add(uid)

        self._request("delete", asked.seed, delete())

    def export_again(self, asked: Asked, size_px: int, *, texture: bool | None = None) -> None:
        """Export a finished job with another size of its texture."""
        job = self.job(asked)
        if job is not None:
            wanted = replace(job.options, texture_size=size_px)
            call = self.service.export(job, wanted, asked.caller, texture=texture)
            self._request("export", asked.seed, call)

    def convert(self, asked: Asked, file_type: Any = "obj", *, is_delivery: bool = False) -> None:
        """Convert a finished model."""
        job = self.job(asked)
        model = job and (job.textured_glb or job.shape_glb)
        if model:
            call = self.service.convert(model, file_type, asked.caller, is_delivery=is_delivery)
            self._request("convert", asked.seed, call)

    def look_up(self, seed: int, caller: Caller | None = None) -> None:
        """Ask for the image hash of a picture."""
        caller = caller or Caller("a", "a")
        call = self.service.identify(picture(seed), caller, remove_background=True)
        self._request("lookup", seed, call)

    def _request(self, kind: str, seed: int, call: Coroutine[Any, Any, Any]) -> Request:
        request = Request(kind, seed, self.begin(call))
        self.requests.append(request)
        return request

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Cancel a request: its client has disconnected."""
        task.cancel()
        self.loop.settle()
        assert task.done()

    def let_go(self, seed: int, *steps: str, outcome: object = None) -> None:
        """Let the call of a job go on from the gate of one of the steps."""
        places = self.gates.places(seed, *steps)
        assert places, f"{seed} is not at {steps}, but {self.gates.places()}"
        self.gates.let_go(places[0], outcome)
        self.loop.settle()

    # ---- what must hold ------------------------------------------------------------------

    def check_answers(self) -> None:
        """Check that every request was answered, by a result or one of the project's errors."""
        for task in self._tasks():
            assert task.done(), f"{task} was not answered"
            error = None if task.cancelled() else task.exception()
            assert error is None or isinstance(error, ServerError), repr(error)
        for asked in self.asked:
            for received, task in asked.streams:
                # Unless it was left, its job was removed, or its key was withdrawn.
                if not task.cancelled() and asked.caller.owner in self.accepted and received:
                    assert sum("event: end" in event for event in received) <= 1

    def check_nothing_is_left(self) -> None:
        """Check that a closed manager has left nothing behind."""
        loop, manager = self.loop, self.manager
        threads = manager.threads
        assert not self.gates.at
        assert not loop.fibers
        assert not loop.timers(), loop.timers()
        assert not asyncio.all_tasks(loop)
        pools = (threads._device, threads._cpu, threads._lookup)
        assert (threads.steps_running, threads.lookups, threads.hung) == (0, 0, 0)
        assert [(pool.running, pool.held) for pool in pools] == [(0, Counter())] * len(pools)
        archive = manager.archive
        executors = [pool.executor for pool in pools]
        executors += [part._executor for part in (archive._writes, archive._reads, archive._deferred)]
        assert all(executor._shutdown for executor in executors)
        assert not self.store.is_open
        assert not manager.subscriptions._by_uid
        assert not manager.export_calls.unfinished
        assert not manager.export_calls._last_turns
        lookups = manager.lookups
        assert (lookups.waiting, lookups.held_bytes, len(lookups._by_upload)) == (0, 0, 0)
        assert not manager.active_jobs.upload_bytes
        assert not sum(active.waiters for active in manager.active_jobs)
        decoders = self.executor.decoders
        assert not decoders.alive
        assert not decoders.processes
        self._check_memory()
        assert not self.complaints.all, self.complaints.all

    def _check_memory(self) -> None:
        """Check that only jobs whose texture may still be requested hold what was made."""
        for model in self.executor.models:
            model.cancel()
        self.executor.models.clear()
        gc.collect()
        manager = self.manager
        holding = {manager.registry[active.uid].options.seed for active in manager.active_jobs}
        assert {made.seed for made in self.executor.made} <= holding

    def end(self) -> None:
        """End the world, at the end of an example; everything is answered, nothing is left."""
        try:
            self.disk.is_full = False
            if self.closing is None or not self.closing.done():
                self.gates.open_all()
                self.loop.settle()
            self.close()
        finally:
            logging.getLogger("trellis2_server").removeHandler(self.complaints)
            self.loop.close()
        gc.collect()
        assert not self.complaints.all, self.complaints.all


def _files(job: Job) -> set[str]:
    return {file.name for file in (job.shape_glb, job.textured_glb) if file}


def _streams(asked: Asked) -> list[asyncio.Task[None]]:
    return [task for _, task in asked.streams]


__all__ = ["Asked", "JobNotFoundError", "World"]
