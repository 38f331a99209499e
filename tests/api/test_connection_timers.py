"""A connection leaves nothing behind: a timer of it would keep its object alive."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.live_objects import live_objects
from tests.support.server import ON_RAY, until
from trellis2_server.api.connections import Connection

if TYPE_CHECKING:
    from tests.support.server import Server

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")


def connections() -> int:
    """Number of connections that something still refers to."""
    return len(live_objects(Connection))


REQUEST = b"GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def leave(server: Server, sent: bytes) -> None:
    """Connect, send something, read the response to a complete request, and leave."""
    with socket.create_connection(server.address, timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        while sent == REQUEST and connection.recv(65_536):
            pass


@pytest.mark.costly
def test_nothing_refers_to_connections_that_have_ended(server: Server) -> None:
    server.client.close()
    until(lambda: connections() == 0, "earlier connections are gone")
    with socket.create_connection(server.address, timeout=PATIENCE_S):
        until(lambda: connections() == 1, "a connection is there")
    for sent in (b"", REQUEST[:20], REQUEST):
        for _ in range(10):
            leave(server, sent)
    until(lambda: not server.uvicorn.server_state.connections, "all connections have ended")
    until(lambda: connections() == 0, "nothing refers to them", patience_s=5)
