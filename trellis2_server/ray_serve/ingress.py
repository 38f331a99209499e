"""`Ingress`: a process that answers HTTP, in front of the jobs process.

Does not know: jobs, what the routes do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import serve

from trellis2_server.ray_serve.remote_service import RemoteJobService

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from trellis2_server.settings import Settings


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
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    from trellis2_server.api.app import create_api

    service = RemoteJobService()
    api: Any = create_api(settings, service.open, service.note_request)
    app: Any = RequestIdRemover(api)
    return ProxyHeadersMiddleware(app, list(settings.server.trusted_proxies))


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
