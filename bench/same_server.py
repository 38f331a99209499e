"""One of the two checkouts that `bench/same.py` compares: its servers, commands and replies.

Only public interfaces are used, as internal names may differ. What differs by nature (uids,
times, ports, folders) is replaced in text before it is recorded; uids are numbered in the
order in which they appear, so that it still matters which one stands where.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 180.0
CONFIG: Final[dict[str, dict[str, Any]]] = {
    "server": {
        "host": HOST,
        "log_format": "json",
        "max_body_bytes": 4_000_000,
        "max_image_pixels": 4_000_000,
    },
    "model": {"engine": "preview", "background": "grabcut"},
    "export": {"glb_decimation_target": 2000, "glb_texture_size": 256},
}
_UID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: What a server makes up for a request that brings no id of its own.
_REQUEST: Final = re.compile(r"[0-9a-f]{32}")
_NUMBER: Final = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
#: JSON values that differ from run to run; the key stays.
_VALUES: Final = re.compile(
    r'("(?:created_at|finished_at|eta_seconds|load_seconds|seconds|progress|time|cutout|shape'
    rf'|shape_export|texture|texture_export|mesh|\w+_mb)": ?){_NUMBER}'
)
_REPLACED: Final = (
    (re.compile(r'("worker_id": ?")[0-9a-f]{6}"'), r'\1<id>"'),
    (re.compile(r'("time": ?")[^"]*"'), r'\1<time>"'),
    (re.compile(r'("request_id": ?")[0-9a-f]{16,32}"'), r'\1<request>"'),
    (re.compile(r"server process \[\d+\]"), "server process [<n>]"),
    (re.compile(r"done in \d+\.\d s"), "done in <n> s"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time>"),
)
#: Headers that differ from reply to reply, and the one that follows from the body.
_UNLIKE: Final = frozenset({"date", "content-length"})
_TEXT: Final = ("text/", "application/json", "image/svg")
#: Labels of the records of the web pages themselves.
_PAGES: Final = frozenset({"/", "docs", "redoc"})
_DESCRIPTION: Final = re.compile(r'"description":"(?:[^"\\]|\\.)*",?')


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that must be the same on both sides; text is normalised."""

    label: str
    content: str | bytes


@dataclass(eq=False)
class Side:
    """A checkout, and what it was seen to do.

    Attributes:
        name: of the side.
        checkout: its folder.
        folder: an empty one, for its files.
        records: in the order in which they were made.
    """

    name: str
    checkout: Path
    folder: Path
    records: list[Record] = field(default_factory=list)
    uids: dict[str, str] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    port: int = 0

    def begin(self) -> None:
        """Make ready for a group."""
        self.folder.mkdir()

    # ---- records ----------------------------------------------------------------------

    def note(self, label: str, content: str | bytes) -> None:
        """Record bytes as they are, or text after it was normalised."""
        if isinstance(content, str):
            content = self.normal(content)
        self.labels[label] += 1
        label = f"{label} ({self.labels[label]})" if self.labels[label] > 1 else label
        self.records.append(Record(label, content))

    def note_json(self, label: str, content: object) -> None:
        self.note(label, json.dumps(content, indent=1, ensure_ascii=False))

    def normal(self, text: str) -> str:
        for path, word in ((self.folder, "<folder>"), (self.checkout, "<checkout>")):
            text = text.replace(str(path), word)
        if self.port:
            text = re.sub(rf"\b{self.port}\b", "<port>", text)
        for pattern, new in _REPLACED:
            text = pattern.sub(new, text)
        text = _VALUES.sub(r"\1<n>", text)
        return _UID.sub(self._number, text)

    def _number(self, match: re.Match[str]) -> str:
        return self.uids.setdefault(match[0], f"<uid {len(self.uids) + 1}>")

    def note_reply(self, label: str, reply: httpx.Response, *, body: bool = True) -> None:
        """Record a reply's status, headers and body.

        Args:
            label: of the record.
            reply: read whole.
            body: False: its bytes are not recorded (they may differ, as those of a random seed).
        """
        headers = [
            f"{name}: {_value(name, value, reply.request, is_random=not body)}"
            for name, value in sorted(reply.headers.items())
            if name not in _UNLIKE
        ]
        length = reply.headers.get("content-length")
        if length is not None and reply.request.method != "HEAD" and reply.status_code != 304:
            headers.append(f"length is right: {int(length) == len(reply.content)}")
        kind = reply.headers.get("content-type", "")
        is_text = kind.startswith(_TEXT)
        if kind.startswith("text/html") and label not in _PAGES:
            # The page itself is compared once, where its files are.
            headers = [header for header in headers if not header.startswith("etag:")]
            body = False
        text = f"{reply.status_code}\n" + "\n".join(headers) + "\n"
        if body and is_text:
            words = reply.content.decode("utf-8", "backslashreplace")
            if reply.request.url.path.endswith("/page/options"):
                words = _DESCRIPTION.sub("", words)  # the same as OpenAPI's, which are compared
            text += "\n" + words
        self.note(label, text)
        if body and not is_text:
            self.note(f"{label}: body", reply.content)

    # ---- commands ---------------------------------------------------------------------

    def command(
        self,
        *arguments: str,
        cwd: Path | None = None,
        limit_s: float = PATIENCE_S,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in the checkout, to the end."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd or self.checkout,
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def note_command(self, label: str, *arguments: str, **how: Any) -> None:
        """Record a command's exit code and output."""
        done = self.command(*arguments, **how)
        self.note(label, f"exit {done.returncode}\n--- out\n{done.stdout}--- err\n{done.stderr}")

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("TRELLIS2_") and name != "PYTHONPATH"
        }
        fixed = {"COLUMNS": "200", "PYTHONPATH": str(self.checkout), "NO_COLOR": "1"}
        return {**kept, **fixed, **more}

    # ---- servers ----------------------------------------------------------------------

    @contextlib.contextmanager
    def serving(
        self,
        name: str,
        *,
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        leave_out: str = "",
        **sections: dict[str, Any],
    ) -> Generator[Server]:
        """A server with `CONFIG` and these sections over it; stopped by SIGTERM at the end.

        Args:
            name: of its configuration file.
            ready: wait until it is; False: only until it answers.
            environment: of the process, over the present one.
            leave_out: a section of `CONFIG` that is not used.
            sections: of the configuration.
        """
        merged = {
            section: {**CONFIG.get(section, {}), **sections.get(section, {})}
            for section in {**CONFIG, **sections}
            if section != leave_out
        }
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(merged), encoding="utf-8")
        server = Server(self, file, environment or {})
        try:
            server.wait(200 if ready else None)
            yield server
        finally:
            server.stop()


def _value(name: str, value: str, request: httpx.Request, *, is_random: bool) -> str:
    """A header's value, normalised."""
    if name == "allow":  # Starlette's, from a set
        return ", ".join(sorted(value.split(", ")))
    if name == "x-request-id" and value != request.headers.get(name):
        return "<request>" if _REQUEST.fullmatch(value) else value
    if name == "retry-after" and 15 <= int(value) <= 20:  # counts down, from 20
        return "<nearly 20>"
    return "<seed>" if name == "x-seed" and is_random else value


class Server:
    """A server process on a free port."""

    def __init__(self, side: Side, config: Path, environment: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        side.port = self.port
        self.side = side
        self.log = config.with_suffix(".log")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "api_server_trellis2.py",
                    "--config", str(config), "--port", str(self.port),
                ],
                cwd=side.checkout,
                env=side.environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://{HOST}:{self.port}", timeout=PATIENCE_S)

    def wait(self, status: int | None) -> None:
        """Wait until `/healthcheck` answers that; None: until it answers."""

        def is_there() -> bool:
            if self._process.poll() is not None:
                raise SystemExit(f"{self.side.name}: no server: {self.log.read_text()[-2000:]}")
            with contextlib.suppress(httpx.TransportError):
                return self.client.get("/healthcheck").status_code == (status or 200) or not status
            return False

        until(is_there, f"{self.side.name}: a server that is ready")

    def stop(self) -> None:
        self.client.close()
        if self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait(60)
        self.side.note("a server's exit code", str(code))

    # ---- what the groups ask ----------------------------------------------------------

    def ask(
        self, label: str, method: str, path: str, *, body: bool = True, **how: Any
    ) -> httpx.Response:
        """The reply to a request, which is recorded."""
        reply = self.client.request(method, path, **how)
        self.side.note_reply(label, reply, body=body)
        return reply

    def finished(self, name: str, **how: Any) -> dict[str, Any]:
        """What `/jobs` says of a job once it is over, and can be exported if it ever can."""
        job: dict[str, Any] = {}

        def is_over() -> bool:
            nonlocal job
            job = self.client.get(f"/jobs/{name}", **how).raise_for_status().json()
            is_whole = job["status"] == "completed" and job["can_export"]
            return is_whole or job["status"] == "error"

        until(is_over, f"{self.side.name}: the end of job {name}")
        return job

    def exportable(self, name: str, **how: Any) -> dict[str, Any]:
        """As `finished`, for a job with a texture, which is packed after its geometry."""
        job = self.finished(name, **how)
        body = {"texture": True}
        until(
            lambda: self.client.post(f"/jobs/{name}/export", json=body, **how).is_success,
            f"{self.side.name}: job {name} exported with its texture",
        )
        return job


def until(is_so: Callable[[], bool], what: str) -> None:
    """Look until it is so."""
    pause, end = threading.Event(), time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"never: {what}")
        pause.wait(0.03)
