"""Fetching pictures: how long, and how many at one time."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.other_host import OtherHost, Received, other_host, reply
from tests.support.server import until
from trellis2_server.errors import InputError
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.pictures import MAX_FETCHES, PictureFetcher

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence


def fetcher(host: OtherHost, **named: float) -> PictureFetcher:
    return PictureFetcher(HostList([host.entry]), 1000, **named)  # type: ignore[arg-type]


def test_a_slow_host_costs_the_time_limit_redirects_included() -> None:
    over = threading.Event()

    def drip(request: Received) -> Generator[bytes]:
        if request.target != "/slow":
            yield reply(status=302, Location="/slow")
        over.wait(30)

    with other_host(drip) as host:
        with pytest.raises(InputError, match=r"^image_url: the host did not .* within 0.3 s$"):
            asyncio.run(fetcher(host, timeout_s=0.3).fetch(host.url(), "image_url"))
        over.set()


def test_a_number_of_pictures_is_fetched_at_one_time_and_the_others_wait() -> None:
    may_reply = threading.Event()

    def wait(_: Received) -> Generator[bytes]:
        may_reply.wait(30)
        yield reply("x")

    async def fetch_all(host: OtherHost) -> Sequence[bytes]:
        shared = fetcher(host)
        fetches = [shared.fetch(host.url(), "image_url") for _ in range(MAX_FETCHES + 1)]
        waiting = asyncio.gather(*fetches)
        await asyncio.to_thread(until, lambda: host.received.qsize() >= MAX_FETCHES, "asked")
        assert host.received.qsize() == MAX_FETCHES
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
        with pytest.raises(InputError, match="is not among the hosts that this server may call"):
            asyncio.run(fetcher(host).fetch(host.url(), "image_url"))
        assert host.connections == 1
