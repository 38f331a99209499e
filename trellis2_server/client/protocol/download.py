"""Downloading files, resumed where a connection was lost."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from trellis2_server.client.errors import BusyError, UnreachableError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import DownloadProgress, Open, Read, Report
from trellis2_server.client.protocol.replies import read_name

if TYPE_CHECKING:
    from trellis2_server.client.protocol.actions import Operation
    from trellis2_server.client.protocol.replies import Reply
    from trellis2_server.client.protocol.retry import Backoff


def download(uid: str, file: str, backoff: Backoff) -> Operation[bytes]:
    """Return the content of a file of a job.

    Raises:
        NotFoundError: the server has no such file.
    """
    partial = PartialDownload(f"jobs/{read_name(uid)}/{file}")
    while True:
        try:
            reply: Reply = yield Open(partial.path, partial.request_headers())
            partial.start(reply)
            while chunk := (yield Read()):
                partial.content += chunk
                backoff.reset()
                yield Report(DownloadProgress(len(partial.content), partial.total))
            return partial.complete()
        except (UnreachableError, BusyError) as error:  # noqa: PERF203 - the reason for the loop
            yield from retry.pause(error, backoff)


class PartialDownload:
    """Beginning of a file, and what is needed to request the rest (RFC 9110, section 14).

    Attributes:
        path: path of the file, relative to the server's address.
        content: bytes received so far.
        total: size of the complete file, bytes; None if the server does not say.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.content = bytearray()
        self.total: int | None = None
        self._tag: str | None = None

    def request_headers(self) -> dict[str, str]:
        """Return the headers of a request for the rest, or for the complete file."""
        headers = {"Accept-Encoding": "identity"}
        if self.content and self._tag:
            headers |= {"Range": f"bytes={len(self.content)}-", "If-Range": self._tag}
        return headers

    def start(self, reply: Reply) -> None:
        """Read the head of a reply; discard the content so far unless the rest follows.

        Raises:
            UnreachableError: another part follows; the download starts again.
            ReplyError: the server replied with an error.
        """
        if reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.content.clear()
            raise UnreachableError("the file on the server has changed")
        reply.raise_for_status()
        tag = reply.headers.get("etag")
        self._tag = None if tag and tag.startswith("W/") else tag
        total = reply.headers.get("content-length", "")
        if reply.status == HTTPStatus.PARTIAL_CONTENT:
            span, _, total = reply.headers.get("content-range", "").partition("/")
            if not span.startswith(f"bytes {len(self.content)}-"):
                self.content.clear()
                raise UnreachableError("the server sent a different range than requested")
        else:
            self.content.clear()
        self.total = int(total) if total.isdecimal() else None

    def complete(self) -> bytes:
        """Return the complete file.

        Raises:
            UnreachableError: the file is incomplete.
        """
        if self.total is not None and len(self.content) < self.total:
            raise UnreachableError("the connection was lost during the download")
        return bytes(self.content)
