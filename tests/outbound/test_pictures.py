"""Fetching pictures: how long, and how many at one time."""

from __future__ import annotations

import asyncio
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from tests.outbound.test_sender import make_certificate, resolver
from tests.support.engines import PATIENCE_S
from tests.support.other_host import OtherHost, Received, other_host, reply
from tests.support.server import until
from trellis2_server.errors import InputError
from trellis2_server.outbound import sender
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.pictures import MAX_FETCHES, PictureFetcher

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path


def fetcher(host: OtherHost, **named: float) -> PictureFetcher:
    return PictureFetcher(HostList([host.entry]), 1000, **named)  # type: ignore[arg-type]


def test_a_slow_host_costs_the_time_limit_redirects_included() -> None:
    over = threading.Event()

    def drip(request: Received) -> Generator[bytes]:
        if request.target != "/slow":
            yield reply(status=302, Location="/slow")
        over.wait(PATIENCE_S)

    with other_host(drip) as host:
        with pytest.raises(InputError, match=r"^image_url: the host did not .* within 0.3 s$"):
            asyncio.run(fetcher(host, timeout_s=0.3).fetch(host.url(), "image_url"))
        over.set()


def test_a_number_of_pictures_is_fetched_at_one_time_and_the_others_wait() -> None:
    may_reply = threading.Event()

    def wait(_: Received) -> Generator[bytes]:
        may_reply.wait(PATIENCE_S)
        yield reply("x")

    async def fetch_all(host: OtherHost) -> Sequence[bytes]:
        shared = fetcher(host)
        fetches = [shared.fetch(host.url(), "image_url") for _ in range(MAX_FETCHES + 1)]
        waiting = asyncio.gather(*fetches)
        await asyncio.to_thread(until, lambda: host.received.qsize() >= MAX_FETCHES, "asked")
        assert host.received.qsize() == MAX_FETCHES
        with pytest.raises(InputError, match="is not among the hosts"):  # needs no turn
            await asyncio.wait_for(shared.fetch("http://a.example/", "image_url"), PATIENCE_S)
        may_reply.set()
        return await waiting

    with other_host(wait) as host:
        assert asyncio.run(fetch_all(host)) == [b"x"] * (MAX_FETCHES + 1)
        assert host.received.qsize() == MAX_FETCHES + 1


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:1/", "//127.0.0.1:1/", "https://127.0.0.1/"]
)
def test_a_redirect_out_of_the_list_is_not_followed(location: str) -> None:
    with other_host(lambda _: [reply(status=307, Location=location)]) as host:
        with pytest.raises(
            InputError, match=r"^image_url \(redirected\): .* is not among the host"
        ):
            asyncio.run(fetcher(host).fetch(host.url(), "image_url"))
        assert host.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_from_where_it_is(status: int) -> None:
    def answer(request: Received) -> list[bytes]:
        if request.target == "/a/b":
            return [reply(status=status, Location="c?d")]
        return [reply(request.target)]

    with other_host(answer) as host:
        fetched = asyncio.run(fetcher(host).fetch(host.url("/a/b"), "image_url"))
        assert fetched == b"/a/c?d"


@pytest.mark.parametrize("status", [201, 204, 300, 304, 305, 306, 309, 404, 500])
def test_any_other_status_is_an_error_that_says_it(status: int) -> None:
    with other_host(lambda _: [reply(status=status, Location="/x")]) as host:
        with pytest.raises(
            InputError, match=rf"^image_url: the host replied with status {status}$"
        ):
            asyncio.run(fetcher(host).fetch(host.url(), "image_url"))
        assert host.connections == 1


def test_three_redirects_are_followed_and_no_more() -> None:
    def answer(request: Received) -> list[bytes]:
        left = int(request.target[1:])
        return [reply(status=302, Location=f"/{left - 1}") if left else reply("x")]

    with other_host(answer) as host:
        assert asyncio.run(fetcher(host).fetch(host.url("/3"), "image_url")) == b"x"
        with pytest.raises(InputError, match=r"^image_url: more than 3 redirects$"):
            asyncio.run(fetcher(host).fetch(host.url("/4"), "image_url"))


def test_a_redirect_does_not_leave_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, key = make_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file, key)
    trusting = ssl.create_default_context(cafile=str(file))
    monkeypatch.setattr(sender, "make_tls", lambda: trusting)
    there: list[str] = []

    def answer(request: Received) -> list[bytes]:
        return [reply("x") if request.target == "/x" else reply(status=302, Location=there[0])]

    with other_host(answer, tls=server) as host:
        entries = [f"tls.example:{host.port}", f"127.0.0.1:{host.port}", "127.0.0.1"]
        pictures = PictureFetcher(HostList(entries), 1000, resolve=resolver(["127.0.0.1"]))
        url = f"https://tls.example:{host.port}/"
        there.append("/x")
        assert asyncio.run(pictures.fetch(url, "image_url")) == b"x"
        there[0] = host.url("/x")
        with pytest.raises(InputError, match=r"^image_url: the host redirects from https"):
            asyncio.run(pictures.fetch(url, "image_url"))
        assert host.connections == 3


def test_a_picture_may_have_the_limit_and_its_size_is_reported() -> None:
    sizes: list[int] = []
    with other_host(lambda _: [reply(b"x" * 1000)]) as host:
        fetched = asyncio.run(fetcher(host).fetch(host.url(), "image_url", sizes.append))
        assert (len(fetched), sizes[-1]) == (1000, 1000)
        assert host.next().headers["accept"] == "image/*"
    error = pytest.raises(InputError, match=r"^image_url: .* over the limit of 1000 bytes$")
    with other_host(lambda _: [reply(b"x" * 1001)]) as host, error:
        asyncio.run(fetcher(host).fetch(host.url(), "image_url"))


def test_a_url_can_be_checked_without_being_fetched() -> None:
    with other_host(lambda _: [reply("x")]) as host:
        assert fetcher(host).check(host.url(), "image_url") is None
        for url in ("http://a.example/", "a.example", 7):
            with pytest.raises(InputError, match=r"^image_url: "):
                fetcher(host).check(url, "image_url")
        assert host.connections == 0
