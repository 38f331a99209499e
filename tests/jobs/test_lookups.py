"""Pictures that are cut out only to find their jobs: shared, cancelled, limited."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.live_objects import live_objects
from tests.support.managers import begin, in_a_loop, options, submit, until, working
from tests.support.server import ON_RAY, fields, picture, serving
from tests.support.server import until as until_so
from trellis2_server.errors import (
    InputError,
    JobCancelledError,
    QueueFullError,
    ShuttingDownError,
    TooManyRequestsError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.job import Caller
from trellis2_server.jobs.lookups import Lookup
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.managers import JobsUnderTest
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import RemoveBackground


class Cutouts:
    """Cut-outs that wait for a gate of their picture, and listen to their report meanwhile."""

    def __init__(self, executor: LocalExecutor) -> None:
        self.begun: list[bytes] = []
        self.stopped: list[bytes] = []
        self.held: dict[bytes, threading.Event] = {}
        self._cut_out = executor.cut_out
        executor.cut_out = self.cut_out  # type: ignore[method-assign]

    def hold(self, content: bytes) -> threading.Event:
        return self.held.setdefault(content, threading.Event())

    def open_all(self) -> None:
        for gate in self.held.values():
            gate.set()

    def cut_out(
        self, picture: bytes, *, remove_background: RemoveBackground, report: Report
    ) -> Cutout:
        self.begun.append(picture)
        gate = self.held.get(picture)
        try:
            while gate is not None and not gate.wait(0.005):
                report("cutout", 0, 1)
        except StepCancelled:
            self.stopped.append(picture)
            raise
        return self._cut_out(picture, remove_background=remove_background, report=report)


@asynccontextmanager
async def looking_up(**limits: Any) -> AsyncGenerator[tuple[JobsUnderTest, Cutouts, GatedEngine]]:
    engine = GatedEngine()
    async with working(engine, **limits) as service:
        executor = service.manager.executor
        assert isinstance(executor, LocalExecutor)
        cutouts = Cutouts(executor)
        try:
            yield service, cutouts, engine
        finally:
            cutouts.open_all()


def ask(service: JobsUnderTest, content: bytes, client: str = "") -> asyncio.Task[str]:
    return asyncio.ensure_future(
        service.identify(content, Caller(client=client), remove_background=True)
    )


def held(service: JobsUnderTest) -> int:
    """Bytes of the files of all requests that wait for a lookup."""
    return service.manager.lookups.held_bytes


async def fill(service: JobsUnderTest, cutouts: Cutouts) -> list[asyncio.Task[str]]:
    """Have pictures looked up, at gates, until no thread takes another one."""
    asked: list[asyncio.Task[str]] = []
    while service.manager.threads.lookup_has_room:
        content = picture(200 - len(asked))
        cutouts.hold(content)
        asked.append(ask(service, content))
        await until(lambda content=content: content in cutouts.begun)
    return asked


@in_a_loop
async def test_a_picture_that_is_known_is_not_held_up_by_slow_ones() -> None:
    async with looking_up() as (service, cutouts, engine):
        done = await service.wait_for_texture(await submit(service, 1))
        engine.wait_for("shape")
        gate = engine.hold("shape", 2)
        running = await service.submit(picture(3), options(2), texture=None)
        await begin(engine, "shape")
        slow = await fill(service, cutouts)
        assert await ask(service, picture()) == done.image_hash
        assert await ask(service, picture(3)) == service.job(running.uid).image_hash
        assert not any(task.done() for task in slow)
        gate.set()
        cutouts.open_all()
        await asyncio.gather(*slow)


@in_a_loop
async def test_requests_for_the_same_picture_share_one_cutout() -> None:
    async with looking_up() as (service, cutouts, _):
        gate = cutouts.hold(picture())
        asked = [ask(service, picture(), client) for client in ("a", "b", "b")]
        await until(lambda: held(service) == 3 * len(picture()))
        assert service.manager.lookups.requests_of("b") == 2
        gate.set()
        names = {await task for task in asked}
        assert len(names) == 1
        assert cutouts.begun == [picture()]
        assert held(service) == service.manager.lookups.requests_of("b") == 0


@in_a_loop
async def test_owners_do_not_share_a_cutout() -> None:
    async with looking_up() as (service, cutouts, _):
        cutouts.hold(picture())
        asked = [
            asyncio.ensure_future(
                service.identify(picture(), Caller(owner, owner), remove_background=True)
            )
            for owner in ("alice", "bob")
        ]
        await until(lambda: len(cutouts.begun) == 2)
        cutouts.open_all()
        await asyncio.gather(*asked)


@in_a_loop
async def test_an_error_reaches_every_request_as_its_own_exception() -> None:
    async with looking_up() as (service, cutouts, _):
        gate = cutouts.hold(b"no picture")
        asked = [ask(service, b"no picture") for _ in range(2)]
        await until(lambda: held(service) == 20)
        gate.set()
        errors = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in errors] == [InputError] * 2
        assert errors[0] is not errors[1]


@in_a_loop
async def test_when_the_last_client_goes_away_the_cutout_stops() -> None:
    async with looking_up() as (service, cutouts, _):
        cutouts.hold(picture())
        first, second = (ask(service, picture()) for _ in range(2))
        await until(lambda: len(cutouts.begun) == 1 and held(service) == 2 * len(picture()))
        first.cancel()
        await asyncio.wait({first})
        assert held(service) == len(picture())
        assert not cutouts.stopped
        second.cancel()
        await asyncio.wait({second})
        await until(lambda: cutouts.stopped == [picture()])
        await until(lambda: service.manager.is_idle)
        assert held(service) == 0
        cutouts.open_all()
        assert await ask(service, picture())  # nothing is left of the cancelled one


@in_a_loop
async def test_a_lookup_whose_client_goes_away_while_it_waits_never_starts() -> None:
    async with looking_up() as (service, cutouts, _):
        slow = await fill(service, cutouts)
        waiting = ask(service, picture())
        await until(lambda: service.manager.lookups.waiting == 1)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert service.manager.lookups.waiting == 0
        cutouts.open_all()
        await asyncio.wait(slow)
        assert picture() not in cutouts.begun


@in_a_loop
async def test_a_lookup_that_waits_is_answered_once_a_job_has_cut_the_picture_out() -> None:
    async with looking_up() as (service, cutouts, _):
        slow = await fill(service, cutouts)
        waiting = ask(service, picture())
        await until(lambda: service.manager.lookups.waiting == 1)
        job = await submit(service, 1)
        assert await waiting == (await service.wait_for_shape(job)).image_hash
        assert cutouts.begun.count(picture()) == 1
        assert not any(task.done() for task in slow)
        cutouts.open_all()
        await asyncio.gather(*slow)


# ---- limits ------------------------------------------------------------------------------------


@in_a_loop
async def test_lookups_that_wait_take_places_in_the_queue() -> None:
    async with looking_up(max_queue_length=1) as (service, cutouts, _):
        slow = await fill(service, cutouts)
        waiting = ask(service, picture())
        await until(lambda: service.manager.lookups.waiting == 1)
        with pytest.raises(QueueFullError):
            await ask(service, picture(1))
        with pytest.raises(QueueFullError):
            await submit(service, 1)
        shared = ask(service, picture())  # takes no place of its own
        cutouts.open_all()
        await asyncio.gather(*slow)
        assert await waiting == await shared
        assert await ask(service, picture(1))


@in_a_loop
async def test_the_files_of_lookups_count_in_the_bytes_that_may_wait() -> None:
    padded = [picture(at) + bytes(30_000) for at in range(3)]
    async with looking_up(max_waiting_bytes=65_536) as (service, cutouts, _):
        cutouts.hold(padded[0])
        asked = [ask(service, padded[0]) for _ in range(2)]
        await until(lambda: service.manager.lookups.held_bytes == 2 * len(padded[0]))
        for refused in (padded[0], padded[1]):  # shared or not: each request holds its file
            with pytest.raises(QueueFullError, match="bytes of uploads wait"):
                await ask(service, refused)
        with pytest.raises(QueueFullError, match="bytes of uploads wait"):
            await service.submit(padded[2], options(), texture=None)
        cutouts.open_all()
        assert len({await task for task in asked}) == 1


@in_a_loop
async def test_lookups_count_in_the_limit_of_their_client() -> None:
    async with looking_up(max_jobs_per_client=2) as (service, cutouts, _):
        for shade in range(3):
            cutouts.hold(picture(shade))
        asked = [ask(service, picture(shade), "a") for shade in range(2)]
        await until(lambda: service.manager.lookups.requests_of("a") == 2)
        with pytest.raises(TooManyRequestsError):
            await ask(service, picture(2), "a")
        other = ask(service, picture(2), "b")
        await until(lambda: service.manager.lookups.requests_of("b") == 1)
        cutouts.open_all()
        await asyncio.wait({*asked, other})
        assert await ask(service, picture(3), "a")


# ---- threads -----------------------------------------------------------------------------------


@in_a_loop
async def test_lookups_leave_a_thread_of_the_pool_to_the_jobs() -> None:
    async with looking_up(limit_model_concurrency=2) as (service, cutouts, _):
        slow = await fill(service, cutouts)
        assert len(slow) == service.manager.threads.cpu_workers == 2
        waiting = ask(service, picture())
        await until(lambda: service.manager.lookups.waiting == 1)
        job = await service.submit(picture(7), options(), texture=None)
        assert (await service.wait_for_texture(job)).textured_glb
        assert not any(task.done() for task in slow)
        assert service.manager.lookups.waiting == 1
        cutouts.open_all()
        await asyncio.gather(waiting, *slow)


@in_a_loop
async def test_at_shutdown_every_lookup_is_answered() -> None:
    async with looking_up(grace=0.05) as (service, cutouts, engine):
        running = await fill(service, cutouts)
        waiting = ask(service, picture())
        gate = engine.hold("shape", 1)
        await service.submit(picture(9), options(), texture=False)
        await begin(engine, "shape")
        closing = asyncio.ensure_future(service.manager.close())
        for task in (waiting, *running):
            with pytest.raises(ShuttingDownError):
                await task
        gate.set()
        await closing


@in_a_loop
async def test_a_cutout_that_stops_by_itself_is_answered_too() -> None:
    async with looking_up() as (service, _, __):

        def stop(*_: Any, **__: Any) -> Cutout:
            raise StepCancelled

        service.manager.executor.cut_out = stop  # type: ignore[method-assign]
        with pytest.raises(JobCancelledError):
            await ask(service, picture())


# ---- over HTTP ---------------------------------------------------------------------------------


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
def test_a_client_that_goes_away_stops_the_cutout_of_its_request(
    engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = threading.Event(), threading.Event()

    def cut_out(*_: Any, report: Report, **__: Any) -> Cutout:
        begun.set()
        try:
            while not threading.Event().wait(0.005):
                report("cutout", 0, 1)
        except StepCancelled:
            stopped.set()
            raise
        raise AssertionError

    monkeypatch.setattr(LocalExecutor, "cut_out", cut_out)
    with serving(engine) as server:
        server.wait_until_loaded()
        asking = threading.Thread(target=_ask_and_leave, args=(server, begun))
        asking.start()
        until_so(stopped.is_set, "stopped")
        asking.join(PATIENCE_S)
        assert server.client.get("/healthcheck").status_code == 200


def _ask_and_leave(server: Any, begun: threading.Event) -> None:
    body = b'{"image": "%s"}' % fields()["image"].encode()
    with socket.create_connection(server.address) as connection:
        connection.sendall(
            b"POST /generate_texture HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert begun.wait(PATIENCE_S)


@in_a_loop
async def test_a_picture_that_nobody_waits_for_is_forgotten_while_its_background_model_loads() -> (
    None
):
    async with looking_up() as (service, _, _):
        executor, lookups = service.manager.executor, service.manager.lookups
        assert isinstance(executor, LocalExecutor)
        loaded: Future[None] = Future()

        def cut_out(*_: Any, **__: Any) -> Cutout:
            raise ModelPending(loaded, 1000.0)

        executor.cut_out = cut_out  # type: ignore[method-assign]
        asked = ask(service, picture())
        await until(lambda: lookups.waiting == 1 and not service.manager.threads.lookups)
        assert [lookup.picture for lookup in live_objects(Lookup)] == [picture()]
        asked.cancel()
        await asyncio.wait([asked])
        assert not any(lookup.picture for lookup in live_objects(Lookup))
        loaded.set_result(None)
