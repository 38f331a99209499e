"""Replies of servers, and the records read from them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.faults import reply
from tests.support.server import Server, picture
from trellis2_server.client import BusyError, JobFailedError, ProtocolError, RefusedError, errors
from trellis2_server.client.protocol.replies import Reply, read_name, read_state

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_retry_after_may_be_a_date() -> None:
    late = {"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}
    with pytest.raises(BusyError) as caught:
        Reply(503, late).raise_for_status()
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 1e9
    for value in ("soon", "", "Thu, 01 Jan 1970 00:00:00 GMT"):
        with pytest.raises(BusyError) as caught:
            Reply(503, {"retry-after": value}).raise_for_status()
        assert not caught.value.retry_after_s


def test_an_error_has_the_servers_message(ask: Ask, server: Server) -> None:
    expected = server.generate({"image": "no picture", "seed": 1}).json()
    with pytest.raises((RefusedError, JobFailedError)) as caught:
        ask(server, "generate", b"no picture", seed=1)
    assert str(caught.value)
    with pytest.raises(RefusedError) as refused:
        ask(server, "generate", picture(), extra={"ss_rescale_t": "much"})
    assert str(refused.value) == "ss_rescale_t: not a number: 'much'"
    assert (refused.value.status, refused.value.code) == (400, expected["error_code"])


def test_replies_of_another_server_are_recognized(ask: Ask, server: Server) -> None:
    page = reply(200, b"<html>welcome</html>", content_type="text/html")
    moved = reply(301, location="https://elsewhere/")
    broken = reply(500, b"<html>nginx</html>")
    server.faults.next("/send", page, moved, broken)
    with pytest.raises(ProtocolError, match="does not belong to this API"):
        ask(server, "generate", picture())
    with pytest.raises(ProtocolError, match="redirects to https://elsewhere/"):
        ask(server, "generate", picture())
    with pytest.raises(errors.ReplyError, match="the server replied 500 Internal Server Error"):
        ask(server, "generate", picture())


@given(st.text())
def test_a_name_from_the_server_contains_no_path(name: str) -> None:
    with contextlib.suppress(ProtocolError):
        read_name(name)
        assert not set(name) & set("/\\.:%")
        assert name


def test_texts_of_the_server_cannot_control_a_terminal() -> None:
    state = read_state(
        {"uid": "a", "status": "completed", "warnings": ["\x1b[31mred\n"], "stage": "\x07bell"}
    )
    assert (state.warnings, state.stage) == (("[31mred",), "bell")
