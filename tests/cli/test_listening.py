"""Addresses that the server listens on, with IPv6 and without."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from trellis2_server.cli.listening import address_text, open_listeners
from trellis2_server.errors import ConfigError
from trellis2_server.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


with_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def listening(hosts: Sequence[str], port: int = 0) -> tuple[list[str], set[int]]:
    """Where one can connect, and at which ports it listens."""
    listeners = open_listeners(hosts, port)
    try:
        ports = {each.getsockname()[1] for each in listeners}
        reached: list[str] = []
        for host in ("127.0.0.1", "::1"):
            try:
                socket.create_connection((host, min(ports)), 5).close()
            except OSError:
                continue
            reached.append(host)
        return reached, ports
    finally:
        for each in listeners:
            each.close()


@with_ipv6
@pytest.mark.parametrize("hosts", [["0.0.0.0", "::"], ["::"], ["127.0.0.1", "::1"]])  # noqa: S104
def test_clients_of_both_protocols_reach_one_port(hosts: list[str]) -> None:
    reached, ports = listening(hosts)
    assert reached == ["127.0.0.1", "::1"]
    assert len(ports) == 1


def test_an_address_of_one_protocol_is_that_alone() -> None:
    assert listening(["127.0.0.1"])[0] == ["127.0.0.1"]
    assert listening(["0.0.0.0"])[0] == ["127.0.0.1"]  # noqa: S104


@with_ipv6
def test_an_ipv4_client_keeps_its_address_where_both_protocols_are_served() -> None:
    listeners = open_listeners(["::"], 0)
    try:
        at = {each.family: each for each in listeners}
        port = listeners[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5):
            accepted, address = at[socket.AF_INET].accept()
            accepted.close()
        assert address[0] == "127.0.0.1"
    finally:
        for each in listeners:
            each.close()


@pytest.mark.parametrize("at", ["socket", "bind"])
def test_a_machine_without_ipv6_serves_ipv4(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Socket(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **named: Any) -> None:
            if at == "socket" and family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments, **named)

        def bind(self, address: Any) -> None:
            if at == "bind" and self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    assert listening(["0.0.0.0", "::"])[0] == ["127.0.0.1"]  # noqa: S104
    assert listening(["::"])[0] == ["127.0.0.1"]
    with pytest.raises(OSError, match=r"\[::1\]:\d+: "):  # asked for by itself
        open_listeners(["127.0.0.1", "::1"], 0)


def test_a_port_in_use_is_named_with_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for hosts in (["127.0.0.1"], ["0.0.0.0", "::"]):  # noqa: S104
            with pytest.raises(OSError, match=rf"{port}: address already in use") as error:
                open_listeners(hosts, port)
            assert error.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("count", [1, 19, 20])
def test_another_port_is_taken_where_any_will_do_up_to_twenty_times(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    failures = [OSError(errno.EADDRINUSE, "Address already in use") for _ in range(count)]

    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            if address[1] and failures:
                raise failures.pop()
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    if count < 20:
        assert listening(["127.0.0.1", "127.0.0.2"])[0] == ["127.0.0.1"]
    else:
        with pytest.raises(OSError, match="address already in use"):
            listening(["127.0.0.1", "127.0.0.2"])
    assert not failures


def test_an_address_is_written_as_in_a_url() -> None:
    assert [address_text(host, 1) for host in ("0.0.0.0", "::", "name")] == [  # noqa: S104
        "0.0.0.0:1", "[::]:1", "name:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "read"), [('"::1"', ("::1",)), ('["a", "b"]', ("a", "b")), ('["a"]', ("a",))]
)
def test_the_setting_is_a_list_or_one(tmp_path: Path, written: str, read: tuple[str, ...]) -> None:
    file = tmp_path / "c.json"
    file.write_text(f'{{"server": {{"host": {written}}}}}')
    assert load_settings(file).server.host == read


@pytest.mark.parametrize("written", ['""', "[]", '[""]', "1", "[1]", "null"])
def test_a_setting_that_is_no_address_stops_the_start(tmp_path: Path, written: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(f'{{"server": {{"host": {written}}}}}')
    with pytest.raises(ConfigError, match=r"server\.host"):
        load_settings(file)


def test_a_start_that_fails_leaves_no_address_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        other.close()
        with pytest.raises(OSError, match=r"192\.0\.2\.1:") as caught:
            open_listeners(["127.0.0.1", "192.0.2.1"], port)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        for each in open_listeners(["127.0.0.1"], port):  # while the error is still looked at
            each.close()
        with pytest.raises(OSError, match="in use"):
            open_listeners(["127.0.0.1"], taken.getsockname()[1])


@pytest.mark.skipif(os.name != "posix", reason="Windows would let two listen")
def test_a_port_can_be_taken_again_at_once_after_a_restart() -> None:
    first, second = open_listeners(["127.0.0.1", "127.0.0.2"], 0)
    with first, second:
        for each in (first, second):
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert first.getsockname()[1] == second.getsockname()[1]
