"""The server of `tests/support/server.py` on Ray: the same tests run against it.

One application stays deployed, because a deployment takes ten seconds. For each test, its jobs
process gets a new manager and its ingress new routes, with the settings of the test. The engine's
stages call the engine of the test, in this process. Tests that need the server's objects in this
process are skipped.
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


def _jobs_process_class() -> Any:
    from trellis2_server.ray_serve.jobs_process import JobsProcess

    class ResettableJobsProcess(JobsProcess):
        async def reset(self, settings: Settings, engine: str) -> None:
            """Forget all jobs, and use these settings."""
            await self._manager.close()
            self._notes = ["a note"]
            self._start(settings, engine)

        async def peek(self, what: str) -> Any:
            """Return a part of the manager's state, for a test that waits for a change of it."""
            manager = self._manager
            if what == "subscriptions":
                return len(manager.subscriptions)
            if what == "waiters":
                return sum(active.waiters for active in manager.active_jobs)
            if what == "queue_length":
                return manager.scheduler.length
            return getattr(manager, what)

        async def close_soon(self) -> None:
            """Start to shut down."""
            self._manager.close_soon()

    return ResettableJobsProcess


class ReplaceableApp:
    """An ASGI application that forwards requests to another one, which can be replaced."""

    def __init__(self) -> None:
        self.inner: Any = None

    async def replace(self, settings: Settings) -> None:
        from trellis2_server.ray_serve.ingress import make_asgi_app

        self.inner = make_asgi_app(settings)
        api = self.inner.app.app
        await api.router.lifespan_context(api).__aenter__()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self.inner(scope, receive, send)


@functools.cache
def _app() -> ReplaceableApp:
    return ReplaceableApp()


def _app_of_this_process() -> Any:  # Serve accepts no cached function
    return _app()


class ResettableIngress:
    def __init__(self, jobs: Any) -> None:
        del jobs

    async def reset(self, settings: Settings) -> None:
        """Use these settings."""
        await _app().replace(settings)


@functools.cache
def _deployment() -> tuple[Any, str, Any, Any]:
    """Deploy once; return the control, the URL, handles of the jobs process and the ingress."""
    stack = ExitStack()
    atexit.register(stack.close)
    _, url = stack.enter_context(ray_cluster(1))
    control, address = stack.enter_context(controlling())
    from ray import serve

    from trellis2_server.inputs.images import Cutter
    from trellis2_server.ray_serve import ClusterSettings
    from trellis2_server.ray_serve.application import resolve
    from trellis2_server.ray_serve.deployments import (
        CUTTERS,
        ENGINES,
        INGRESSES,
        JOBS,
        make_deployment,
    )
    from trellis2_server.ray_serve.replicas import CutterReplica, EngineReplica
    from trellis2_server.settings import Settings

    settings, cluster, notes = resolve(
        Settings(), ClusterSettings(engines=1, num_gpus=0, engine_resources={"engine": 1})
    )
    none = {"num_cpus": 0}
    engines = make_deployment(
        EngineReplica,
        ENGINES,
        max_ongoing_requests=1,
        ray_actor_options={**none, "resources": cluster.engine_resources},
    ).bind(settings, steered(address), lambda *_: Cutter(background="none"))
    cutters = make_deployment(CutterReplica, CUTTERS, ray_actor_options=none).bind(
        settings, lambda: Cutter(background="none")
    )
    jobs = make_deployment(
        _jobs_process_class(), JOBS, max_ongoing_requests=10_000, ray_actor_options=none
    ).bind(settings, cluster, "gated", engines, cutters, notes)
    ingress = serve.ingress(_app_of_this_process)(ResettableIngress)
    app = make_deployment(
        ingress, INGRESSES, max_ongoing_requests=10_000, ray_actor_options=none
    ).bind(jobs)
    control.engine = GatedEngine()
    serve.run(app, name=_NAME, route_prefix="/")
    handles = [serve.get_deployment_handle(name, _NAME) for name in (JOBS, INGRESSES)]
    return control, url, *handles


class RayServer(Server):
    """The interface of `Server`, without the objects of its process."""

    def __init__(self, configured: Settings, engine: Any) -> None:
        control, self.url, jobs, ingress = _deployment()
        self._jobs = jobs
        jobs.reset.remote(configured, engine.name).result()
        control.engine = engine  # not before: jobs of an earlier test may still have run
        ingress.reset.remote(configured).result()
        host, port = self.url.removeprefix("http://").split(":")
        self.address = host, int(port)
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    @property
    def manager(self) -> Any:
        pytest.skip("needs the single process")

    app = faults = manager

    def _peek(self, what: str) -> Any:
        return self._jobs.peek.remote(what).result()

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
        self._jobs.close_soon.remote().result()

    def start(self) -> None:
        """Do nothing: it runs."""

    def stop(self) -> None:
        self.client.close()


@contextmanager
def serving(engine: Any, configured: Settings) -> Generator[RayServer]:
    """Yield a server on Ray with that engine."""
    if isinstance(engine, GatedEngine) and not engine.gates["load"].is_set():
        pytest.skip("needs the single process")
    server = RayServer(configured, engine)
    try:
        yield server
    finally:
        if isinstance(engine, GatedEngine):
            engine.open_all()
        server.stop()
