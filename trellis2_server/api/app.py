"""`create_app`: the routes and the middleware, with the job manager of this process.

`create_api` is the same with a job service that the caller provides, as on a cluster.

Does not know: what the routes do, which engine runs.
"""

from __future__ import annotations

import functools
import secrets
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware

from trellis2_server import __version__
from trellis2_server.api import file_responses, model_responses
from trellis2_server.api.api_keys import KeyRing
from trellis2_server.api.error_handlers import add_error_handlers
from trellis2_server.api.event_streams import EventStreams
from trellis2_server.api.head_routes import with_head
from trellis2_server.api.inflight_bodies import InflightBodies
from trellis2_server.api.links import make_signer
from trellis2_server.api.metrics import Metrics
from trellis2_server.api.middleware import (
    ApiKeyMiddleware,
    PathSlashesMiddleware,
    PrivateNetworkMiddleware,
    RateLimitMiddleware,
    RequestContextMiddleware,
    RequestLimitsMiddleware,
    UnhandledErrorMiddleware,
)
from trellis2_server.api.rate_limits import RateLimit
from trellis2_server.api.responses import job_json
from trellis2_server.api.routes import documentation, page, routers_of
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import JobManager

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.routing import BaseRoute

    from trellis2_server.decoders import DecoderPool
    from trellis2_server.inputs.images import Cutter
    from trellis2_server.jobs.service import JobService
    from trellis2_server.pipeline import Engine
    from trellis2_server.settings import Protocol, ServerSettings, Settings
    from trellis2_server.storage.store import Store

    OpenService = Callable[[], AbstractAsyncContextManager[JobService]]
    Observe = Callable[[str, str, int, float, int, int], None]

#: Every route is also served under this prefix, which some Hunyuan3D clients use.
HUNYUAN_PREFIX: Final = "/api"
#: Paths that need no API key; without one, `/healthcheck` omits details.
OPEN_PATHS: Final = frozenset(
    f"{prefix}/{path}"
    for prefix in ("", HUNYUAN_PREFIX)
    for path in ("healthcheck", "health", "status/test")
) | {"/"}
#: Prefix of the web page's files, which need no API key.
OPEN_FOLDER: Final = "/page/"

#: Request headers that pages of other origins may send.
ALLOWED_HEADERS: Final = (
    "Authorization", "Content-Type", "If-None-Match", "If-Range", "Range", "X-API-Key",
    "X-Request-Id",
)  # fmt: skip
#: Response headers that pages of other origins may read, besides those of a model.
EXPOSED_HEADERS: Final = (
    "Accept-Ranges", "Content-Disposition", "Content-Range", "ETag", "Retry-After", "X-Request-Id",
)  # fmt: skip

_DESCRIPTION: Final = (
    "One picture in, two GLBs out: the untextured model first, the textured one when it is "
    "ready. The body of every error response is `{text, error_code}`; under `/v1`, it has OpenAI's "
    "form."
)


def create_app(  # noqa: PLR0913 - the parts of a server
    settings: Settings,
    engine: Engine,
    cutter: Cutter,
    notes: Sequence[str] = (),
    store: Store | None = None,
    *,
    decoders: DecoderPool | None = None,
) -> FastAPI:
    """Create the server as an ASGI application, which loads the engine when it starts.

    Args:
        settings: the whole configuration.
        engine: the engine, not loaded.
        cutter: removes the background of uploaded pictures.
        notes: messages for the operator, shown by `/healthcheck`.
        store: storage of results; None creates the one of the settings.
        decoders: processes that decode meshes, and pictures for the cutter; None creates them.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def open_service() -> AsyncGenerator[JobService]:
        executor = LocalExecutor(engine, cutter, settings, decoders)
        executor.decoders.observer = metrics
        manager = JobManager(executor, settings, metrics, store=store)
        app.state.manager = manager
        manager.start()
        service = LocalJobService(manager, metrics, notes)
        service.render_webhooks(job_json)
        try:
            yield service
        finally:
            await manager.close()

    app = create_api(settings, open_service, metrics.note_request)
    app.state.metrics = metrics
    return app


def create_api(settings: Settings, open_service: OpenService, observe: Observe) -> FastAPI:
    """Create the HTTP API of a job service.

    Args:
        settings: the whole configuration.
        open_service: context manager that yields the job service while the application runs.
        observe: called after each response, as `Metrics.note_request`.
    """
    app = FastAPI(
        title="TRELLIS.2 server",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=partial(_lifespan, open_service),
        docs_url=None,  # `documentation`'s instead
        redoc_url=None,
    )
    # Not as an argument, which newer versions of FastAPI deprecate. Like this, requests are
    # served whether the proxy strips the prefix or not.
    app.root_path = settings.server.root_path
    app.state.settings = settings
    app.state.keys = KeyRing(key.get_secret_value() for key in settings.server.api_keys)
    app.state.bodies = InflightBodies(settings.server.body_budget)
    app.state.event_streams = EventStreams(settings.server.max_event_streams_per_client)
    app.state.rate_limit = RateLimit(settings.server.rate_per_minute)
    app.state.worker_id = secrets.token_hex(3)
    app.state.links = make_signer(settings)
    app.state.started_unix_s = int(time.time())
    app.router.routes.extend(_routes(frozenset(settings.server.protocols)))
    add_error_handlers(app)
    _add_middleware(app, settings.server, observe)
    return app


@functools.cache
def _routes(protocols: frozenset[Protocol]) -> list[BaseRoute]:
    """Return the routes of these protocols, in the order in which they are matched.

    Applications share them: FastAPI takes 0.1 s to prepare them for their first request.
    """
    whole = APIRouter()
    for router in map(with_head, routers_of(protocols)):
        whole.include_router(router)
        whole.include_router(router, prefix=HUNYUAN_PREFIX, include_in_schema=False)
    whole.include_router(with_head(documentation.router))
    if "native" in protocols:
        whole.include_router(with_head(page.router))
    return whole.routes


def _add_middleware(app: FastAPI, server: ServerSettings, observe: Observe) -> None:
    # From the inside out: the middleware that is added last sees a request first.
    keys: KeyRing = app.state.keys
    app.add_middleware(RateLimitMiddleware, rate_limit=app.state.rate_limit)
    app.add_middleware(RequestLimitsMiddleware, bodies=app.state.bodies)
    app.add_middleware(PathSlashesMiddleware)
    app.add_middleware(
        ApiKeyMiddleware,
        keys=keys,
        open_paths=OPEN_PATHS,
        open_folder=OPEN_FOLDER,
        links=app.state.links,
    )
    app.add_middleware(UnhandledErrorMiddleware)
    origins = server.cors_origins
    if origins is None:
        origins = () if len(keys) else ("*",)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=sorted(_methods(server.protocols)),
            allow_headers=ALLOWED_HEADERS,
            expose_headers=[
                *model_responses.MODEL_HEADERS,
                *file_responses.EXPOSED_HEADERS,
                *EXPOSED_HEADERS,
            ],
        )
        app.add_middleware(PrivateNetworkMiddleware)
    app.add_middleware(RequestContextMiddleware, observe=observe)


def _methods(protocols: Collection[Protocol]) -> set[str]:
    """Return the methods of all routes of these protocols."""
    return {
        method
        for router in routers_of(protocols)
        for route in router.routes
        for method in getattr(route, "methods", None) or ()
    }


@asynccontextmanager
async def _lifespan(open_service: OpenService, app: FastAPI) -> AsyncGenerator[None]:
    async with open_service() as service:
        app.state.service = service
        yield
