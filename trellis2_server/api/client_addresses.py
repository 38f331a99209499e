"""The addresses that limits count clients by.

Does not know: HTTP, API keys, limits.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Prefix length of the IPv6 network that a provider assigns to one customer.
_IPV6_CUSTOMER_BITS: Final = 64


def client_address(address: str) -> str:
    """Return what an address is counted as: an IPv4 address, or an IPv6 network.

    An IPv4 address that is written as IPv6 is the IPv4 address. Text that is no address, such as
    the path of a Unix socket, is returned as it is.
    """
    ip = _parse(address)
    if ip is None:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ipaddress.ip_network((int(ip), _IPV6_CUSTOMER_BITS), strict=False))


class Networks:
    """Addresses and networks, to look addresses up in.

    Args:
        texts: such as `10.0.0.1` or `10.0.0.0/8`.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(text) for text in texts)

    def __contains__(self, address: str) -> bool:
        """Return whether an address is in one of the networks; False for any other text."""
        ip = _parse(address)
        return ip is not None and any(ip in network for network in self._networks)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip
