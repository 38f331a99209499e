"""Tencent's protocol, `/send` and `/status/{uid}`: requests to a server, and a stub server."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.support.server import until

if TYPE_CHECKING:
    from typing_extensions import Self

    from tests.support.server import Server

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def send(server: Server, body: dict[str, Any], prefix: str = "") -> str:
    """Send a job; return its uid."""
    reply = server.client.post(f"{prefix}/send", json=body)
    assert reply.status_code == 200, reply.text
    assert re.fullmatch(rf'{{"uid":"{UUID4}"}}', reply.text)
    return reply.json()["uid"]


def status_text(server: Server, uid: str) -> str:
    """Return the body of `/status/{uid}`."""
    return server.client.get(f"/status/{uid}").text


def finished(server: Server, uid: str) -> bytes:
    """Wait for a sent job; return its model."""
    until(lambda: '"completed"' in status_text(server, uid), "completed")
    text = status_text(server, uid)
    found = re.fullmatch(r'{"status":"completed","model_base64":"([A-Za-z0-9+/]+=*)"}', text)
    assert found, text[:80]
    return base64.b64decode(found[1], validate=True)


class HunyuanServer:
    """A stub that returns the same model for every picture, at the third poll of the status.

    Attributes:
        url: URL, without a trailing slash.
        failure: error message of the next job; None: the job succeeds.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        statuses: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _respond(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert request["texture"] is True
                assert base64.b64decode(request["image"])
                model = base64.b64encode(b"glTF model").decode()
                end = {"status": "completed", "model_base64": model}
                if outer.failure:
                    end = {"status": "error", "message": outer.failure}
                statuses[:] = [{"status": "processing"}, {"status": "texturing"}, end]
                self._respond(200, {"uid": "0f5e7b1e-3d3c-4f0a-9b0a-6f4f0a4e7c11"})

            def do_GET(self) -> None:
                if self.path.startswith("/status/"):
                    self._respond(200, statuses.pop(0))
                else:
                    self._respond(404, {"detail": "Not Found"})

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
