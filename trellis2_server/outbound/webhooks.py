"""`WebhookSender`: sends one signed message to a URL of a client.

Does not know: jobs, when something is sent again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from trellis2_server.outbound.sender import OutboundRequest, Policy, Sender, resolve_by_system
from trellis2_server.outbound.signatures import signature
from trellis2_server.outbound.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.outbound.hosts import HostList
    from trellis2_server.outbound.sender import Resolve

#: Limit of one attempt, seconds.
ATTEMPT_TIMEOUT_S: Final = 15.0
#: Limit of a reply, which is not looked at, bytes.
_MAX_REPLY_BYTES: Final = 65_536
#: Status of a host that wants no more of them.
GONE: Final = 410


class WebhookSender:
    """Sends messages.

    Args:
        hosts: where they may go.
        key: of `signing_key`.
        timeout_s: limit of one attempt, seconds.
        resolve: resolves names.
        clock: Unix seconds.
    """

    def __init__(
        self,
        hosts: HostList,
        key: bytes,
        *,
        timeout_s: float = ATTEMPT_TIMEOUT_S,
        resolve: Resolve = resolve_by_system,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sender = Sender(Policy(hosts, "server.webhook_hosts", needs_tls=True), resolve)
        self._key = key
        self._timeout_s = timeout_s
        self._clock = clock

    def check(self, url: object) -> None:
        """Return if messages may be sent to a URL; its addresses are not looked up.

        Raises:
            InputError: it is no URL, or not of a listed host.
        """
        self._sender.check(parse_url(url, "webhook"), "webhook")

    async def send(self, url: str, message_id: str, body: bytes) -> int:
        """Send a message; return the status of the reply.

        Args:
            url: where to.
            message_id: the same for each attempt to send the message.
            body: JSON.

        Raises:
            InputError: the URL is not allowed, or not any more.
            OutboundError: there was no reply.
        """
        now = int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(self._key, message_id, now, body),
        }
        request = OutboundRequest(self._timeout_s, _MAX_REPLY_BYTES, "POST", headers, body)
        return (await self._sender.send(parse_url(url, "webhook"), request, "webhook")).status


def is_delivered(status: int) -> bool:
    """Return whether a host that replied with this status has taken the message."""
    return 200 <= status < 300  # noqa: PLR2004 - HTTP's
