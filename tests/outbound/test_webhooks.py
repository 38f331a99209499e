"""One message to a client's host: what is sent, and to whom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.outbound.test_sender import resolver
from tests.support.engines import PATIENCE_S
from tests.support.other_host import OtherHost, other_host, reply
from trellis2_server.errors import InputError, OutboundError, OutboundTimeoutError
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.signatures import signature
from trellis2_server.outbound.webhooks import WebhookSender, is_delivered

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = b"0123456789abcdef"


def send(host: OtherHost, entries: Iterable[str] | None = None, **named: Any) -> int:
    webhooks = WebhookSender(HostList([host.entry] if entries is None else entries), KEY, **named)
    return asyncio.run(webhooks.send(host.url("/hook?x=1"), "id-1", b'{"a": 1}'))


def test_a_message_has_an_id_a_time_and_a_signature_over_both() -> None:
    with other_host(lambda _: [reply(status=202)]) as host:
        assert send(host, clock=lambda: 1_700_000_000.9) == 202
        received = host.next()
    assert received.line == "POST /hook?x=1 HTTP/1.1"
    assert received.body == b'{"a": 1}'
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-id"] == "id-1"
    assert received.headers["webhook-timestamp"] == "1700000000"
    expected = signature(KEY, "id-1", 1_700_000_000, b'{"a": 1}')
    assert received.headers["webhook-signature"] == expected


@pytest.mark.parametrize(
    ("status", "is_taken"),
    [(199, False), (200, True), (204, True), (299, True), (300, False), (410, False), (500, False)],
)
def test_a_message_is_taken_with_a_status_of_success(status: int, *, is_taken: bool) -> None:
    assert is_delivered(status) is is_taken


def test_a_host_that_is_not_listed_gets_nothing_and_is_named_at_once() -> None:
    with other_host(lambda _: [reply()]) as host:
        webhooks = WebhookSender(HostList(["a.example"]), KEY)
        for call in (
            lambda: webhooks.check(host.url()),
            lambda: asyncio.run(webhooks.send(host.url(), "id-1", b"{}")),
        ):
            with pytest.raises(InputError, match=r"^webhook: .*\(server.webhook_hosts\)$"):
                call()
        assert WebhookSender(HostList([host.entry]), KEY).check(host.url()) is None
        assert host.connections == 0


def test_a_public_host_needs_tls() -> None:
    webhooks = WebhookSender(HostList(["a.example"]), KEY, resolve=resolver(["8.8.8.8"]))
    with pytest.raises(
        InputError, match=r"^webhook: must be https, since its host is a public one"
    ):
        asyncio.run(webhooks.send("http://a.example/", "id-1", b"{}"))


def test_a_reply_may_have_64_kib_and_no_more() -> None:
    with other_host(lambda _: [reply(b"x" * 65_536)]) as host:
        assert send(host) == 200
    error = pytest.raises(OutboundError, match="over the limit of 65536 bytes")
    with other_host(lambda _: [reply(b"x" * 65_537)]) as host, error:
        send(host)


def test_a_host_has_a_time_to_reply() -> None:
    with other_host(lambda _: []) as host:
        host._answer = lambda _: [b"" for _ in [host.is_over.wait(PATIENCE_S)]]
        with pytest.raises(OutboundTimeoutError, match=r"^webhook: .* within 0\.2 s$"):
            send(host, timeout_s=0.2)
