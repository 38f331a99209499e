"""`HostList`: the hosts that the operator lets this server call.

Does not know: how a name is resolved, URLs, settings.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis2_server.public_addresses import is_public

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trellis2_server.public_addresses import IPAddress

    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: A label of a host name; services in containers have underscores.
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_NAME: Final = 253
#: Last labels that browsers and C libraries read as part of an IPv4 address: 127.1, 0x7f000001.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: An entry: an IPv6 address or network in brackets, or anything else, and a port.
_ENTRY: Final = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]+))(?::(?P<port>\d+))?"
)
_MAX_PORT: Final = 65_535


def read_host(text: str) -> str | IPAddress | None:
    """Return the host of a URL: a name in lower case, or an address; None: it is neither.

    An IPv4 address has four decimal numbers. Other ways to write one are refused: decimal, octal,
    hexadecimal or shortened.

    Args:
        text: an IPv6 address is in brackets.
    """
    if text.startswith("[") and text.endswith("]"):
        try:
            return None if "%" in text else ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            return None
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return ipaddress.IPv4Address(text)
        except ValueError:
            return None
    is_name = len(name) <= _MAX_NAME and all(map(_LABEL.fullmatch, labels))
    return name if is_name else None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry.

    Attributes:
        name: host name, or the part after `*.`; empty: it is a network.
        is_wildcard: whether it stands for all names below `name`.
        network: addresses; None: it is a name.
        port: the only port; None: the scheme's.
    """

    name: str = ""
    is_wildcard: bool = False
    network: IPNetwork | None = None
    port: int | None = None

    def matches(self, host: str | IPAddress) -> bool:
        if isinstance(host, str):
            return host.endswith(f".{self.name}") if self.is_wildcard else host == self.name
        return self.network is not None and host in self.network


class HostList:
    """Hosts that may be called.

    An entry is a name, `*.` and a name for all names below it, an address or a network such as
    `10.0.0.0/8`; each may end with a port, and without one means the scheme's own. IPv6 is in
    brackets where a port follows.

    Args:
        entries: the entries.

    Raises:
        ValueError: an entry is none of these; the message names it.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._entries = tuple(map(_read_entry, entries))

    def __bool__(self) -> bool:
        return bool(self._entries)

    def allows(self, host: str | IPAddress, port: int, default_port: int) -> bool:
        """Return whether the host of a URL is on the list.

        Args:
            host: as the URL names it.
            port: of the URL.
            default_port: that of its scheme.
        """
        return any(
            entry.matches(host) and port == (entry.port or default_port) for entry in self._entries
        )

    def allows_address(self, host: str | IPAddress, address: IPAddress) -> bool:
        """Return whether a connection to a listed host may go to that address.

        It may be public, or be on the list itself. The name `localhost`, where listed, may have
        addresses of this machine.

        Args:
            host: as the URL names it.
            address: what it is resolved to.
        """
        if is_public(address) or any(entry.matches(address) for entry in self._entries):
            return True
        return host == "localhost" and address.is_loopback


def _read_entry(text: str) -> _Entry:
    wrong = ValueError(
        f"{text!r:.80} is no host: write a name, *.name, an address or a network, and :port where "
        "it is not the usual one"
    )
    try:
        return _Entry(network=ipaddress.ip_network(text))  # also IPv6 without brackets
    except ValueError:
        pass
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise wrong
    port = (
        int(match["port"]) if match["port"] and len(match["port"]) <= len(str(_MAX_PORT)) else None
    )
    if match["port"] and not (port and port <= _MAX_PORT):
        raise wrong
    try:
        return _Entry(network=ipaddress.ip_network(match["bracketed"] or match["plain"]), port=port)
    except ValueError:
        is_wildcard = (match["plain"] or "").startswith("*.")
        name = read_host((match["plain"] or "").removeprefix("*."))
        if not isinstance(name, str):
            raise wrong from None
        return _Entry(name=name, is_wildcard=is_wildcard, port=port)
