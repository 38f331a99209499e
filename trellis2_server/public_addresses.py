"""Which IP addresses belong to the public internet.

`ipaddress.is_global` depends on the version of Python, so the networks are listed here, after the
IANA registries of special-purpose addresses (RFC 6890), as of 2025.

Whoever fetches what a client or an agent names must not reach machines that only this one can
reach. So addresses count as public only if nothing in them can lead elsewhere: IPv4 addresses that
are embedded in IPv6 ones do not, but for those of NAT64, which networks with IPv6 only need.

Does not know: names, lists of hosts, who asks.
"""

from __future__ import annotations

import ipaddress
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_SPECIAL_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by a provider's customers
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; metadata of cloud machines
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocols
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
)
#: All other IPv6 addresses are none of the public internet: loopback, link-local, unique local,
#: multicast, IPv4-mapped and -compatible ones.
_UNICAST_V6: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocols; Teredo, which embeds IPv4 addresses
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds IPv4 addresses
        "3fff::/20",  # documentation
    )
)
#: IPv4 addresses as networks with IPv6 only see them (RFC 6052); the last four bytes are theirs.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


#: All of them, for tests.
SPECIAL_NETWORKS: Final = (*_SPECIAL_V4, *_SPECIAL_V6)


def is_public(address: IPAddress) -> bool:
    """Return whether an address belongs to a host of the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(address.packed[-4:]))
    return address in _UNICAST_V6 and not any(address in network for network in _SPECIAL_V6)
