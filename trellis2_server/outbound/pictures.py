"""`PictureFetcher`: the bytes that a URL stands for, from a listed host.

Does not know: whether they are a picture.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import InputError, OutboundError
from trellis2_server.outbound.sender import OutboundRequest, Policy, Sender, resolve_by_system
from trellis2_server.outbound.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.outbound.hosts import HostList
    from trellis2_server.outbound.sender import Reply, Resolve
    from trellis2_server.outbound.urls import Url

#: Limit from a request to the last byte of the picture, redirects included, seconds.
FETCH_TIMEOUT_S: Final = 30.0
#: Redirects that are followed, each to a listed host.
MAX_REDIRECTS: Final = 3
#: Pictures that are fetched at one time.
MAX_FETCHES: Final = 16
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class PictureFetcher:
    """Fetches pictures by their URLs. Belongs to one event loop.

    Args:
        hosts: where pictures may be.
        max_bytes: limit of a picture, bytes.
        timeout_s: limit of a fetch, waiting for its turn included, seconds.
        resolve: resolves names.
    """

    def __init__(
        self,
        hosts: HostList,
        max_bytes: int,
        *,
        timeout_s: float = FETCH_TIMEOUT_S,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        self._sender = Sender(Policy(hosts, "server.image_hosts"), resolve)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(MAX_FETCHES)

    def check(self, url: object, name: str) -> None:
        """Return if a URL may be fetched; its addresses are not looked up.

        Raises:
            InputError: it is no URL of a listed host.
        """
        self._sender.check(parse_url(url, name), name)

    async def fetch(
        self, url: object, name: str, note_size: Callable[[int], None] = lambda _: None
    ) -> bytes:
        """Return the content of a URL.

        Args:
            url: http or https.
            name: the request's field, for messages.
            note_size: called with the bytes so far, before they are kept; may raise.

        Raises:
            InputError: it is no URL of a listed host, or cannot be fetched.
        """
        parsed = parse_url(url, name)
        self._sender.check(parsed, name)
        try:
            content = await asyncio.wait_for(self._fetch(parsed, name, note_size), self._timeout_s)
        except OutboundError as error:  # the client's to mend, who chose the URL
            raise InputError(str(error)) from None
        except asyncio.TimeoutError:
            raise InputError(
                f"{name}: the host did not send it within {self._timeout_s:g} s"
            ) from None
        if not content:
            raise InputError(f"{name}: the host sent nothing")
        return content

    async def _fetch(self, url: Url, name: str, note_size: Callable[[int], None]) -> bytes:
        request = OutboundRequest(
            self._timeout_s,
            self._max_bytes,
            headers={"Accept": "image/*"},
            note_size=note_size,
        )
        async with self._turns:
            for _ in range(MAX_REDIRECTS + 1):
                reply = await self._sender.send(url, request, name)
                if reply.status not in _REDIRECTS:
                    break
                url = self._redirected(url, reply, name)
            else:
                raise InputError(f"{name}: more than {MAX_REDIRECTS} redirects")
        if reply.status != HTTPStatus.OK:
            raise InputError(f"{name}: the host replied with status {reply.status}")
        return reply.body

    def _redirected(self, url: Url, reply: Reply, name: str) -> Url:
        try:
            location = url.join(reply.headers.get("location", ""))
        except ValueError as error:
            raise InputError(f"{name}: the host redirects to what is no URL") from error
        target = parse_url(location, f"{name} (redirected)")
        if url.scheme == "https" and target.scheme == "http":
            raise InputError(f"{name}: the host redirects from https to http")
        self._sender.check(target, f"{name} (redirected)")
        return target
