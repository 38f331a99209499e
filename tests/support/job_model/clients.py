"""The clients of a world: all requests to it, and that each of them is answered.

Does not know: in which order things happen, faults.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.support.job_model.executor import mesh, pictures
from trellis2_server.api import api_keys
from trellis2_server.api.api_keys import KeyRing
from trellis2_server.api.routes.jobs import _events
from trellis2_server.cli.serve import _reload
from trellis2_server.digests import md5
from trellis2_server.errors import ServerError
from trellis2_server.jobs.job import Caller, Job
from trellis2_server.parameters import Delivery, Options, read_options
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from tests.support.job_model.virtual_loop import VirtualLoop
    from trellis2_server.jobs.local_service import LocalJobService
    from trellis2_server.jobs.manager import JobManager

#: Seeds of jobs from this one on have a mesh.
FIRST_MESH_SEED = 100


@functools.cache
def options(seed: int) -> Options:
    made = read_options({"seed": seed, "texture_size": 256}, Settings())
    return replace(made, mesh=md5(mesh(seed))) if seed >= FIRST_MESH_SEED else made


@functools.cache
def keyed_settings(keys: tuple[str, ...]) -> Settings:
    return Settings.model_validate({"server": {"api_keys": keys}})


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
    def readers(self) -> list[asyncio.Task[None]]:
        return [task for _, task in self.streams]

    @property
    def waiters(self) -> list[asyncio.Task[Job]]:
        return self.for_shape + self.for_texture


@dataclass(eq=False)
class Request:
    """A request that is none for a job: an export, a conversion, a lookup or a deletion."""

    kind: str
    seed: int
    owner: str
    task: asyncio.Task[Any]


class Clients:
    """All clients.

    Args:
        loop: of their requests.

    Attributes:
        asked: the jobs that they have requested.
        requests: other requests.
        deleted: jobs whose deletion was confirmed.
        unheard: event streams that may end before their job.
        keys: the API keys that are accepted.
    """

    manager: JobManager
    service: LocalJobService

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.asked: list[Asked] = []
        self.requests: list[Request] = []
        self.deleted: set[str] = set()
        self.unheard: set[asyncio.Task[None]] = set()
        self.keys = KeyRing(())
        self.reload_keys("a", "b")

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

    def submit(  # noqa: PLR0913 - each is a way to ask
        self,
        seed: int,
        *,
        texture: bool | None = True,
        caller: Caller | None = None,
        variant: str = "",
        waits: bool = True,
        has_text: bool = False,
    ) -> Asked:
        """Request a job, wait for its models, and watch it.

        Raises:
            ServerError: it is refused.
        """
        caller = caller or Caller("a", "a")
        given = mesh(seed) if seed >= FIRST_MESH_SEED else None
        submit = partial(self.service.submit, pictures(seed, variant))
        if has_text:
            submit = partial(self.service.submit_text, f"object {seed}")
        job = self.loop.do(submit(options(seed), caller, texture=texture, mesh=given))
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
        return registry._jobs.get(uid)

    def watch(self, asked: Asked) -> None:
        """Open an event stream."""
        job = self.job(asked)
        assert job is not None
        received: list[str] = []

        async def read() -> None:
            is_accepted = partial(self.keys.accepts, asked.caller.owner)
            async for event in _events(self.service, job, is_accepted):
                received.append(event)  # noqa: PERF401 - others look at it meanwhile

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
        request = self._request(
            "send", asked.seed, self.service.create_alias(job, Delivery(texture=True, type="glb"))
        )
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
        call = self.service.identify(pictures(seed), caller, remove_background=True)
        self._request("lookup", seed, call, caller.owner)

    def _request(
        self, kind: str, seed: int, call: Coroutine[Any, Any, Any], owner: str = ""
    ) -> Request:
        request = Request(kind, seed, owner, self.begin(call))
        self.requests.append(request)
        return request

    def reload_keys(self, *keys: str) -> None:
        """Reload the configuration with these keys; the owner of a key is called like it."""
        owner, level = api_keys._owner, logging.getLogger().level
        api_keys._owner = bytes.decode  # type: ignore[assignment] - the real one is slow
        try:
            if not len(self.keys):
                self.keys.replace(keys)
            _reload(lambda: keyed_settings(keys), self.keys)
        finally:
            api_keys._owner = owner
            logging.getLogger().setLevel(level)
        for asked in self.asked:
            if not self.keys.accepts(asked.caller.owner):
                self.unheard |= {task for _, task in asked.streams if not task.done()}

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Cancel a request: its client has disconnected, and refers to nothing any more."""
        task.cancel()
        self.loop.settle()
        assert task.done()
        self.requests = [request for request in self.requests if request.task is not task]
        for asked in self.asked:
            asked.for_shape = [each for each in asked.for_shape if each is not task]
            asked.for_texture = [each for each in asked.for_texture if each is not task]
            asked.streams = [each for each in asked.streams if each[1] is not task]

    def check_answers(self) -> None:
        """Check that every request was answered, by a result or one of the project's errors."""
        for task in self.tasks():
            assert task.done(), f"{task} was not answered"
            assert not task.cancelled(), f"{task} was cancelled with another one"
            error = task.exception()
            assert error is None or isinstance(error, ServerError), repr(error)
        for asked in self.asked:
            for received, task in asked.streams:
                # Unless it was left, its job was removed, or its key was withdrawn.
                if not task.cancelled() and received and task not in self.unheard:
                    assert sum("event: end" in event for event in received) == 1, received
                    assert "event: end" in received[-1]

    def tasks(self) -> list[asyncio.Task[Any]]:
        asking = [task for each in self.asked for task in (*each.waiters, *each.readers)]
        return asking + [request.task for request in self.requests]

    def forget_requests(self) -> None:
        for asked in self.asked:
            asked.for_shape, asked.for_texture, asked.streams = [], [], []
        self.requests = []
        self.asked = [asked for asked in self.asked if asked.uid not in self.deleted]
