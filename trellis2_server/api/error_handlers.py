"""Errors as HTTP replies: which status each has, and the body `{text, error_code}`.

What this module does not know: routes, who is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse

from trellis2_server.errors import (
    ConfigError,
    EngineError,
    InputError,
    JobCancelledError,
    JobNotFoundError,
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


def error_reply(error: ServerError) -> JSONResponse:
    """The reply that tells a client of the error."""
    status, code = next(HTTP_ERRORS[cls] for cls in type(error).__mro__ if cls in HTTP_ERRORS)
    headers: dict[str, str] = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return plain_reply(str(error), status, code, headers)


def plain_reply(
    text: str, status: int, code: int = 1, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A reply that is no success, of that text."""
    return JSONResponse({"text": text, "error_code": code}, status, headers)
