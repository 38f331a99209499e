"""Following a job by server-sent events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.faults import cut
from tests.support.server import SMALL, Server, picture
from trellis2_server.client.protocol.events import EventParser

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
