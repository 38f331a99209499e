"""A transport that keeps what is written, for connections without a socket."""

from __future__ import annotations

import asyncio
from typing import Any


class Wire(asyncio.Transport):
    """A transport that keeps what is written.

    Attributes:
        unsent: bytes that the client has not read.
    """

    def __init__(self, address: str, *, can_end: bool = True) -> None:
        super().__init__()
        self._address = address
        self._can_end = can_end
        self.written = b""
        self.unsent = 0
        self.is_aborted = self.is_closed = self.has_ended = self.is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._address, 1) if name == "peername" else default

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.is_aborted or self.is_closed

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_closed = True

    def can_write_eof(self) -> bool:
        return self._can_end

    def write_eof(self) -> None:
        self.has_ended = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False
