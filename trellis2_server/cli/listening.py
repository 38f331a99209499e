"""The sockets that the server listens on.

Does not know: HTTP, settings.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

_EVERY_IPV4: Final = "0.0.0.0"  # noqa: S104
_EVERY_IPV6: Final = "::"
#: Connections that wait to be accepted; uvicorn's default.
BACKLOG: Final = 2048
#: Attempts to find a port that is free at all addresses, where any port will do.
_ATTEMPTS: Final = 20
#: A machine without IPv6, or with an address family that is switched off.
_NO_PROTOCOL: Final = {
    errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT,
}  # fmt: skip


def address_text(host: str, port: int) -> str:
    """Return an address as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_listeners(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses.

    `::` is two of them, one for each protocol: a socket for both would see IPv4 clients by other
    addresses. Every address of all, of a protocol that the machine does not have, is left out if
    there are others.

    Args:
        hosts: addresses, or names that are resolved to all of their addresses.
        port: TCP port of all; 0: any that is free at all of them.

    Raises:
        OSError: one of them cannot be listened on; names the address.
    """
    addresses = list(dict.fromkeys(each for host in hosts for each in _expanded(host)))
    listeners = _open_at_a_free_port(addresses) if port == 0 else _open_all(addresses, port)
    at = ", ".join(address_text(*each.getsockname()[:2]) for each in listeners)
    logger.info("Listening", extra={"at": at})
    return listeners


def _open_at_a_free_port(addresses: Sequence[str]) -> list[socket.socket]:
    """Listen at a port that is free at the first address, until it is free at all of them."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(OSError):
            return _open_all(addresses, 0)
    return _open_all(addresses, 0)


def _expanded(host: str) -> Sequence[str]:
    return (_EVERY_IPV4, _EVERY_IPV6) if host == _EVERY_IPV6 else (host,)


def _open_all(addresses: Sequence[str], port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for host in addresses:
            try:
                listeners += _open(host, port)
            except OSError as error:
                if host not in {_EVERY_IPV4, _EVERY_IPV6} or error.errno not in _NO_PROTOCOL:
                    raise
                missing = error
                continue
            port = port or listeners[0].getsockname()[1]
        if missing is not None and not listeners:
            raise missing
    except OSError:
        for each in listeners:
            each.close()
        raise
    return listeners


def _open(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of a host.

    Raises:
        OSError: there is none, or it cannot be listened on; names the address.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            # With its protocol: asyncio sets TCP_NODELAY only then.
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            if os.name == "posix":  # on Windows it lets two listen at one port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
    except OSError as error:
        for each in listeners:
            each.close()
        cause = (error.strerror or str(error)).lower()
        raise OSError(error.errno, f"{address_text(host, port)}: {cause}") from error
    return listeners
