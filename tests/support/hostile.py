"""Invalid and aborted requests: sending raw bytes, and checking error responses."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from tests.support.server import Server, until

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

#: Limit of the server in the fixture `limited`.
MAX_BODY_BYTES = 200_000


def error_text(response: httpx.Response, status: int = 400, code: int = 1) -> str:
    """Check the form of an error response; return its text."""
    assert response.status_code == status, response.text[:300]
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"text", "error_code"}
    assert response.json()["error_code"] == code
    text: str = response.json()["text"]
    assert "Traceback" not in text
    assert ".py" not in text
    assert len(text) < 400
    return text


def assert_usable(server: Server) -> None:
    """Check that the server generates models, and that no job is left."""
    assert server.generate().is_success
    until(lambda: server.client.get("/worker_status").json()["queue_length"] == 0, "idle")


def exchange(server: Server, *sent: bytes, then: Callable[[socket.socket], Any]) -> Any:
    """Send bytes, call `then` with the connection, and close it."""
    with socket.create_connection(server.address, timeout=20) as connection:
        for part in sent:
            connection.sendall(part)
        return then(connection)


def post_head(length: object, kind: str = "application/json", path: str = "/generate") -> bytes:
    """Return the head of a POST request, which may be invalid."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()
