"""`Sender`: one HTTP/1.1 request to a listed host, over one connection to a checked address.

h11 parses the reply, as it parses requests in uvicorn. No proxy of the environment is used: it
would resolve the host's name itself. Nothing is logged here, since URLs and headers have secrets.

Does not know: what is sent and why, redirects.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import h11

from trellis2_server import __version__
from trellis2_server.errors import InputError, OutboundError, OutboundTimeoutError
from trellis2_server.outbound.urls import check_listed
from trellis2_server.public_addresses import is_public

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from trellis2_server.outbound.hosts import HostList
    from trellis2_server.outbound.urls import Url
    from trellis2_server.public_addresses import IPAddress

    #: Returns the addresses of a host name and port, at least one.
    Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

#: Largest head of a reply, bytes.
MAX_HEAD_BYTES: Final = 32_768
#: Bytes that are read at once.
_CHUNK: Final = 65_536
#: Addresses of a host that are tried.
_MAX_ADDRESSES: Final = 4
#: Time for one of them, seconds, if there are more.
_CONNECT_S: Final = 5.0
#: Replies with a status below 200 that may precede the reply.
_MAX_INTERIM_REPLIES: Final = 8


async def resolve_by_system(host: str, port: int) -> list[str]:
    """Return the addresses of a name, as the system resolves it.

    Raises:
        OSError: there are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True, repr=False)
class OutboundRequest:
    """A request. It has no `repr`: headers and body may be secret.

    Attributes:
        timeout_s: limit from the resolution of the name to the last byte of the reply, seconds.
        max_bytes: limit of the reply's body, bytes.
        method: of HTTP.
        headers: further headers than those that every request has.
        body: content; empty: none.
        note_size: called with the bytes of the body so far, before they are kept; may raise.
    """

    timeout_s: float
    max_bytes: int
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    note_size: Callable[[int], None] = lambda _: None


@dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """A reply.

    Attributes:
        status: of HTTP, 200 … 599.
        headers: by their names in lower case; of several with one name the last.
        body: the content.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Policy:
    """Where requests of one kind may go.

    Attributes:
        hosts: the list.
        setting: what the operator calls it, for messages: `server.image_hosts`.
        who: what messages call the server that is called.
        trusts_addresses: whether a listed host may have any address. Only for a URL of the
            operator's own.
        needs_tls: whether requests to public addresses must be https.
    """

    hosts: HostList
    setting: str
    who: str = "the host"
    trusts_addresses: bool = False
    needs_tls: bool = False


class _RefusedReplyError(Exception):
    """A reply is not accepted; the message says what it is."""


class Sender:
    """Sends requests to listed hosts.

    Args:
        policy: where they may go.
        resolve: resolves names.
        tls: makes the context for https; called on a thread, once.
    """

    def __init__(
        self,
        policy: Policy,
        resolve: Resolve = resolve_by_system,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self.policy = policy
        self._resolve = resolve
        self._make_tls = tls or make_tls
        self._tls: ssl.SSLContext | None = None

    def check(self, url: Url, name: str) -> None:
        """Return if the host of a URL is listed; its addresses are not looked up.

        Args:
            url: the URL.
            name: what the message calls it.

        Raises:
            InputError: it is not.
        """
        check_listed(url, self.policy.hosts, self.policy.setting, name)

    async def send(self, url: Url, request: OutboundRequest, name: str) -> Reply:
        """Send a request and return the reply, whatever its status.

        Args:
            url: where to.
            request: what to send.
            name: what messages call the URL.

        Raises:
            InputError: the host is not listed, or has an address that is not allowed.
            OutboundTimeoutError: there was no complete reply in time.
            OutboundError: there was no reply, or none that can be accepted.
        """
        self.check(url, name)
        try:
            return await asyncio.wait_for(self._send(url, request, name), request.timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            raise OutboundTimeoutError(
                f"{name}: {self.policy.who} did not reply within {request.timeout_s:g} s"
            ) from None
        except ssl.SSLCertVerificationError:
            raise OutboundError(f"{name}: {self.policy.who} has no trusted certificate") from None
        except ssl.SSLError:
            raise OutboundError(f"{name}: {self.policy.who} does not speak TLS") from None
        except OSError:
            raise OutboundError(
                f"{name}: {self.policy.who} cannot be reached, or closed the connection"
            ) from None
        except h11.RemoteProtocolError:
            raise OutboundError(
                f"{name}: the reply of {self.policy.who} is not HTTP, or was cut short"
            ) from None
        except _RefusedReplyError as error:
            raise OutboundError(f"{name}: the reply of {self.policy.who} {error}") from None

    async def _send(self, url: Url, request: OutboundRequest, name: str) -> Reply:
        addresses = await self._addresses(url, name)
        if url.scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(self._make_tls)
        reader, writer = await self._connect(url, addresses)
        try:
            return await _exchange(reader, writer, url, request)
        finally:
            writer.transport.abort()  # not `close`, which waits for the host's end of TLS

    async def _addresses(self, url: Url, name: str) -> list[IPAddress]:
        """Return the addresses of a host; not one of them may be forbidden."""
        if isinstance(url.host, str):
            try:
                found = await self._resolve(url.host, url.port)
                addresses = [ipaddress.ip_address(address) for address in found]
            except (OSError, ValueError, UnicodeError):
                addresses = []
            if not addresses:
                raise OutboundError(f"{name}: {self.policy.who} has no address")
        else:
            addresses = [url.host]
        policy = self.policy
        if not policy.trusts_addresses and not all(
            policy.hosts.allows_address(url.host, address) for address in addresses
        ):
            raise InputError(
                f"{name}: {url.authority} has an address that is not public and not in "
                f"{policy.setting}"
            )
        if policy.needs_tls and url.scheme == "http" and any(map(is_public, addresses)):
            raise InputError(f"{name}: must be https, since its host is a public one")
        return addresses[:_MAX_ADDRESSES]

    async def _connect(
        self, url: Url, addresses: Sequence[IPAddress]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        is_tls = url.scheme == "https"
        for address in addresses:
            opening = asyncio.open_connection(
                str(address),
                url.port,
                ssl=self._tls if is_tls else None,
                server_hostname=str(url.host) if is_tls else None,
            )
            if address == addresses[-1]:
                return await opening
            try:
                return await asyncio.wait_for(opening, _CONNECT_S)
            except (OSError, asyncio.TimeoutError):
                continue
        raise OSError


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    url: Url,
    request: OutboundRequest,
) -> Reply:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    headers = {
        "Host": url.authority,
        "User-Agent": f"trellis2-server/{__version__}",
        "Accept-Encoding": "identity",
        "Connection": "close",
        **({"Content-Length": str(len(request.body))} if request.body else {}),
        **request.headers,
    }
    head = h11.Request(method=request.method, target=url.target, headers=list(headers.items()))
    writer.write(connection.send(head) or b"")
    if request.body:
        writer.write(connection.send(h11.Data(data=request.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    # Not drained: a host may reply before it has read everything.
    return await _receive(reader, connection, request)


async def _receive(
    reader: asyncio.StreamReader, connection: h11.Connection, request: OutboundRequest
) -> Reply:
    response: h11.Response | None = None
    body = bytearray()
    interim = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > _MAX_INTERIM_REPLIES:
                raise h11.RemoteProtocolError("too many interim replies")
        elif isinstance(event, h11.Response):
            response = event
            _check_head(response, request.max_bytes)
        elif isinstance(event, h11.Data):
            size = len(body) + len(event.data)
            if size > request.max_bytes:
                raise _too_large(request.max_bytes)
            request.note_size(size)
            body += event.data
        elif response is not None:  # the end
            return Reply(response.status_code, _text_headers(response), bytes(body))
        else:
            raise h11.RemoteProtocolError("no reply")


def _check_head(response: h11.Response, max_bytes: int) -> None:
    headers = _text_headers(response)
    if headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        raise _RefusedReplyError("is compressed, which was not asked for")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)


def _text_headers(response: h11.Response) -> dict[str, str]:
    return {key.decode("ascii"): value.decode("latin-1") for key, value in response.headers}


def _too_large(max_bytes: int) -> _RefusedReplyError:
    return _RefusedReplyError(f"is over the limit of {max_bytes} bytes")


def make_tls() -> ssl.SSLContext:
    """Return a context that verifies certificates and names. Reads files."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    is_configured = "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ
    if not (is_configured or paths.cafile or paths.capath):  # a system without certificates
        import certifi  # comes with httpx

        context.load_verify_locations(certifi.where())
    return context
