"""ASGI middleware, in the order in which a request passes it, outermost first.

    RequestContextMiddleware    request id, default headers, one log record per request
    PrivateNetworkMiddleware    preflights of public pages; where there is CORS
    CORSMiddleware              Starlette's; only where `server.cors_origins` allows an origin
    UnhandledErrorMiddleware    500 for exceptions that no handler caught
    ApiKeyMiddleware            401 without a valid API key
    PathSlashesMiddleware       `//generate` is `/generate`
    RequestLimitsMiddleware     414 for long queries; the account of the request's body
    RateLimitMiddleware         429 above `server.rate_per_minute`

Does not know: routes, jobs, threads.
"""

from trellis2_server.api.middleware.authentication import ApiKeyMiddleware
from trellis2_server.api.middleware.path_slashes import PathSlashesMiddleware
from trellis2_server.api.middleware.private_network import PrivateNetworkMiddleware
from trellis2_server.api.middleware.rate_limit import RateLimitMiddleware
from trellis2_server.api.middleware.request_context import RequestContextMiddleware
from trellis2_server.api.middleware.request_limits import RequestLimitsMiddleware
from trellis2_server.api.middleware.unhandled_errors import UnhandledErrorMiddleware

__all__ = [
    "ApiKeyMiddleware",
    "PathSlashesMiddleware",
    "PrivateNetworkMiddleware",
    "RateLimitMiddleware",
    "RequestContextMiddleware",
    "RequestLimitsMiddleware",
    "UnhandledErrorMiddleware",
]
