"""`Ingress`: a process that answers HTTP, in front of the jobs process.

Does not know: jobs, what the routes do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ray import serve

from trellis2_server.ray_serve.remote_service import RemoteJobService

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message, Receive, Scope, Send

    from trellis2_server.settings import Settings


#: The address of a caller on the machine of Serve's proxy.
LOCAL_ADDRESS: Final = "127.0.0.1"


class Ingress:
    """Answers HTTP.

    Args:
        jobs: handle of the jobs process, which makes Serve deploy it; `RemoteJobService` finds it
            by its name.
    """

    def __init__(self, jobs: Any) -> None:
        del jobs


def make_ingress(settings: Settings) -> Any:
    """Return the class of the ingresses' replicas."""

    def make_app() -> Any:  # Serve accepts a function here, but no `partial`
        return make_asgi_app(settings)

    return serve.ingress(make_app)(Ingress)


def make_asgi_app(settings: Settings) -> Any:
    """Return the ASGI application of an ingress.

    Args:
        settings: the whole configuration.
    """
    # Only the ingresses need the routes, but every replica imports this package.
    from trellis2_server.api.app import create_api

    service = RemoteJobService()
    api: Any = create_api(settings, service.open, service.note_request)
    return with_clients(RequestIdRemover(api), settings.server.trusted_proxies)


def with_clients(app: Any, trusted_proxies: Sequence[str]) -> Any:
    """Return the application, which sees the address of a client as `trusted_proxies` allows.

    Args:
        app: an ASGI application.
        trusted_proxies: addresses or networks whose `X-Forwarded-For` is believed.
    """
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    if trusted_proxies:
        app = ProxyHeadersMiddleware(app, list(trusted_proxies))
    return PeerRestorer(app)


class PeerRestorer:
    """Undoes that Serve's proxy believes `X-Forwarded-For` of every caller on its own machine.

    The proxy runs uvicorn with its defaults, which nothing configures. A client whose address is
    in the header is thus a caller on that machine, and becomes one again. Another client that
    writes its own address and port into the header is taken for one, too, and gains nothing.

    Args:
        app: an ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and _is_forwarded(scope):
            scope = {**scope, "client": (LOCAL_ADDRESS, 0)}
        await self.app(scope, receive, send)


def _is_forwarded(scope: Scope) -> bool:
    client = scope.get("client")
    if not client:
        return False
    host, port = client
    # uvicorn sets port 0 where the header has none.
    written = {f"{host}:{port}", f"[{host}]:{port}", *(() if port else (host, f"[{host}]"))}
    headers = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    forwarded = b",".join(headers).decode("latin-1").split(",")
    return any(each.strip() in written for each in forwarded)


class RequestIdRemover:
    """Removes `X-Request-Id` from replies: Serve's proxy adds the same one.

    Args:
        app: an ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                message["headers"] = [pair for pair in headers if pair[0] != b"x-request-id"]
            await send(message)

        await self.app(scope, receive, send_without_id)
