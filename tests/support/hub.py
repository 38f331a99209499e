"""The part of the Hugging Face Hub that downloads need, as an HTTP server.

GET /api/models/{owner}/{name}/auth-check
POST /api/models/{owner}/{name}/paths-info/{revision}
HEAD, GET /{owner}/{name}/resolve/{revision}/{path}
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories.

    Attributes:
        folders: "owner/name" → folder.
        gated: repositories that cannot be read.
        commits: repository → its only commit, if that is not `COMMIT`.
        refused: repository → status and message of every answer.
        requests: method and path of every request.
    """

    daemon_threads = True

    def __init__(self, folders: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders = folders
        self.gated: set[str] = set()
        self.commits: dict[str, str] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.server.requests.append(f"{self.command} {self.path}")
        parts = urllib.parse.unquote(self.path.partition("?")[0]).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        owner, name, verb, *rest = parts[2:] if is_api else parts
        repository = f"{owner}/{name}"
        self._commit = self.server.commits.get(repository, COMMIT)
        folder = self.server.folders.get(repository)
        if repository in self.server.refused:
            code, message = self.server.refused[repository]
            self._send(code, message=message)
        elif folder is None:
            self._send(404, error="RepoNotFound")
        elif repository in self.server.gated and (verb == "auth-check" or not is_api):
            self._send(403, error="GatedRepo")
        elif verb == "auth-check":
            self._send(200, b"{}")
        elif rest[0] not in {"main", self._commit}:
            self._send(404, error="RevisionNotFound")
        elif verb == "paths-info":
            paths = _paths(body)
            entries = [
                {"type": "file", "path": p, "size": (folder / p).stat().st_size, "oid": "0" * 40}
                for p in paths
                if (folder / p).is_file()
            ]
            self._send(200, json.dumps(entries).encode())
        else:
            file = folder.joinpath(*rest[1:])
            if file.is_file():
                content = file.read_bytes()
                self._send(200, content, etag=hashlib.sha1(content).hexdigest())  # noqa: S324
            else:
                self._send(404, error="EntryNotFound")

    def _send(
        self,
        code: int,
        content: bytes = b"",
        *,
        error: str = "",
        message: str = "",
        etag: str = "",
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", self._commit)
        if error:
            self.send_header("X-Error-Code", error)
        if message:
            self.send_header("X-Error-Message", message)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _paths(body: bytes) -> list[str]:
    """`paths` of a request, sent as JSON or as a form."""
    text = body.decode()
    if text.startswith("{"):
        return json.loads(text)["paths"]
    return urllib.parse.parse_qs(text)["paths"]


@contextlib.contextmanager
def serve(folders: dict[str, Path]) -> Generator[Hub, None, None]:
    """Run a Hub within the block."""
    hub = Hub(folders)
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
