"""Files by URL, fetched where an agent names one.

What an agent reads may tell it to fetch an address that only this machine reaches. A host is
therefore resolved once, all its addresses are checked, and the connection goes to one of them.

Does not know: what is in a file, MCP.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
import httpx

from trellis2_server import __version__
from trellis2_server.client import UnreachableError, UsageError
from trellis2_server.public_addresses import is_public

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from trellis2_server.public_addresses import IPAddress

#: Time limit of a file, seconds.
TIMEOUT_S: Final = 60.0
_PORTS: Final = {"http": 80, "https": 443}


class RemoteFiles:
    """Fetches files.

    Args:
        allows_private: whether addresses of this machine and of private networks are fine.
        timeout_s: time limit of a file, seconds.
    """

    def __init__(self, *, allows_private: bool = False, timeout_s: float = TIMEOUT_S) -> None:
        self._allows_private = allows_private
        self._timeout_s = timeout_s

    async def fetch(self, name: str, url: str, max_bytes: int) -> bytes:
        """Return the content of a URL.

        Args:
            name: name of the argument, for messages.
            url: `http://…` or `https://…`.
            max_bytes: limit of the content.

        Raises:
            UsageError: the address is not allowed, or its content is too large or none.
            UnreachableError: it does not answer in time.
        """
        parts = _split(name, url)
        try:
            with anyio.fail_after(self._timeout_s):
                address = await self._resolve(name, parts)
                return await _download(name, parts, address, max_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise UnreachableError(f"{name}: {parts.hostname} does not answer") from error

    async def _resolve(self, name: str, parts: SplitResult) -> IPAddress:
        host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
            addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
        except (OSError, ValueError) as error:
            raise UnreachableError(f"{name}: there is no host {host}") from error
        if not self._allows_private and not all(map(is_public, addresses)):
            raise UsageError(
                f"{name}: {host} has an address that is not public, such as one of this machine or "
                "of a private network; --allow-private-urls allows it"
            )
        return addresses[0]


def _split(name: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        has_user = "@" in parts.netloc
    except ValueError:
        is_valid = has_user = False
        parts = urlsplit("")
    if not is_valid or not url.isprintable():
        raise UsageError(f"{name}: not a URL")
    if has_user:
        raise UsageError(f"{name}: the URL must not have a user")
    return parts


async def _download(name: str, parts: SplitResult, address: IPAddress, max_bytes: int) -> bytes:
    """Return the content that a host's address sends."""
    host = str(parts.hostname)
    literal = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004
    port = parts.port or _PORTS[parts.scheme]
    target = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
    headers = {
        "Host": parts.netloc,
        "User-Agent": f"trellis2-server-mcp/{__version__}",
        "Accept-Encoding": "identity",
    }
    content = bytearray()
    async with (
        httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
        client.stream(
            "GET", target, headers=headers, extensions={"sni_hostname": host}
        ) as response,
    ):
        if response.is_redirect:
            raise UsageError(f"{name}: {host} sends to another address; send that one")
        if not response.is_success:
            raise UsageError(f"{name}: {host} answers {response.status_code}")
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > max_bytes:
                raise UsageError(f"{name}: the file is over the limit of {max_bytes} bytes")
    return bytes(content)
