"""Address and credentials of a server, and how httpx uses them.

Does not know: operations, threads, asyncio.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from trellis2_server import __version__
from trellis2_server.client.errors import UnreachableError, UsageError
from trellis2_server.client.protocol.actions import Open
from trellis2_server.client.protocol.replies import Reply, printable

if TYPE_CHECKING:
    from trellis2_server.client.protocol.actions import Call

DEFAULT_SERVER: Final = "http://127.0.0.1:8082"
#: Environment variables that are used if an argument is omitted.
SERVER_VARIABLE: Final = "TRELLIS2_SERVER"
KEY_VARIABLE: Final = "TRELLIS2_SERVER_API_KEY"
#: Longest time to connect, seconds.
CONNECT_S: Final = 10.0
#: Longest time without data, seconds; an event stream carries some every 15 s.
TIMEOUT_S: Final = 60.0
#: What the message of a refused connection contains: the system's, anyio's, Windows'.
_REFUSED: Final = ("refused", "All connection attempts failed", "10061")


class Connection:
    """Address and credentials of a server.

    Args:
        server: address; None: `TRELLIS2_SERVER`, or port 8082 of this machine.
        api_key: API key; None: `TRELLIS2_SERVER_API_KEY`, or no key. It is never shown.
        timeout_s: longest time without data before a connection counts as lost, seconds.

    Attributes:
        server: address, without a slash at the end.

    Raises:
        UsageError: the address is invalid, or the key contains invalid characters.
    """

    def __init__(
        self, server: str | None = None, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.server = _read_address(server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER)
        self._timeout_s = timeout_s
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        self._headers = {"User-Agent": f"trellis2-server-client/{__version__}"}
        if key:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise UsageError("the API key contains characters that cannot be sent")
            self._headers["Authorization"] = f"Bearer {key}"

    def client_arguments(self) -> dict[str, Any]:
        """Return the arguments of `httpx.Client` and `httpx.AsyncClient`."""
        return {
            "base_url": self.server,
            "headers": self._headers,
            "timeout": httpx.Timeout(self._timeout_s, connect=CONNECT_S, pool=None),
            "limits": httpx.Limits(max_connections=None),
            # A proxy from the environment cannot reach ports of this machine.
            "trust_env": not _is_local(self.server),
        }

    def translate(self, error: BaseException) -> BaseException:
        """Return the client's exception for an exception of httpx; others unchanged."""
        if not isinstance(error, httpx.HTTPError):
            return error
        unreachable = UnreachableError(f"{self.server}: {_describe(error)}")
        unreachable.__cause__ = error
        return unreachable


def request_arguments(action: Call | Open) -> dict[str, Any]:
    """Return the arguments of `request` and `stream` of a client of httpx."""
    if isinstance(action, Open):
        return {"method": "GET", "url": action.path, "headers": dict(action.headers)}
    timeout = httpx.Timeout(action.timeout_s) if action.timeout_s else httpx.USE_CLIENT_DEFAULT
    request: dict[str, Any] = {"method": action.method, "url": action.path, "timeout": timeout}
    return request if action.body is None else {**request, "json": action.body}


def read_reply(response: httpx.Response) -> Reply:
    """Convert a response of httpx; the body is empty if it is read in chunks."""
    body = response.content if response.is_closed else b""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, body)


def _describe(error: httpx.HTTPError) -> str:
    text = printable(str(error))
    if isinstance(error, httpx.ConnectTimeout):
        return "the connection timed out"
    if isinstance(error, httpx.TimeoutException):
        return "no data was received in time"
    if isinstance(error, httpx.ConnectError):
        is_refused = not text or any(words in text for words in _REFUSED)
        return "the connection was refused" if is_refused else text
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return "the connection was lost"
    return text or type(error).__name__


def _read_address(server: str) -> str:
    address = server.strip()
    if "://" not in address:
        address = f"http://{address}"
    address = address.rstrip("/")
    try:
        parts = urlsplit(address)
        is_valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL):
        is_valid = False
    if not is_valid:
        raise UsageError(f"not the address of a server: {printable(server)}")
    return address


def _is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
