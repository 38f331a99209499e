"""Requests to hosts: which are called, and what they may reply."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.other_host import OtherHost, Received, other_host, reply
from trellis2_server.errors import InputError, OutboundError, OutboundTimeoutError
from trellis2_server.outbound import sender
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.sender import OutboundRequest, Policy, Reply, Sender
from trellis2_server.outbound.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

#: Limit of a reply where a test is not about it, bytes.
LIMIT = 1_000_000


def resolver(*answers: Sequence[str]) -> Any:
    """Names have these addresses, one answer after the other; the last one stays."""
    left = list(answers)
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        del port
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    resolve.asked = asked  # type: ignore[attr-defined]
    return resolve


def send(
    url: str, hosts: Iterable[str], request: OutboundRequest | None = None, **parts: Any
) -> Reply:
    policy = Policy(HostList(hosts), "server.image_hosts", **parts.pop("policy", {}))
    return asyncio.run(
        Sender(policy, **parts).send(
            parse_url(url, "image_url"), request or OutboundRequest(10, LIMIT), "image_url"
        )
    )


@pytest.fixture
def host() -> Generator[OtherHost]:
    with other_host(lambda _: [reply("hello", X_Test="1")]) as running:
        yield running


# ---- what is sent ------------------------------------------------------------------------


def test_a_request_goes_to_the_host_as_it_is(host: OtherHost) -> None:
    request = OutboundRequest(10, LIMIT, "POST", {"X-Key": "k"}, b'{"a": 1}')
    answer = send(host.url("/path?q=1"), [host.entry], request)
    assert (answer.status, answer.body, answer.headers["x-test"]) == (200, b"hello", "1")
    received = host.next()
    assert received.line == "POST /path?q=1 HTTP/1.1"
    assert received.body == b'{"a": 1}'
    assert received.headers["host"] == host.entry
    assert received.headers["x-key"] == "k"
    assert received.headers["accept-encoding"] == "identity"


def test_no_proxy_of_the_environment_is_used(
    host: OtherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(host.url(), [host.entry]).body == b"hello"


# ---- which hosts are called --------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "entries"),
    [
        (["127.0.0.1"], ["rebound.example"]),
        (["127.0.0.1"], ["*.example"]),
        (["::1"], ["rebound.example"]),
        (["::ffff:127.0.0.1"], ["rebound.example", "127.0.0.1"]),
        (["169.254.169.254"], ["rebound.example"]),
        (["10.0.0.1"], ["rebound.example", "192.168.0.0/16"]),
        (["93.184.215.14", "127.0.0.1"], ["rebound.example"]),
        (["0.0.0.0"], ["rebound.example"]),  # noqa: S104
        (["fe80::1%1"], ["rebound.example"]),
        (["224.0.0.1"], ["rebound.example"]),
    ],
)
def test_a_listed_name_with_an_address_that_is_not_public_is_not_called(
    host: OtherHost, addresses: list[str], entries: list[str]
) -> None:
    named = [f"{entry}:{host.port}" if "/" not in entry else entry for entry in entries]
    with pytest.raises(InputError, match="has an address that is not public and not in server"):
        send(host.url(host="rebound.example"), named, resolve=resolver(addresses))
    assert host.connections == 0


def test_a_name_is_resolved_once_and_its_address_is_what_is_called(host: OtherHost) -> None:
    """The second answer, which a rebinding name gives, is never asked for."""
    resolve = resolver(["127.0.0.1"], ["10.255.255.1"])
    entries = [f"rebound.example:{host.port}", "127.0.0.1"]
    assert send(host.url(host="rebound.example"), entries, resolve=resolve).body == b"hello"
    assert resolve.asked == ["rebound.example"]
    assert host.next().headers["host"] == f"rebound.example:{host.port}"


def test_an_address_in_a_url_is_not_resolved(host: OtherHost) -> None:
    resolve = resolver(["10.0.0.1"])
    assert send(host.url(), [host.entry], resolve=resolve).body == b"hello"
    assert resolve.asked == []


@pytest.mark.parametrize(
    "entries", [[], ["127.0.0.1"], ["127.0.0.1:1"], ["localhost"], ["example.com"], ["::1"]]
)
def test_a_host_that_is_not_listed_is_not_called(host: OtherHost, entries: list[str]) -> None:
    with pytest.raises(InputError, match="is not among the hosts that this server may call"):
        send(host.url(), entries)
    assert host.connections == 0


def test_this_machine_is_called_where_localhost_is_listed(host: OtherHost) -> None:
    url, entries = host.url(host="localhost"), [f"localhost:{host.port}"]
    assert send(url, entries, resolve=resolver(["::1", "127.0.0.1"])).body == b"hello"


def test_the_next_address_is_tried_if_one_does_not_answer(host: OtherHost) -> None:
    entries = [f"two.example:{host.port}", "127.0.0.0/8"]
    url = host.url(host="two.example")
    assert send(url, entries, resolve=resolver(["127.9.9.9", "127.0.0.1"])).body == b"hello"


def test_without_tls_only_hosts_that_are_not_public_are_called(host: OtherHost) -> None:
    policy = {"needs_tls": True}
    assert send(host.url(), [host.entry], policy=policy).body == b"hello"
    entries = ["public.example"]
    with pytest.raises(InputError, match="must be https, since its host is a public one"):
        send("http://public.example/", entries, policy=policy, resolve=resolver(["8.8.8.8"]))


@pytest.mark.parametrize("addresses", [[], ["no address"]])
def test_a_name_without_an_address_is_an_error(addresses: list[str]) -> None:
    with pytest.raises(OutboundError, match=r"^image_url: the host has no address$"):
        send("http://a.example/", ["a.example"], resolve=resolver(addresses))


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(OutboundError, match=r"^image_url: the host has no address$"):
        send("http://nothing.invalid/", ["nothing.invalid"])


def test_a_port_that_nobody_listens_at_is_an_error() -> None:
    with pytest.raises(OutboundError, match="cannot be reached, or closed the connection"):
        send("http://127.0.0.1:9/", ["127.0.0.1:9"])


def test_the_system_resolves_a_name_to_addresses() -> None:
    found = asyncio.run(sender.resolve_by_system("localhost", 80))
    assert {"127.0.0.1", "::1"} & set(found)
    assert len(found) == len(set(found))


# ---- what is replied ---------------------------------------------------------------------


def ask(parts: Iterable[bytes], **request: Any) -> Reply:
    with other_host(lambda _: parts) as running:
        limits = {"timeout_s": 10, "max_bytes": LIMIT}
        return send(running.url(), [running.entry], OutboundRequest(**{**limits, **request}))


@pytest.mark.parametrize("form", ["length", "chunked", "close"])
def test_a_reply_may_have_the_limit_and_no_more(form: str) -> None:
    def parts(size: int) -> list[bytes]:
        body = b"x" * size
        if form == "length":
            return [reply(body)]
        if form == "close":
            return [b"HTTP/1.1 200 OK\r\n\r\n", body]
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return [head, b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)]

    assert len(ask(parts(100_000), max_bytes=100_000).body) == 100_000
    with pytest.raises(OutboundError, match="is over the limit of 100000 bytes"):
        ask(parts(100_001), max_bytes=100_000)


def test_a_declared_size_over_the_limit_is_refused_before_the_content_comes() -> None:
    def parts() -> Generator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n"

    with pytest.raises(OutboundError, match=r"over the limit|is not HTTP"):
        ask(parts(), max_bytes=10)


def test_an_endless_reply_ends_at_the_limit() -> None:
    def parts() -> Generator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            yield b"x" * 65_536

    with pytest.raises(OutboundError, match="is over the limit of 1000000 bytes"):
        ask(parts(), max_bytes=1_000_000)


def test_what_comes_is_reported_before_it_is_kept() -> None:
    sizes: list[int] = []

    def note(size: int) -> None:
        sizes.append(size)
        if size > 5:
            raise InputError("enough")

    with pytest.raises(InputError, match=r"^enough$"):
        ask([reply(b"x" * 10)], note_size=note)
    assert sizes[-1] > 5


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_a_compressed_reply_is_refused_not_decompressed(coding: str) -> None:
    bomb = gzip.compress(bytes(1_000_000))
    with pytest.raises(OutboundError, match="is compressed, which was not asked for"):
        ask([reply(bomb, Content_Encoding=coding)])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"],
        [b"\x00\xff\x00" * 100],
        [b"SSH-2.0-OpenSSH_9.9\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 100],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ],
    ids=["nothing", "short", "noise", "ssh", "negative", "head", "interim", "chunk"],
)
def test_what_is_not_http_is_an_error(parts: list[bytes]) -> None:
    with pytest.raises(OutboundError, match=r"is not HTTP, or was cut short|closed the connection"):
        ask(parts)


def test_a_head_may_have_some_size_and_some_interim_replies() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 8
    answer = ask([interim, reply("x", X_Long="x" * 30_000)])
    assert (answer.body, len(answer.headers["x-long"])) == (b"x", 30_000)
    with pytest.raises(OutboundError, match="is not HTTP"):
        ask([interim, b"HTTP/1.1 103 Early Hints\r\n\r\n", reply("x")])


@pytest.mark.parametrize("kind", ["silent", "slow head", "slow body"])
def test_a_slow_reply_is_given_up_at_the_time_limit(kind: str) -> None:
    with other_host(lambda _: ()) as running:

        def drip(_: Received) -> Generator[bytes]:
            if kind == "slow body":
                yield b"HTTP/1.1 200 OK\r\n\r\n"
            while kind != "silent" and not running.is_over.wait(0.05):
                yield b"H" if kind == "slow head" else b"x"
            running.is_over.wait(PATIENCE_S)

        running._answer = drip
        with pytest.raises(OutboundTimeoutError, match=r"did not reply within 0.4 s"):
            send(running.url(), [running.entry], OutboundRequest(0.4, LIMIT))


def test_a_redirect_is_a_reply_like_others() -> None:
    answer = ask([reply(status=302, Location="http://169.254.169.254/")])
    assert (answer.status, answer.body) == (302, b"")


# ---- TLS ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of `tls.example`, and its key."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=DNS:tls.example",
         "-keyout", key, "-out", file],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return file, key


def test_the_certificate_must_be_that_of_the_name_although_the_address_is_called(
    certificate: tuple[Path, Path],
) -> None:
    file, key = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file, key)

    def trusting() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(file)
        return context

    with other_host(lambda _: [reply("secret")], tls=server) as host:
        entries = [f"{name}:{host.port}" for name in ("*.example", "127.0.0.1")]
        ways: Any = {"resolve": resolver(["127.0.0.1"]), "tls": trusting}
        url = f"https://tls.example:{host.port}/"
        assert send(url, entries, **ways).body == b"secret"
        with pytest.raises(OutboundError, match="the host has no trusted certificate"):
            send(f"https://other.example:{host.port}/", entries, **ways)
        with pytest.raises(OutboundError, match="the host has no trusted certificate"):
            send(url, entries, resolve=resolver(["127.0.0.1"]))
        assert host.received.qsize() == 1


def test_a_host_that_speaks_no_tls_is_an_error(host: OtherHost) -> None:
    with pytest.raises(OutboundError, match=r"does not speak TLS|closed the connection"):
        send(f"https://127.0.0.1:{host.port}/", [host.entry], OutboundRequest(5, LIMIT))


def test_a_system_without_certificates_gets_those_of_certifi(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    nothing = ssl.DefaultVerifyPaths(None, None, "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    monkeypatch.setattr(
        ssl, "create_default_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    assert sender.make_tls().cert_store_stats()["x509_ca"] > 10
