"""`create_app`: the routes, and what a request passes before it meets one; with a worker.

`create_front` is the same without one: for a desk that is somewhere else.

What this module does not know: what the routes do, which engine it is.
"""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from trellis2_server import __version__
from trellis2_server.api import file_responses
from trellis2_server.api.api_keys import KeyRing
from trellis2_server.api.error_handlers import error_reply, plain_reply
from trellis2_server.api.metrics import Metrics
from trellis2_server.api.middleware import (
    ApiKeyMiddleware,
    RateLimitMiddleware,
    RequestContextMiddleware,
    UnhandledErrorMiddleware,
)
from trellis2_server.api.routes import files, hunyuan, jobs, native, page
from trellis2_server.errors import ServerError
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import JobManager

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import Request
    from starlette.responses import JSONResponse

    from trellis2_server.inputs.images import Cutter
    from trellis2_server.jobs.service import JobService
    from trellis2_server.pipeline import Engine
    from trellis2_server.settings import Settings
    from trellis2_server.storage.store import Store

    OpenService = Callable[[], AbstractAsyncContextManager[JobService]]
    Observe = Callable[[str, str, int, float, int, int], None]

#: Some Hunyuan3D clients look for every route under this.
HUNYUAN_PREFIX: Final = "/api"
#: Answered without a key; `/healthcheck` says less then.
OPEN_PATHS: Final = frozenset(
    f"{prefix}/{path}"
    for prefix in ("", HUNYUAN_PREFIX)
    for path in ("healthcheck", "health", "status/test")
) | {"/"}
#: What the page at `/` is made of, open too.
OPEN_FOLDER: Final = "/page/"

#: Which a page of another origin may send, and which it may read beside a model's own.
ALLOWED_HEADERS: Final = (
    "Authorization", "Content-Type", "If-None-Match", "If-Range", "Range", "X-API-Key",
    "X-Request-Id",
)  # fmt: skip
EXPOSED_HEADERS: Final = (
    "Accept-Ranges", "Content-Disposition", "Content-Range", "ETag", "Retry-After", "X-Request-Id",
)  # fmt: skip

_DESCRIPTION: Final = (
    "One picture in, two GLBs out: the untextured model at once, the textured one when it is "
    "ready. Every reply that is no success is `{text, error_code}`."
)


def create_app(
    settings: Settings,
    engine: Engine,
    cutter: Cutter,
    notes: Sequence[str] = (),
    store: Store | None = None,
) -> FastAPI:
    """The server as an ASGI application; the engine is loaded when it starts.

    Args:
        settings: the whole configuration.
        engine: not loaded.
        cutter: cuts uploads out.
        notes: what the operator should know; `/healthcheck` says them.
        store: where results are kept; None: as the settings say.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def open_service() -> AsyncGenerator[JobService]:
        executor = LocalExecutor(engine, cutter, settings)
        manager = JobManager(executor, settings, metrics, store=store)
        app.state.manager = manager
        manager.start()
        try:
            yield LocalJobService(manager, metrics, notes)
        finally:
            await manager.close()

    app = create_api(settings, open_service, metrics.note_request)
    app.state.metrics = metrics
    return app


def create_api(settings: Settings, open_service: OpenService, observe: Observe) -> FastAPI:
    """The routes, in front of a job service.

    Args:
        settings: the whole configuration.
        open_service: context manager that yields the job service while the application runs.
        observe: told of each request that was answered, as `Metrics.note_request` is.
    """
    app = FastAPI(
        title="TRELLIS.2 server",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=partial(_lifespan, open_service),
    )
    # Not as an argument, which newer versions deprecate: a server's own root path would have
    # the proxy strip the prefix; this way it may or may not.
    app.root_path = settings.server.root_path
    server = settings.server
    app.state.settings = settings
    app.state.keys = KeyRing(key.get_secret_value() for key in server.api_keys)
    app.state.worker_id = secrets.token_hex(3)
    for each in (hunyuan.router, jobs.router, files.router, native.router):
        app.include_router(each)
        app.include_router(each, prefix=HUNYUAN_PREFIX, include_in_schema=False)
    app.include_router(page.router)
    app.add_exception_handler(ServerError, _reply_server_error)
    app.add_exception_handler(HTTPException, _reply_http_error)
    app.add_exception_handler(RequestValidationError, _reply_validation_error)
    app.add_exception_handler(ClientDisconnect, _reply_nobody)
    # The last one added is the first that a request meets.
    if server.rate_per_minute is not None:
        app.add_middleware(RateLimitMiddleware, per_minute=server.rate_per_minute)
    app.add_middleware(
        ApiKeyMiddleware, keys=app.state.keys, open_paths=OPEN_PATHS, open_folder=OPEN_FOLDER
    )
    app.add_middleware(UnhandledErrorMiddleware)
    origins = server.cors_origins
    if origins is None:
        origins = () if len(app.state.keys) else ("*",)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=ALLOWED_HEADERS,
            expose_headers=[
                *native.MODEL_HEADERS,
                *file_responses.EXPOSED_HEADERS,
                *EXPOSED_HEADERS,
            ],
        )
    app.add_middleware(RequestContextMiddleware, observe=observe)
    return app


@asynccontextmanager
async def _lifespan(open_service: OpenService, app: FastAPI) -> AsyncGenerator[None]:
    async with open_service() as service:
        app.state.service = service
        yield


async def _reply_server_error(_: Request, error: Any) -> JSONResponse:
    return error_reply(error)


async def _reply_http_error(_: Request, error: Any) -> JSONResponse:
    return plain_reply(str(error.detail), error.status_code, headers=error.headers)


async def _reply_validation_error(_: Request, error: Any) -> JSONResponse:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"][1:])
    return plain_reply(f"{where}: {problem['msg']}", 400)


async def _reply_nobody(_: Request, error: Any) -> JSONResponse:
    del error
    return plain_reply("the client closed the connection", 400)
