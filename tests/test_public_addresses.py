"""Which addresses are public."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis2_server.public_addresses import SPECIAL_NETWORKS, is_public

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.0", "192.0.1.0", "100.128.0.0",
    "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "64:ff9b::808:808",
    "64:ff9b::dfff:ffff",
]  # fmt: skip
#: One address of each kind, of every range that a registry of IANA (RFC 6890) does not call global.
NOT_PUBLIC = {
    "this host": "0.0.0.0",  # noqa: S104
    "private, 10": "10.0.0.1",
    "private, 172": "172.16.0.1",
    "private, 192": "192.168.0.1",
    "carrier-grade NAT": "100.64.0.1",
    "loopback": "127.255.255.255",
    "metadata of clouds": "169.254.169.254",
    "protocols": "192.0.0.8",
    "NAT64 discovery": "192.0.0.170",
    "documentation 1": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "6to4 relays": "192.88.99.1",
    "benchmarking": "198.19.255.255",
    "multicast": "239.255.255.250",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified v6": "::",
    "loopback v6": "::1",
    "IPv4-mapped public": "::ffff:8.8.8.8",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-translated": "::ffff:0:8.8.8.8",
    "IPv4-compatible": "::8.8.8.8",
    "NAT64 of loopback": "64:ff9b::7f00:1",
    "NAT64 of a private one": "64:ff9b::a00:1",
    "NAT64 of metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 of a network's own": "64:ff9b:1::808:808",
    "discard": "100::1",
    "dummy": "100:0:0:1::1",
    "Teredo": "2001::1",
    "benchmarking v6": "2001:2::1",
    "ORCHID": "2001:20::1",
    "documentation v6": "2001:db8::1",
    "documentation v6, larger": "3fff::1",
    "6to4 of loopback": "2002:7f00:1::",
    "6to4 of a public one": "2002:808:808::",
    "segment routing": "5f00::1",
    "unique local": "fd12::1",
    "link-local": "fe80::1",
    "link-local with a zone": "fe80::1%1",
    "site-local": "fec0::1",
    "multicast v6": "ff02::1",
    "multicast v6, global": "ff0e::1",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("kind", NOT_PUBLIC)
def test_addresses_with_a_special_purpose_are_not_public(kind: str) -> None:
    assert not is_public(ipaddress.ip_address(NOT_PUBLIC[kind]))


@pytest.mark.parametrize("network", SPECIAL_NETWORKS, ids=str)
def test_a_special_network_is_not_public_to_its_last_address(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    first, last = network.network_address, network.broadcast_address
    assert not is_public(first)
    assert not is_public(last)
    beside = [first - 1] if int(first) else []
    beside += [last + 1] if int(last) < 2**network.max_prefixlen - 1 else []
    for address in beside:
        known = any(address in other for other in SPECIAL_NETWORKS)
        assert is_public(address) is not known


@pytest.mark.parametrize(
    ("last", "first"),
    [("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"), ("4000::", "3ffe::")],
    ids=["begin", "end"],
)
def test_of_ipv6_only_what_is_given_out_is_public(last: str, first: str) -> None:
    assert not is_public(ipaddress.ip_address(last))
    assert is_public(ipaddress.ip_address(first))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
@settings(max_examples=60)
def test_what_python_calls_private_is_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_private or address.is_multicast or address.is_link_local or address.is_loopback:
        assert not is_public(address)


@given(st.ip_addresses(v=4))
@settings(max_examples=60)
def test_of_networks_with_ipv6_only_the_embedded_address_counts(
    address: ipaddress.IPv4Address,
) -> None:
    embedded = ipaddress.IPv6Address(b"\0\x64\xff\x9b" + bytes(8) + address.packed)
    assert is_public(embedded) is is_public(address)
    for prefix in (bytes(10) + b"\xff\xff", bytes(12), b"\0\x64\xff\x9b\0\1" + bytes(6)):
        assert not is_public(ipaddress.IPv6Address(prefix + address.packed))
    assert not is_public(ipaddress.IPv6Address(b"\x20\x02" + address.packed + bytes(10)))
