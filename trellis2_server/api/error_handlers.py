"""Errors as HTTP responses: the status of each error, and the body `{text, error_code}`.

On OpenAI's paths, the body is `{error: {message, type, param, code}}` instead.

Does not know: routes, jobs.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from trellis2_server.api.content_coding import CODINGS
from trellis2_server.errors import (
    ConfigError,
    ContentCodingError,
    EngineError,
    InputError,
    JobCancelledError,
    JobNotFoundError,
    JobNotReadyError,
    NoSpaceError,
    OutboundError,
    OutboundTimeoutError,
    OutOfMemoryError,
    ServerError,
    TextureTimeoutError,
    TooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

#: HTTP status and `error_code` of each error; other classes use the entry of their base class.
HTTP_ERRORS: Final[dict[type[ServerError], tuple[int, int]]] = {
    ServerError: (500, 1),
    ConfigError: (500, 1),
    InputError: (400, 1),
    TooLargeError: (413, 6),
    ContentCodingError: (415, 1),
    JobNotFoundError: (404, 1),
    UnauthorizedError: (401, 4),
    JobNotReadyError: (409, 2),
    JobCancelledError: (409, 5),
    TextureTimeoutError: (408, 2),
    EngineError: (500, 1),
    OutOfMemoryError: (507, 7),
    OutboundError: (502, 1),
    OutboundTimeoutError: (504, 2),
    UnavailableError: (503, 3),
    TooManyRequestsError: (429, 3),
    NoSpaceError: (507, 3),
}


#: Paths whose errors have OpenAI's form: `/v1/…`, and where LocalAI's clients send pictures.
_OPENAI_PATHS: Final = re.compile(r"(?:/+api)?/+(?:v1|3d)(?:/|\Z)")
#: HTTP status → `type` and `code` of OpenAI's errors; other statuses have those of 400 or 500.
_OPENAI_ERRORS: Final[Mapping[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", None),
    502: ("server_error", "bad_gateway"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "gateway_timeout"),
}
#: A field that the text of an error begins with.
_PARAM: Final = re.compile(r"([a-z][a-z0-9_]*)(?:, picture \d+)?: ")
_FIRST_SERVER_ERROR: Final = 500

#: The methods that a route may accept.
METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def error_response(error: ServerError) -> JSONResponse:
    """Return the response to a request that failed with this error."""
    status, code = next(HTTP_ERRORS[cls] for cls in type(error).__mro__ if cls in HTTP_ERRORS)
    headers: dict[str, str] = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, ContentCodingError):
        headers["Accept-Encoding"] = ", ".join(CODINGS)
    return text_response(str(error), status, code, headers)


def text_response(
    text: str, status: int, code: int = 1, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error response with this text."""
    return ErrorResponse(text, status, code, headers)


class ErrorResponse(JSONResponse):
    """A response to a request that failed, in the form of the request's path.

    Args:
        text: cause of the error.
        status: HTTP status.
        code: `error_code` of the usual form.
        headers: further headers.
    """

    def __init__(
        self, text: str, status: int, code: int, headers: Mapping[str, str] | None = None
    ) -> None:
        self._text = text
        super().__init__({"text": text, "error_code": code}, status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        path: str = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if _OPENAI_PATHS.match(path):
            headers = {
                name: value
                for name, value in self.headers.items()
                if name not in {"content-length", "content-type"}
            }
            content = openai_error(self._text, self.status_code)
            await JSONResponse(content, self.status_code, headers)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def openai_error(text: str, status: int) -> dict[str, dict[str, str | None]]:
    """Return an error in OpenAI's form.

    Args:
        text: cause of the error; may begin with the name of a field.
        status: HTTP status.
    """
    fallback = _OPENAI_ERRORS[500 if status >= _FIRST_SERVER_ERROR else 400]
    kind, code = _OPENAI_ERRORS.get(status, fallback)
    param = _PARAM.match(text) if status < _FIRST_SERVER_ERROR else None
    return {
        "error": {
            "message": text,
            "type": kind,
            "param": param.group(1) if param else None,
            "code": code,
        }
    }


def add_error_handlers(app: FastAPI) -> None:
    """Have all errors of the application answered with the body `{text, error_code}`."""
    app.add_exception_handler(ServerError, _handle_server_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)


async def _handle_server_error(_: Request, error: Any) -> JSONResponse:
    return error_response(error)


async def _handle_http_error(request: Request, error: Any) -> Response:
    if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
        return text_response(str(error.detail), error.status_code, headers=error.headers)
    # Starlette names the methods of the first route with that path; there may be others.
    allow = {"Allow": ", ".join(allowed_methods(request))}
    if request.method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=allow)
    return text_response(str(error.detail), error.status_code, headers=allow)


def allowed_methods(request: Request) -> list[str]:
    """Return the methods that the routes accept for the path of a request, and OPTIONS."""
    routes = request.app.router.routes
    accepted = {
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    }
    return sorted({*accepted, "OPTIONS"})


async def _handle_validation_error(_: Request, error: Any) -> JSONResponse:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"][1:])
    return text_response(f"{field}: {problem['msg']}", 400)


async def _handle_disconnect(_: Request, error: Any) -> JSONResponse:
    del error
    return text_response("the client closed the connection", 400)
