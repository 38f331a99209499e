"""Replies of servers, and the records read from them."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.faults import reply
from tests.support.operations import json_reply
from tests.support.server import Server, picture
from trellis2_server.client import (
    BusyError,
    Health,
    JobFailedError,
    JobState,
    NotFoundError,
    ProtocolError,
    RefusedError,
    ReplyError,
    UnauthorizedError,
    errors,
)
from trellis2_server.client.protocol.replies import (
    Reply,
    printable,
    read_health,
    read_name,
    read_object,
    read_state,
)

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


# ---- errors ----------------------------------------------------------------------------------

RAISED = {
    **dict.fromkeys((400, 413, 415, 422), RefusedError),
    **dict.fromkeys((401, 403), UnauthorizedError),
    **dict.fromkeys((404, 405, 410), NotFoundError),
    **dict.fromkeys((429, 502, 503, 504), BusyError),
    **dict.fromkeys((100, 199, 402, 409, 418, 499, 500, 501, 505, 599), ReplyError),
    **dict.fromkeys((300, 301, 304, 308, 399), ProtocolError),
}


@pytest.mark.parametrize("status", [200, 201, 204, 206, 299])
def test_a_success_raises_nothing(status: int) -> None:
    json_reply(status).raise_for_status()


@pytest.mark.parametrize(("status", "kind"), RAISED.items())
def test_each_status_has_its_error(status: int, kind: type[ReplyError]) -> None:
    with pytest.raises(ReplyError) as caught:
        json_reply(status, '{"text": "no", "error_code": 7}').raise_for_status()
    assert type(caught.value) is kind
    assert caught.value.status == status
    is_redirect = kind is ProtocolError
    assert caught.value.code == (None if is_redirect else 7)
    assert str(caught.value) == ("the server redirects to another address" if is_redirect else "no")


@pytest.mark.parametrize(
    ("text", "message", "code"),
    [
        ('{"text": "a", "detail": "b", "message": "c"}', "a", None),
        ('{"detail": "b", "message": "c", "error_code": 3}', "b", 3),
        ('{"text": 4, "message": "c", "error_code": "x"}', "c", None),
        ("{}", "the server replied 418 I'm a Teapot", None),
        ("[]", "the server replied 418 I'm a Teapot", None),
    ],
)
def test_the_message_is_the_first_text_of_the_reply(
    text: str, message: str, code: int | None
) -> None:
    with pytest.raises(ReplyError) as caught:
        json_reply(418, text).raise_for_status()
    assert (str(caught.value), caught.value.code) == (message, code)


def test_a_status_without_a_name_is_said_as_a_number() -> None:
    with pytest.raises(ReplyError, match=r"^the server replied 599$"):
        json_reply(599, "?").raise_for_status()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), (" 7 ", 7.0), ("0", 0.0), ("9" * 12, 999_999_999.0), ("-7", None), ("7.5", None)],
)
def test_retry_after_may_be_seconds(value: str, seconds: float | None) -> None:
    with pytest.raises(BusyError) as caught:
        json_reply(503, retry_after=value).raise_for_status()
    assert caught.value.retry_after_s == seconds


def test_a_date_without_a_zone_is_in_utc() -> None:
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    for ending, expected in (("GMT", 3600), ("-0000", 3600), ("+0100", 0)):
        value = f"{at:%a, %d %b %Y %H:%M:%S} {ending}"
        with pytest.raises(BusyError) as caught:
            json_reply(503, retry_after=value).raise_for_status()
        assert caught.value.retry_after_s == pytest.approx(expected, abs=30)


# ---- records ---------------------------------------------------------------------------------

STATE = {
    "uid": "uid-1", "status": "texture_processing", "image_hash": "abc", "engine": "preview",
    "error": "e", "queue_position": 3, "stage": "bake", "step": 1, "steps": 12, "progress": 0.5,
    "eta_seconds": 7.5, "resolution": 512, "warnings": ["dark", 4],
    "details": {"back": "mirror", "odd": 4}, "shape_ready": True,
    "texture_ready": True, "created_at": 1.5, "finished_at": 2.5, "background": "alpha",
    "seed": 0, "parameters": {"seed": 0}, "timings": {"shape": 2.0, "odd": "x"},
    "files": {"shape.glb": {"bytes": 9}, "odd": 4, "also": {"bytes": None}}, "newer": 1,
}  # fmt: skip


def test_every_field_of_a_state_is_read() -> None:
    assert read_state(STATE) == JobState(
        uid="uid-1", status="texture_processing", image_hash="abc", engine="preview", error="e",
        queue_position=3, stage="bake", step=1, steps=12, progress=0.5, eta_seconds=7.5,
        resolution=512, warnings=("dark", "4"), details={"back": "mirror"},
        shape_ready=True, texture_ready=True,
        created_at=1.5, finished_at=2.5, background="alpha", seed=0, parameters={"seed": 0},
        timings={"shape": 2.0}, files={"shape.glb": 9, "odd": 0, "also": 0},
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(STATE.keys() - {"uid", "status", "newer", "image_hash"}))
@pytest.mark.parametrize("value", [None, "", [], {}, True, float("nan"), float("inf")])
def test_a_field_of_another_type_is_left_out(name: str, value: Any) -> None:
    plain, odd = (
        read_state({"uid": "a", "status": "completed", **more}) for more in ({}, {name: value})
    )
    is_flag = value is True and name.endswith("_ready")
    assert getattr(odd, name) == (True if is_flag else getattr(plain, name))


def test_a_status_that_is_not_known_is_no_state() -> None:
    for document in ({}, {"uid": "a", "status": "unheard"}, {"status": "completed"}):
        with pytest.raises(ProtocolError) as caught:
            read_state(document)
        assert caught.value.status == 200
    with pytest.raises(ProtocolError, match="not the uid"):
        read_state({**STATE, "image_hash": "a/b"})
    assert read_state({**STATE, "image_hash": ""}).image_hash is None


@pytest.mark.parametrize("status", ["ok", "loading", "error"])
def test_every_field_of_a_health_is_read(status: Any) -> None:
    document = {"status": status, "engine": "preview", "version": "1", "error": "e", "stage": "s",
                "progress": 0.5}  # fmt: skip
    for code in (200, 503):
        found = read_health(json_reply(code, json.dumps(document)))
        assert found == Health(status, "preview", "1", "e", "s", 0.5)
    assert read_health(json_reply(200, json.dumps({"status": status}))) == Health(status)


def test_a_health_that_is_none_is_unknown_or_an_error() -> None:
    for reply_ in (
        json_reply(404),
        json_reply(405),
        json_reply(200),
        json_reply(200, '{"status": 1}'),
    ):
        assert read_health(reply_) == Health("unknown")
    for text in ("?", "{}"):
        with pytest.raises(BusyError):
            read_health(json_reply(503, text))
    with pytest.raises(ProtocolError):
        read_health(json_reply(200, "?"))
    with pytest.raises(UnauthorizedError):
        read_health(json_reply(401, '{"status": "ok"}'))


@pytest.mark.parametrize("text", ["", "?", "[]", "7", "null", "[" * 10**5])
def test_what_is_no_json_object_is_no_reply(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_object(text, 299)
    assert caught.value.status == 299
    with pytest.raises(ProtocolError) as caught:
        read_object(text)
    assert caught.value.status == 200
    with pytest.raises(ProtocolError) as caught:
        json_reply(201, text).document()
    assert caught.value.status == 201


def test_a_name_has_1_to_64_characters() -> None:
    for name in ("a", "A-z_9", "x" * 64):
        assert read_name(name) == name
    for wrong in ("", "x" * 65, "a b", "ä", "a\n", 7, None):
        with pytest.raises(ProtocolError) as caught:
            read_name(wrong)
        assert caught.value.status == 200


def test_a_text_is_one_line_of_500_characters() -> None:
    assert printable(" a\tb\x07\n") == "a b"
    assert printable("x" * 500) == "x" * 500
    assert printable("x" * 501) == "x" * 500
