"""A host that takes webhooks, and a server that may send them to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.engines import GatedEngine
from tests.support.other_host import OtherHost, Received, reply
from tests.support.server import (
    Server,
    serving,
    settings,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()
#: Delays of the tests, in place of seconds to hours.
SOON = (0.01,) * 5


class Listener:
    """A host that takes messages.

    Attributes:
        host: where it is.
        status: of its replies, the last one for all further ones.
    """

    def __init__(self) -> None:
        self.status = [200]
        self.host = OtherHost(self._answer)

    def _answer(self, _: Received) -> list[bytes]:
        return [reply(status=self.status.pop(0) if len(self.status) > 1 else self.status[0])]

    def url(self, path: str = "/hook?token=a-secret-token") -> str:
        return self.host.url(path)

    def message(self) -> dict[str, Any]:
        """Wait for the next message, whose signature must be right."""
        request = self.host.next()
        check_signature(request)
        return request.json()

    def has_nothing_more(self) -> bool:
        return self.host.received.empty()


def check_signature(request: Received) -> None:
    """As https://www.standardwebhooks.com describes it."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, timestamp, signed = (request.headers[name] for name in names)
    assert abs(int(timestamp) - time.time()) < 60
    content = f"{message_id}.{timestamp}.".encode() + request.body
    digest = hmac.new(b"0123456789abcdef", content, hashlib.sha256).digest()
    assert signed == f"v1,{base64.b64encode(digest).decode()}"


@contextmanager
def telling(
    listener: Listener,
    engine: GatedEngine | None = None,
    folder: Path | None = None,
    worker: dict[str, Any] | None = None,
    **server: Any,
) -> Generator[Server]:
    """A server that may send to the listener, without long delays."""
    configured = settings(
        server={
            "webhook_hosts": [listener.host.entry],
            "webhook_secret": SECRET,
            "shutdown_grace_seconds": 0.1,
            **server,
        },
        worker={"result_dir": str(folder) if folder else None, **(worker or {})},
    )
    with serving(engine or GatedEngine(), configured) as running:
        running.wait_until_loaded()
        running.manager.webhooks.retry_delays_s = SOON
        yield running


def all_sent(server: Server) -> None:
    until(lambda: not len(server.manager.webhooks), "sent")
