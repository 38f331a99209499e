"""Following a job by server-sent events."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.faults import cut
from tests.support.operations import Performed, perform
from tests.support.server import SMALL, Server, picture
from trellis2_server.client import NotFoundError, ProtocolError, UnreachableError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import Open, Read
from trellis2_server.client.protocol.events import EventParser, follow
from trellis2_server.client.protocol.replies import Reply
from trellis2_server.client.protocol.retry import Backoff
from trellis2_server.client.records import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.engines import GatedEngine
    from trellis2_server.client import Progress

    Ask = Callable[..., Any]


def test_a_lost_event_stream_is_opened_again(ask: Ask, server: Server) -> None:
    server.faults.next("/events/", cut(0), cut(50), cut(400))
    found: list[Progress] = []
    result = ask(server, "generate", picture(), shape=False, on_progress=found.append, **SMALL)
    assert result.textured[:4] == b"glTF"
    assert len(server.faults.paths("/events/")) == 4
    assert len(server.faults.paths("/send")) == 1
    assert any(each.is_trouble and "lost" in each.text for each in found)


def test_a_job_that_ends_while_its_stream_begins_is_not_waited_for(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()

    async def late(app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def pass_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                engine.open_all()
                uid = scope["path"].rpartition("/")[2]
                while not server.manager.registry.get(uid).status.is_finished:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            await send(message)

        await app(scope, receive, pass_on)

    server.faults.next("/events/", late)
    uid = ask(server, "submit", picture(), **SMALL)
    hasty = {"timeout_s": 5, "patience_s": 0}
    assert ask(server, "events", uid, client=hasty)[-1].status == "completed"


LINES = st.lists(st.sampled_from(["data: {}", "event: status", ": note", "", "id: 1", "data:ä"]))


@given(lines=LINES, ending=st.sampled_from(["\n", "\r\n", "\r"]), cuts=st.lists(st.integers(0, 99)))
def test_events_do_not_depend_on_how_their_bytes_are_split(
    lines: list[str], ending: str, cuts: list[int]
) -> None:
    text = ending.join([*lines, "", "data: last", "", "x"]).encode()
    whole = list(EventParser().feed(text))
    assert whole[-1][1].endswith("last")
    reader, found, begin = EventParser(), [], 0
    for end in [*sorted(cuts), len(text)]:
        found += list(reader.feed(text[begin:end]))
        begin = max(begin, min(end, len(text)))
    assert found == whole


# ---- by hand ---------------------------------------------------------------------------------

STREAM = Reply(200, {"content-type": "text/event-stream; charset=utf-8"})


def event(name: str, status: str = "shape_processing", **more: bool) -> bytes:
    state = {"uid": "a", "status": status, **more}
    return f"event: {name}\ndata: {json.dumps(state)}\n\n".encode()


def following(*answers: object, until_shape: bool = False, patience_s: float = 1e9) -> Performed:
    return perform(follow("a", Backoff(patience_s), until_shape=until_shape), *answers)


def test_a_job_is_followed_to_its_last_event() -> None:
    done = following(
        STREAM, event("status") + event("status", "completed"), event("end", "error"), patience_s=0
    )
    assert [getattr(each, "status", None) for each in done.updates] == [
        "shape_processing", "completed", "error",
    ]  # fmt: skip
    assert done.result == JobState("a", "error")
    assert done.asked == [Open("events/a", {"Accept": "text/event-stream"}), Read(), Read()]


def test_following_until_the_shape_ends_with_the_first_state_that_has_one() -> None:
    chunks = [event("status"), event("status", "texture_processing", shape_ready=True)]
    done = following(STREAM, *chunks, until_shape=True)
    assert (done.result.status, done.result.shape_ready) == ("texture_processing", True)
    ended = following(STREAM, *chunks, event("end", "completed", shape_ready=True))
    assert ended.result.status == "completed"
    failed = following(STREAM, event("end", "error"), until_shape=True)
    assert failed.result.status == "error"


def test_a_stream_that_ends_early_is_opened_again_with_growing_delays() -> None:
    """Also one that gives a single event each time."""
    done = following(*[STREAM, event("status"), b""] * 6, STREAM, event("end"))
    assert done.paths == ["events/a"] * 7
    assert done.pauses[5] > 10 * retry.FIRST_DELAY_S
    assert "the server closed the connection" in str(done.updates)
    steady = following(*[STREAM, event("status") * 2, b""] * 6, STREAM, event("end"))
    assert max(steady.pauses) <= 1.25 * retry.FIRST_DELAY_S
    impatient = following(STREAM, event("status"), b"", patience_s=0)
    assert isinstance(impatient.error, UnreachableError)


def test_a_stream_of_something_else_is_not_followed() -> None:
    assert isinstance(following(Reply(404, {})).error, NotFoundError)
    for headers in ({}, {"content-type": "application/json"}):
        error = following(Reply(200, headers)).error
        assert isinstance(error, ProtocolError)
        assert error.status == 200
    assert isinstance(following(STREAM, b"data: []\n\n").error, ProtocolError)
    assert following(Reply(503, {}), STREAM, event("end")).result.uid == "a"


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data: a\n\n", [("message", "a")]),
        (b"data:a\ndata:  b\n\n", [("message", "a\n b")]),
        (b"event: x\n\ndata: a\n\n", [("message", "a")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [("x", "a"), ("message", "b")]),
        (b": note\nid: 1\nretry: 3\ndata\n\n", [("message", "")]),
        (b"data: a\n", []),
        (b"data: a\r\n\r\n", [("message", "a")]),
        (b"data: a\r\rx", [("message", "a")]),
        (b"data: \xff\n\n", [("message", "\ufffd")]),
        (b"eventual: x\ndata: a\n\n", [("message", "a")]),
    ],
)
def test_events_are_read_as_in_the_standard(text: bytes, events: list[tuple[str, str]]) -> None:
    assert list(EventParser().feed(text)) == events
