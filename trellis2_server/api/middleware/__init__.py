"""ASGI middleware, in the order in which a request passes it, outermost first.

    RequestContextMiddleware    request id, default headers, one log record per request
    CORSMiddleware              Starlette's; only where `server.cors_origins` allows an origin
    UnhandledErrorMiddleware    500 for exceptions that no handler caught
    ApiKeyMiddleware            401 without a valid API key
    RequestLimitsMiddleware     414 for long queries; the account of the request's body
    RateLimitMiddleware         429 above `server.rate_per_minute`

Does not know: routes, jobs, threads.
"""

from trellis2_server.api.middleware.authentication import ApiKeyMiddleware
from trellis2_server.api.middleware.rate_limit import RateLimitMiddleware
from trellis2_server.api.middleware.request_context import RequestContextMiddleware
from trellis2_server.api.middleware.request_limits import RequestLimitsMiddleware
from trellis2_server.api.middleware.unhandled_errors import UnhandledErrorMiddleware

__all__ = [
    "ApiKeyMiddleware",
    "RateLimitMiddleware",
    "RequestContextMiddleware",
    "RequestLimitsMiddleware",
    "UnhandledErrorMiddleware",
]
