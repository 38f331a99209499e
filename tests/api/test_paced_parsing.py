"""Bodies in very many chunks: parsed in bounded turns, in order, and not read ahead of."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import h11
import pytest
from uvicorn.server import ServerState

from tests.support.managers import in_a_loop, until
from trellis2_server.api.connections import MAX_HEAD_BYTES, Connection, uvicorn_config
from trellis2_server.api.paced_parsing import (
    EVENTS_A_TURN,
    FREE_EVENTS,
    LARGE_BYTES,
    PAUSE_S,
    PacedParser,
    ParsingTurns,
    SharedFlow,
)
from trellis2_server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNT = 40_000
BODY = bytes(k % 251 for k in range(COUNT))
CHUNKS = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
#: What the operating system, asyncio and h11 may hold of a connection, bytes.
HELD_BYTES = 2 * 2**18


class App:
    """An application that notes the parts of each body, and what waits to be parsed.

    Attributes:
        bodies: the parts of each request's body.
        disconnected: number of requests whose client went away.
        unparsed: maximum number of bytes that a connection held.
    """

    def __init__(self) -> None:
        self.bodies: list[list[bytes]] = []
        self.disconnected = 0
        self.unparsed = 0
        self.state = ServerState()

    @property
    def connections(self) -> list[Connection]:
        return [each for each in self.state.connections if isinstance(each, Connection)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        parts: list[bytes] = []
        self.bodies.append(parts)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected += 1
                return
            parts.append(message["body"])
            more = message["more_body"]
            held = [len(each.conn.trailing_data[0]) for each in self.connections]
            self.unparsed = max([self.unparsed, *held])
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(app: App) -> AsyncGenerator[int]:
    """Serve an application on a port of this loop."""
    config = uvicorn_config(app, ServerSettings())
    config.load()
    protocol: Any = config.http_protocol_class
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: protocol(config=config, server_state=app.state, app_state={}, _loop=loop),
        "127.0.0.1",
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for connection in app.connections:
            connection.drop("the test is over")
        server.close()


async def reply(port: int, sent: bytes, *, count: int = 1) -> bytes:
    """Send bytes; return the replies, of which that many are expected."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    content = b""
    while content.count(b"HTTP/1.1 ") < count or not content.endswith((b"ok", b"}")):
        part = await reader.read(65_536)
        assert part, content
        content += part
    writer.close()
    return content


