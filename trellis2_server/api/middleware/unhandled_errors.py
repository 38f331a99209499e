"""A response for requests that fail without one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from trellis2_server.api.error_handlers import error_response, text_response
from trellis2_server.errors import shutting_down

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


class UnhandledErrorMiddleware:
    """Answer unexpected exceptions with 500, and requests cancelled by a shutdown with 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; send an error response if it fails before responding."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if has_started or not scope["app"].state.service.is_closing:
                raise
            error = shutting_down()
            await error_response(error)(scope, receive, send)
        except Exception:
            if has_started:
                raise
            logger.exception("Unexpected error")
            response = text_response("unexpected error; see the server's log", 500)
            await response(scope, receive, send)
