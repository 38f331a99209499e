"""A server as of `tests/server.py`, on Ray: the same tests run against it.

One application stays deployed. For each test its desk gets a new worker and its ingress new
routes, with that test's settings: deploying takes ten seconds, this a few milliseconds. The
engine's stages ask the engine of the test, in this process. What looks inside the server's
process is skipped.
"""

from __future__ import annotations

import atexit
import functools
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.ray_cluster import controlling, ray_cluster, steered
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.settings import Settings

_NAME = "trellis2"


def _desk_class() -> Any:
    from trellis2_server.api.metrics import Metrics
    from trellis2_server.jobs.manager import JobManager
    from trellis2_server.ray_serve import service as ray_desk

    class ResettableDesk(ray_desk.JobServiceReplica):
        async def reset(self, settings: Settings, engine: str) -> None:
            """Forget all jobs, and take these settings."""
            await self._manager.close()
            self._executor.name = engine
            self._executor._export = settings.export
            self._metrics = Metrics()
            self._manager = JobManager(
                self._executor, ray_desk._job_settings(settings), self._metrics
            )
            self._manager.start()
            self._service = ray_desk.ClusterJobService(
                self._manager, self._metrics, self._executor, ["a note"]
            )

        async def peek(self, what: str) -> Any:
            """What a test waits for."""
            manager = self._manager
            if what == "subscriptions":
                return len(manager.subscriptions)
            if what == "waiters":
                return sum(active.waiters for active in manager.active_jobs)
            if what == "queue_length":
                return manager.scheduler.length
            return getattr(manager, what)

        async def close_soon(self) -> None:
            """As at a stop."""
            self._manager.close_soon()

    return ResettableDesk


class Switch:
    """An ASGI application that becomes another one."""

    def __init__(self) -> None:
        self.inner: Any = None
        self._stack: Any = None

    async def become(self, settings: Settings) -> None:
        from trellis2_server import ray_serve

        self.inner = ray_serve._make_front(settings)
        front = self.inner.app._app
        await front.router.lifespan_context(front).__aenter__()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self.inner(scope, receive, send)


@functools.cache
def _switch() -> Switch:
    return Switch()


def _switch_of_the_process() -> Any:
    return _switch()


class ResettableIngress:
    def __init__(self, service: Any) -> None:
        del service

    async def reset(self, settings: Settings) -> None:
        """Take these settings."""
        await _switch().become(settings)


@functools.cache
def _deployment() -> tuple[Any, str, Any, Any]:
    """Deployed once: the control, the server's address, and handles of desk and ingress."""
    stack = ExitStack()
    atexit.register(stack.close)
    _, url = stack.enter_context(ray_cluster(1))
    control, address = stack.enter_context(controlling())
    from ray import serve

    from trellis2_server import ray_serve
    from trellis2_server.inputs.images import Cutter
    from trellis2_server.ray_serve import ClusterSettings
    from trellis2_server.settings import Settings

    quiet = Settings()
    settings, cluster, notes = ray_serve.fitted(
        quiet, ClusterSettings(engines=1, num_gpus=0, engine_resources={"engine": 1})
    )
    none = {"num_cpus": 0}
    engines = ray_serve._deployment(
        ray_serve.EngineReplica,
        ray_serve.ENGINES,
        max_ongoing_requests=1,
        ray_actor_options={**none, "resources": cluster.engine_resources},
    ).bind(settings, steered(address), lambda *_: Cutter(background="none"))
    cutters = ray_serve._deployment(
        ray_serve.CutterReplica, ray_serve.CUTTERS, ray_actor_options=none
    ).bind(settings, lambda: Cutter(background="none"))
    service = ray_serve._deployment(
        _desk_class(), ray_serve.JOBS, max_ongoing_requests=10_000, ray_actor_options=none
    ).bind(settings, cluster, "gated", engines, cutters, notes)
    ingress = serve.ingress(_switch_of_the_process)(ResettableIngress)
    app = ray_serve._deployment(
        ingress, ray_serve.INGRESSES, max_ongoing_requests=10_000, ray_actor_options=none
    ).bind(service)
    control.engine = GatedEngine()
    serve.run(app, name=_NAME, route_prefix="/")
    handles = [
        serve.get_deployment_handle(name, _NAME) for name in (ray_serve.JOBS, ray_serve.INGRESSES)
    ]
    return control, url, *handles


class RayServer(Server):
    """The face of `Server`, without what is in its process."""

    def __init__(self, configured: Settings, engine: Any) -> None:
        control, self.url, service, ingress = _deployment()
        control.engine = engine
        self._service = service
        service.reset.remote(configured, engine.name).result()
        ingress.reset.remote(configured).result()
        host, port = self.url.removeprefix("http://").split(":")
        self.address = host, int(port)
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    @property
    def manager(self) -> Any:
        pytest.skip("needs the single process")

    app = faults = manager

    def _peek(self, what: str) -> Any:
        return self._service.peek.remote(what).result()

    @property
    def is_idle(self) -> bool:
        return self._peek("is_idle")

    @property
    def subscriptions(self) -> int:
        return self._peek("subscriptions")

    @property
    def waiters(self) -> int:
        return self._peek("waiters")

    @property
    def queue_length(self) -> int:
        return self._peek("queue_length")

    def close_soon(self) -> None:
        self._service.close_soon.remote().result()

    def start(self) -> None:
        """It runs."""

    def stop(self) -> None:
        self.client.close()


@contextmanager
def serving(engine: Any, configured: Settings) -> Generator[RayServer]:
    """A server on Ray with that engine."""
    if isinstance(engine, GatedEngine) and not engine.gates["load"].is_set():
        pytest.skip("needs the single process")
    server = RayServer(configured, engine)
    try:
        yield server
    finally:
        if isinstance(engine, GatedEngine):
            engine.open_all()
        server.stop()
