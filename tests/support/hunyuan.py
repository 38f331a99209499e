"""A server that has what Tencent's `api_server.py` has: `/send` and `/status/{uid}`."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class HunyuanServer:
    """One that makes the same model of every picture, in three looks.

    Attributes:
        url: without a slash at the end.
        failure: what its next job ends with; None: a model.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        looks: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _say(self, status: int, said: Any) -> None:
                body = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert asked["texture"] is True
                assert base64.b64decode(asked["image"])
                model = base64.b64encode(b"glTF model").decode()
                end = {"status": "completed", "model_base64": model}
                if outer.failure:
                    end = {"status": "error", "message": outer.failure}
                looks[:] = [{"status": "processing"}, {"status": "texturing"}, end]
                self._say(200, {"uid": "0f5e7b1e-3d3c-4f0a-9b0a-6f4f0a4e7c11"})

            def do_GET(self) -> None:
                if self.path.startswith("/status/"):
                    self._say(200, looks.pop(0))
                else:
                    self._say(404, {"detail": "Not Found"})

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