@in_a_loop
async def test_a_body_in_chunks_of_one_byte_arrives_whole_and_in_small_parts() -> None:
    app = App()
    async with serving(app) as port:
        assert (await reply(port, HEAD + CHUNKS + b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    (parts,) = app.bodies
    assert b"".join(parts) == BODY
    assert max(map(len, parts)) <= EVENTS_A_TURN + FREE_EVENTS


@pytest.mark.costly
@in_a_loop
async def test_no_more_is_received_than_is_parsed() -> None:
    app = App()
    async with serving(app) as port:
        assert b" 200 " in await reply(port, HEAD + 5 * CHUNKS + b"0\r\n\r\n")
    assert 0 < app.unparsed <= HELD_BYTES
    assert b"".join(app.bodies[0]) == 5 * BODY


@pytest.mark.costly
@in_a_loop
async def test_many_such_bodies_at_the_same_time_arrive_whole() -> None:
    app = App()
    async with serving(app) as port:
        replies = await asyncio.gather(
            *(reply(port, HEAD + CHUNKS + b"0\r\n\r\n") for _ in range(6))
        )
    assert all(each.startswith(b"HTTP/1.1 200 ") for each in replies)
    assert [b"".join(parts) for parts in app.bodies] == [BODY] * 6


@in_a_loop
async def test_a_request_that_follows_such_a_body_at_once_is_answered_after_it() -> None:
    app = App()
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(app) as port:
        content = await reply(port, HEAD + CHUNKS + b"0\r\n\r\n" + get, count=2)
    assert content.count(b"HTTP/1.1 200 ") == 2
    assert [len(b"".join(parts)) for parts in app.bodies] == [COUNT, 0]


@in_a_loop
async def test_an_invalid_chunk_behind_many_valid_ones_gets_a_400() -> None:
    app = App()
    async with serving(app) as port:
        content = await reply(port, HEAD + CHUNKS + b"zz\r\n" + CHUNKS)
    assert content.startswith(b"HTTP/1.1 400 ")
    assert app.disconnected == 1
    assert BODY.startswith(b"".join(app.bodies[0]))


@in_a_loop
async def test_a_client_that_goes_away_meanwhile_leaves_nothing_behind() -> None:
    app = App()
    async with serving(app) as port:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)  # noqa: FBT003 - the socket's own
        with contextlib.suppress(BlockingIOError):
            connection.send(HEAD + CHUNKS)
        await until(lambda: bool(app.bodies and app.bodies[0]))
        (held,) = app.connections
        assert held.has_more_to_parse
        held.drop("as when a write fails")
        connection.close()
        await until(lambda: app.disconnected == 1)
        taken = len(b"".join(app.bodies[0]))
        await asyncio.sleep(0.01)
        assert len(b"".join(app.bodies[0])) == taken < COUNT
        assert not app.connections


# ---- turns ---------------------------------------------------------------------------------


def parse(parser: PacedParser) -> int:
    """Parse until the parser needs data; return how many parts of the body there were."""
    count = 0
    while (event := parser.next_event()) is not h11.NEED_DATA:
        count += isinstance(event, h11.Data)
    return count


def begun(turns: ParsingTurns, chunks: bytes) -> PacedParser:
    parser = PacedParser(MAX_HEAD_BYTES, turns)
    parser.begin_turn(is_first=True)
    parser.receive_data(HEAD + chunks)
    return parser


@in_a_loop
async def test_connections_share_the_events_of_a_turn() -> None:
    turns = ParsingTurns()
    first, second = begun(turns, CHUNKS), begun(turns, CHUNKS)
    assert parse(first) + parse(second) <= EVENTS_A_TURN + 2 * FREE_EVENTS
    assert first.is_paused
    assert second.is_paused
    parsed: list[tuple[str, int]] = []

    def go_on(name: str, parser: PacedParser) -> None:
        parser.begin_turn(is_first=False)
        parsed.append((name, parse(parser)))
        if len(parsed) < 3:
            turns.go_on_later(lambda: go_on(name, parser))

    turns.go_on_later(lambda: go_on("first", first))
    turns.go_on_later(lambda: go_on("second", second))
    await until(lambda: len(parsed) >= 4)
    assert parsed[:3] == [(name, EVENTS_A_TURN) for name in ("first", "second", "first")]


@in_a_loop
async def test_an_ordinary_request_is_parsed_although_the_turn_is_over() -> None:
    turns = ParsingTurns()
    parse(begun(turns, CHUNKS))
    assert turns.is_over
    ordinary = begun(turns, b"3\r\nabc\r\n0\r\n\r\n")
    assert parse(ordinary) == 1
    assert ordinary.their_state is h11.DONE
    assert not ordinary.is_paused


@in_a_loop
async def test_what_has_arrived_late_is_handed_on_before_the_next_turn() -> None:
    turns = ParsingTurns()
    loop = asyncio.get_running_loop()
    done: list[str] = []
    loop.call_later(0, lambda: loop.call_soon(done.append, "application"))
    turns.go_on_later(partial(done.append, "next turn"))
    late_s = loop.time() + 2 * PAUSE_S
    while loop.time() < late_s:  # both timers are due in the same round
        pass
    await until(lambda: len(done) == 2)
    assert done == ["application", "next turn"]


@pytest.mark.parametrize("size", [LARGE_BYTES, 65_536])
@in_a_loop
async def test_large_chunks_never_wait_for_a_turn(size: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
    parser = begun(ParsingTurns(), chunk * 2 * EVENTS_A_TURN)
    assert parse(parser) == 2 * EVENTS_A_TURN
    assert not parser.is_paused


@in_a_loop
async def test_a_turn_begins_again_although_no_connection_waits() -> None:
    turns = ParsingTurns()
    for _ in range(EVENTS_A_TURN):
        turns.count_event()
    assert turns.is_over
    await until(lambda: not turns.is_over)


@in_a_loop
async def test_what_is_forgotten_is_not_parsed_and_the_others_keep_their_order() -> None:
    turns = ParsingTurns()
    parsed: list[int] = []
    calls = [partial(parsed.append, number) for number in range(4)]
    for call in calls:
        turns.go_on_later(call)
    turns.forget(calls[1])
    turns.forget(calls[1])
    await until(lambda: len(parsed) == 3)
    assert parsed == [0, 2, 3]


def test_an_application_that_wants_more_gets_it_when_the_parser_lets_go() -> None:
    class Transport(asyncio.Transport):
        is_paused = False

        def pause_reading(self) -> None:
            self.is_paused = True

        def resume_reading(self) -> None:
            self.is_paused = False

    transport = Transport()
    flow = SharedFlow(transport)
    flow.pause_reading()
    flow.hold()
    flow.resume_reading()
    assert transport.is_paused
    flow.release()
    assert not transport.is_paused
    flow.hold()
    flow.pause_reading()
    flow.release()
    assert transport.is_paused
    flow.resume_reading()
    assert not transport.is_paused
