"""`create_app`: the routes, the errors' way to HTTP, keys and origins.

What this module does not know: what the routes do, which engine it is.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from trellis2_server import __version__, routes, routes_hunyuan
from trellis2_server.errors import (
    ConfigError,
    EngineError,
    InputError,
    JobCancelledError,
    JobNotFoundError,
    OutOfMemoryError,
    ServerError,
    ShuttingDownError,
    TextureTimeoutError,
    TooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from trellis2_server.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from trellis2_server.config import Settings
    from trellis2_server.images import Cutter
    from trellis2_server.pipeline import Engine

logger = logging.getLogger(__name__)

#: HTTP status and `error_code`; a class that is not here has its base's.
HTTP_ERRORS: Final[dict[type[ServerError], tuple[int, int]]] = {
    ServerError: (500, 1),
    ConfigError: (500, 1),
    InputError: (400, 1),
    TooLargeError: (413, 6),
    JobNotFoundError: (404, 1),
    UnauthorizedError: (401, 4),
    JobCancelledError: (409, 5),
    TextureTimeoutError: (408, 2),
    EngineError: (500, 1),
    OutOfMemoryError: (507, 7),
    UnavailableError: (503, 3),
    TooManyRequestsError: (429, 3),
}
#: Some Hunyuan3D clients look for every route under this.
HUNYUAN_PREFIX: Final = "/api"
#: Answered without a key; `/healthcheck` says less then.
OPEN_PATHS: Final = frozenset(
    f"{prefix}/{path}"
    for prefix in ("", HUNYUAN_PREFIX)
    for path in ("healthcheck", "health", "status/test")
)

_DESCRIPTION: Final = (
    "One picture in, two GLBs out: the untextured model at once, the textured one when it is "
    "ready. Every reply that is no success is `{text, error_code}`."
)


def create_app(
    settings: Settings, engine: Engine, cutter: Cutter, notes: Sequence[str] = ()
) -> FastAPI:
    """The server as an ASGI application; the engine is loaded when it starts.

    Args:
        settings: the whole configuration.
        engine: not loaded.
        cutter: cuts uploads out.
        notes: what the operator should know; `/healthcheck` says them.
    """
    app = FastAPI(
        title="TRELLIS.2 server",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=_lifespan,
    )
    # Not as an argument, which newer versions deprecate: a server's own root path would have
    # the proxy strip the prefix; this way it may or may not.
    app.root_path = settings.server.root_path
    app.state.settings = settings
    app.state.notes = tuple(notes)
    app.state.make_worker = lambda: Worker(engine, cutter, settings)
    app.state.worker_id = secrets.token_hex(3)
    for each in (routes_hunyuan.router, routes.router):
        app.include_router(each)
        app.include_router(each, prefix=HUNYUAN_PREFIX, include_in_schema=False)
    app.add_exception_handler(ServerError, _reply_server_error)
    app.add_exception_handler(HTTPException, _reply_http_error)
    app.add_exception_handler(RequestValidationError, _reply_validation_error)
    app.add_exception_handler(ClientDisconnect, _reply_nobody)
    app.add_exception_handler(Exception, _reply_unexpected)
    app.add_middleware(_Keys, keys=[key.get_secret_value() for key in settings.server.api_keys])
    app.add_middleware(_Leaving)
    origins = settings.server.cors_origins
    if origins is None:
        origins = () if settings.server.api_keys else ("*",)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=[*routes.MODEL_HEADERS, "Retry-After"],
        )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    worker: Worker = app.state.make_worker()
    app.state.worker = worker
    worker.start()
    try:
        yield
    finally:
        await worker.close()


class _Leaving:
    """Answers the requests that are cancelled because the process leaves, half-sent ones."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if scope["type"] != "http" or has_begun or not scope["app"].state.worker.is_closing:
                raise
            error = ShuttingDownError("the server is shutting down", retry_after_s=30)
            await _reply(error)(scope, receive, send)


class _Keys:
    """Lets a request through that carries one of the keys; with no keys, every request."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request.state.is_trusted = not self._keys or self._is_known(request)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if request.state.is_trusted or path in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError(
            "an API key is needed: send it as Authorization: Bearer … or X-API-Key"
        )
        await _reply(error)(scope, receive, send)

    def _is_known(self, request: Request) -> bool:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")
        if not given:
            return False
        # Every key is compared, so that the time says nothing about which one came near.
        matches = [hmac.compare_digest(given.encode("latin-1"), key) for key in self._keys]
        return any(matches)


def _reply(error: ServerError) -> JSONResponse:
    http_status, code = next(HTTP_ERRORS[cls] for cls in type(error).__mro__ if cls in HTTP_ERRORS)
    headers = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"text": str(error), "error_code": code}, http_status, headers)


async def _reply_server_error(_: Request, error: Any) -> JSONResponse:
    return _reply(error)


async def _reply_http_error(_: Request, error: Any) -> JSONResponse:
    return JSONResponse(
        {"text": str(error.detail), "error_code": 1}, error.status_code, error.headers
    )


async def _reply_validation_error(_: Request, error: Any) -> JSONResponse:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"][1:])
    return JSONResponse({"text": f"{where}: {problem['msg']}", "error_code": 1}, 400)


async def _reply_nobody(_: Request, error: Any) -> JSONResponse:
    del error
    return JSONResponse({"text": "the client closed the connection", "error_code": 1}, 400)


async def _reply_unexpected(_: Request, error: Any) -> JSONResponse:
    logger.error("Unexpected error", exc_info=error)
    # uvicorn closes the connection after an error that it was not told of.
    return JSONResponse(
        {"text": "an unexpected error; the log has it", "error_code": 1},
        500,
        {"Connection": "close"},
    )
