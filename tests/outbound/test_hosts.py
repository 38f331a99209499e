"""Lists of hosts."""

from __future__ import annotations

import ipaddress

import pytest

from trellis2_server.outbound.hosts import HostList, read_host


def allows(entries: list[str], host: str, port: int = 443, default_port: int = 443) -> bool:
    parsed = read_host(host)
    assert parsed is not None
    return HostList(entries).allows(parsed, port, default_port)


def test_a_name_stands_for_itself_alone() -> None:
    assert allows(["images.example"], "IMAGES.example.")
    assert allows(["Images.Example"], "images.example")
    for other in ("a.images.example", "images.example.com", "ximages.example", "example"):
        assert not allows(["images.example"], other)


def test_a_wildcard_stands_for_all_names_below() -> None:
    assert allows(["*.example.com"], "a.example.com")
    assert allows(["*.example.com"], "a.b.example.com")
    for other in ("example.com", "badexample.com", "a.example.com.evil.net"):
        assert not allows(["*.example.com"], other)


def test_a_port_is_the_usual_one_unless_the_entry_has_another() -> None:
    assert not allows(["example.com"], "example.com", 8443)
    assert allows(["example.com:8443"], "example.com", 8443)
    assert not allows(["example.com:8443"], "example.com", 443)
    assert allows(["[::1]:9000"], "[::1]", 9000)
    assert allows(["10.0.0.0/8:81"], "10.1.2.3", 81, 80)


def test_a_network_stands_for_its_addresses_not_for_names() -> None:
    assert allows(["10.0.0.0/8", "fd00::/8"], "10.9.9.9")
    assert allows(["10.0.0.0/8", "fd00::/8"], "[fd00::1]")
    assert not allows(["10.0.0.0/8"], "11.0.0.1")
    assert not allows(["10.0.0.0/8"], "intranet")


def test_addresses_that_are_not_public_must_be_listed_themselves() -> None:
    private = ipaddress.ip_address("10.0.0.5")
    assert not HostList(["intranet"]).allows_address("intranet", private)
    assert HostList(["intranet", "10.0.0.5"]).allows_address("intranet", private)
    assert HostList(["intranet"]).allows_address("intranet", ipaddress.ip_address("8.8.8.8"))
    mapped = ipaddress.ip_address("::ffff:10.0.0.5")
    assert not HostList(["intranet", "10.0.0.5"]).allows_address("intranet", mapped)


def test_localhost_where_it_is_listed_may_be_this_machine_and_no_other() -> None:
    hosts = HostList(["localhost", "other"])
    assert hosts.allows_address("localhost", ipaddress.ip_address("::1"))
    assert not hosts.allows_address("localhost", ipaddress.ip_address("10.0.0.1"))
    assert not hosts.allows_address("other", ipaddress.ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    "entry",
    ["", "https://example.com", "example.com/path", "user@example.com", "*", "*.*.com", "a b",
     "example.com:0", "example.com:65536", "example.com:port", "1.2.3", "0x7f000001", "2130706433",
     "[::1", "10.0.0.0/33", "münchen.de", "a..b", "-a.com", "x" * 64, f"{'a.' * 127}com",
     f"{'a.' * 125}comm", "a.com:" + "1" * 5000, "[a.com]", "[10.0.0.1]:x"],
    ids=lambda entry: entry[:20],
)  # fmt: skip
def test_what_is_no_host_is_refused_by_its_name(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host: write a name"):
        HostList([entry])


def test_the_longest_port_label_and_name_are_accepted() -> None:
    longest = f"{'a.' * 125}com"
    HostList(["example.com:65535", "x" * 63, longest])
    assert len(longest) == 253
    assert read_host(longest) == longest
    assert read_host(f"{longest}m") is None


def test_a_label_may_be_a_number_but_not_the_last_one() -> None:
    for name in ("1.example.com", "127.0.0.1.example.com", "1a", "a-1", "x_y"):
        assert read_host(name) == name


def test_a_list_without_entries_is_empty_and_allows_nothing() -> None:
    assert not HostList()
    assert HostList(["example.com"])
    assert not allows([], "example.com")


def test_a_name_is_no_network_and_a_network_no_name() -> None:
    address = ipaddress.ip_address("10.0.0.5")
    assert not HostList(["intranet"]).allows(address, 80, 80)
    assert not HostList(["*.intranet", "10.0.0.0/8"]).allows("intranet", 80, 80)


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "017700000001", "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1",
     "127.0.0.01", "127.0.0.1.", "127.0.0.256", "1.2.3.4.5", "a.0x7f", "[::1%25eth0]",
     "[fe80::1%1]", "[127.0.0.1]", "::1", "[::1", "::1]", "1.0x7f", "2.3.4.a.5", "",
     ".", "a b", "%31", "\uff11\uff12\uff17.0.0.1",
     "\u2460.0.0.1", "loc\tal"],
)  # fmt: skip
def test_other_ways_to_write_a_host_are_not_read(host: str) -> None:
    assert read_host(host) is None
