"""Limits of a request to a host, at them and over them, and what is left after it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.outbound.test_sender import LIMIT, ask, resolver, send
from tests.support.engines import PATIENCE_S
from tests.support.other_host import OtherHost, Received, other_host, reply
from trellis2_server import __version__
from trellis2_server.errors import InputError, OutboundError
from trellis2_server.outbound import sender
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.sender import OutboundRequest, Policy, Sender
from trellis2_server.outbound.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path


def ask_and_wait(*parts: bytes, **request: Any) -> Any:
    """The host sends these parts, and nothing more while the test runs."""
    with other_host(lambda _: ()) as running:

        def answer(_: Received) -> Generator[bytes]:
            yield from parts
            running.is_over.wait(PATIENCE_S)

        running._answer = answer
        limits = {"timeout_s": PATIENCE_S / 2, "max_bytes": LIMIT}
        return send(running.url(), [running.entry], OutboundRequest(**{**limits, **request}))


# ---- what is sent ------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_a_request_says_who_asks_and_has_a_length_only_with_a_body(body: bytes) -> None:
    with other_host(lambda _: [reply("hello")]) as host:
        send(host.url(), [host.entry], OutboundRequest(10, LIMIT, "POST", body=body))
        received = host.next()
    assert received.headers == {
        "host": host.entry,
        "user-agent": f"trellis2-server/{__version__}",
        "accept-encoding": "identity",
        "connection": "close",
        **({"content-length": "3"} if body else {}),
    }
    assert received.body == body


# ---- sizes -------------------------------------------------------------------------------


def test_a_head_that_does_not_end_may_have_32_kib_and_no_more() -> None:
    line = b"HTTP/1.1 200 OK\r\nX: "
    whole = line + b"x" * (32_768 - len(line))
    assert ask([whole, b"\r\nContent-Length: 2\r\n\r\nhi"]).body == b"hi"
    with pytest.raises(OutboundError, match="is not HTTP"):
        ask_and_wait(whole + b"x")


def test_a_declared_size_is_refused_before_anything_comes() -> None:
    with pytest.raises(OutboundError, match="is over the limit of 10 bytes"):
        ask_and_wait(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", max_bytes=10)
    with pytest.raises(OutboundError, match=r"over the limit|is not HTTP"):
        ask_and_wait(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000000000000\r\n\r\n")


def test_a_coding_that_changes_nothing_is_accepted() -> None:
    assert ask([reply("hello", Content_Encoding="  Identity ")]).body == b"hello"


def test_sizes_are_reported_as_they_grow() -> None:
    sizes: list[int] = []
    assert ask([reply(b"x" * 200_000)], note_size=sizes.append).body == b"x" * 200_000
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 200_000
    assert len(sizes) > 1


# ---- addresses ---------------------------------------------------------------------------


def numbered(host: OtherHost, count: int) -> tuple[str, list[str], list[str]]:
    """A URL, hosts and addresses, of which only the last one answers."""
    addresses = [f"127.9.9.{number}" for number in range(1, count)] + ["127.0.0.1"]
    return host.url(host="many.example"), [f"many.example:{host.port}", "127.0.0.0/8"], addresses


def test_four_addresses_of_a_host_are_tried_and_no_more() -> None:
    with other_host(lambda _: [reply("hello")]) as host:
        url, entries, addresses = numbered(host, 4)
        assert send(url, entries, resolve=resolver(addresses)).body == b"hello"
        url, entries, addresses = numbered(host, 5)
        with pytest.raises(OutboundError, match="cannot be reached"):
            send(url, entries, resolve=resolver(addresses))
        assert host.connections == 1


def test_the_first_address_that_answers_is_the_one_that_is_called() -> None:
    with other_host(lambda _: [reply("first")]) as host:
        entries = [f"two.example:{host.port}", "127.0.0.0/8"]
        resolve = resolver(["127.0.0.1", "127.9.9.1", "127.9.9.2"])
        assert send(host.url(host="two.example"), entries, resolve=resolve).body == b"first"


@pytest.mark.skipif(os.name == "nt", reason="needs all of 127.0.0.0/8")
def test_an_address_that_does_not_answer_is_given_up_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "_CONNECT_S", 0.1)
    with ExitStack() as stack:
        host = stack.enter_context(other_host(lambda _: [reply("hello")]))
        # Connections to a socket whose queue is full wait.
        full = stack.enter_context(socket.socket())
        full.bind(("127.9.9.9", host.port))
        full.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003 - its only argument
            waiting.connect_ex(("127.9.9.9", host.port))
        entries = [f"two.example:{host.port}", "127.0.0.0/8"]
        resolve = resolver(["127.9.9.9", "127.0.0.1"])
        assert send(host.url(host="two.example"), entries, resolve=resolve).body == b"hello"


def test_a_public_host_is_called_without_tls_unless_tls_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "is_public", lambda _: True)
    with other_host(lambda _: [reply("hello")]) as host:
        with pytest.raises(InputError, match="must be https"):
            send(host.url(), [host.entry], policy={"needs_tls": True})
        assert host.connections == 0
        assert send(host.url(), [host.entry]).body == b"hello"


def test_only_the_operators_own_url_may_have_any_address() -> None:
    with other_host(lambda _: [reply("hello")]) as host:
        url, entries = host.url(host="own.lan"), [f"own.lan:{host.port}"]
        named: dict[str, Any] = {"resolve": resolver(["127.0.0.1"])}
        assert send(url, entries, policy={"trusts_addresses": True}, **named).body == b"hello"
        with pytest.raises(InputError, match="has an address that is not public"):
            send(url, entries, **named)


# ---- what is left ------------------------------------------------------------------------


@pytest.mark.parametrize("is_good", [True, False])
def test_the_connection_ends_with_the_reply(*, is_good: bool) -> None:
    """Also with one that is refused, and although the host does not close it."""
    ended = threading.Event()

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(PATIENCE_S)
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            try:
                if not connection.recv(1):
                    ended.set()
            except ConnectionResetError:
                ended.set()

    async def call(port: int) -> None:
        caller = Sender(Policy(HostList([f"127.0.0.1:{port}"]), "server.image_hosts"))
        request = OutboundRequest(PATIENCE_S, 2 if is_good else 1)
        sending = caller.send(parse_url(f"http://127.0.0.1:{port}/", "url"), request, "url")
        if is_good:
            assert (await sending).body == b"hi"
        else:
            with pytest.raises(OutboundError, match="over the limit of 1 bytes"):
                await sending
        # Within the loop: its end would close everything.
        assert await asyncio.to_thread(ended.wait, PATIENCE_S / 2)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        asyncio.run(call(listening.getsockname()[1]))
        thread.join(PATIENCE_S)


# ---- certificates ------------------------------------------------------------------------


def test_certificates_are_read_once_and_only_for_https() -> None:
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return made[-1]

    async def call(schemes: Iterable[str]) -> None:
        policy = Policy(HostList(["127.0.0.1:9"]), "server.image_hosts")
        caller = Sender(policy, tls=make)
        for scheme in schemes:
            url = parse_url(f"{scheme}://127.0.0.1:9/", "url")
            with pytest.raises(OutboundError, match="cannot be reached"):
                await caller.send(url, OutboundRequest(10, LIMIT), "url")

    asyncio.run(call(["http", "http"]))
    assert not made
    asyncio.run(call(["https", "http", "https"]))
    assert len(made) == 1


@pytest.mark.parametrize("configured", [(), ("SSL_CERT_FILE",), ("SSL_CERT_DIR",)])
@pytest.mark.parametrize("found", [(), ("cafile",), ("capath",)])
def test_certificates_of_the_system_or_of_the_operator_are_the_only_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, configured: tuple[str], found: tuple[str]
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in configured:
        monkeypatch.setenv(name, str(tmp_path))
    paths = ssl.DefaultVerifyPaths(None, None, "", "", "", "")._replace(
        **dict.fromkeys(found, str(tmp_path))
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(ssl, "create_default_context", lambda: empty)
    has_more = sender.make_tls().cert_store_stats()["x509_ca"] > 0
    assert has_more == (not configured and not found)
