"""The decoder's end of the connection to the server; see `transport` for the protocol.

Does not know: what is decoded.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import socket
import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trellis2_server.decoders.messages import HEADER, decode_message, message_length

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


class Channel(Protocol):
    """A connection. Its methods raise `EOFError` when the server has closed it."""

    def wait(self, limit_s: float | None) -> bool:
        """Wait for a request; return False if none comes in time. None: for ever."""
        ...

    def receive_request(self) -> tuple[dict[str, Any], memoryview]:
        """Return the next request and its content, which must not be changed.

        Raises:
            MemoryError: there is too little memory for it.
        """
        ...

    def send(self, encoded: bytes) -> None:
        """Send a message."""
        ...

    def send_result(self, encoded: bytes, arrays: Arrays) -> None:
        """Send a result and its arrays, each without gaps."""
        ...


class MemoryChannel:
    """Socket and memory files.

    Args:
        descriptor: of the socket.
        lifeline: read end of a pipe whose other end only the server has. When that is closed, the
            system ends this process, even in the middle of a call into a library: SIGIO, which
            nothing here handles. (Linux; other systems ignore it by default.)
    """

    def __init__(self, descriptor: int, lifeline: int) -> None:
        import fcntl

        self._socket = socket.socket(fileno=descriptor)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
        try:
            if not os.read(lifeline, 1):
                raise EOFError  # it was closed before the signal was set up
        except BlockingIOError:
            pass

    def wait(self, limit_s: float | None) -> bool:
        """Wait for a request."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(None if limit_s is None else limit_s * 1000))

    def receive_request(self) -> tuple[dict[str, Any], memoryview]:
        """Return the next request; its content is mapped memory."""
        request, descriptor = self._receive()
        try:
            if not request["size"]:
                return request, memoryview(b"")
            # Private: memory that cannot be written must not be mapped as shared.
            content = _map(descriptor, request["size"], mmap.MAP_PRIVATE, mmap.PROT_READ)
            return request, memoryview(content)
        finally:
            os.close(descriptor)

    def send(self, encoded: bytes) -> None:
        """Send a message."""
        try:
            self._socket.sendall(encoded)
        except OSError as error:
            raise EOFError from error

    def send_result(self, encoded: bytes, arrays: Arrays) -> None:
        """Send a result; copy its arrays into the memory that the server sends for them."""
        self.send(encoded)
        size = sum(array.nbytes for array in arrays.values())
        if not size:
            return
        _, descriptor = self._receive()
        try:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # all pages in one call
            with _map(descriptor, size, flags, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
                at = 0
                for array in arrays.values():
                    view = array.reshape(-1).view(np.uint8).data
                    memory[at : at + array.nbytes] = view
                    at += array.nbytes
        finally:
            os.close(descriptor)
        self.send(_EMPTY)

    def _receive(self) -> tuple[dict[str, Any], int]:
        try:
            header, descriptors, _, _ = socket.recv_fds(self._socket, HEADER.size, 1)
        except OSError as error:
            raise EOFError from error
        if len(header) < HEADER.size:
            header += self._read(HEADER.size - len(header))
        message = decode_message(self._read(message_length(header)))
        return message, descriptors[0]

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class InlineChannel:
    """Standard input and output, which are replaced, so that no library writes to them."""

    def __init__(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            for descriptor in (0, 1):
                msvcrt.setmode(descriptor, os.O_BINARY)
        self._input = os.fdopen(os.dup(0), "rb")
        self._output = os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nothing, descriptor)
        os.close(nothing)

    def wait(self, limit_s: float | None) -> bool:
        """Return at once: a pipe cannot be waited for everywhere."""
        del limit_s
        return True

    def receive_request(self) -> tuple[dict[str, Any], memoryview]:
        """Return the next request and its content."""
        request = decode_message(self._read(message_length(self._read(HEADER.size))))
        return request, memoryview(self._read(request["size"]))

    def send(self, encoded: bytes) -> None:
        """Send a message."""
        self._write(encoded)
        self._output.flush()

    def send_result(self, encoded: bytes, arrays: Arrays) -> None:
        """Send a result, and its arrays after it."""
        self._write(encoded)
        for array in arrays.values():
            self._write(array.reshape(-1).view(np.uint8).data)
        self._output.flush()

    def _write(self, content: bytes | memoryview) -> None:
        try:
            self._output.write(content)
        except OSError as error:
            raise EOFError from error

    def _read(self, length: int) -> bytes:
        data = self._input.read(length)
        if len(data) < length:
            raise EOFError
        return data


def _map(descriptor: int, size: int, flags: int, prot: int) -> mmap.mmap:
    """Map memory.

    Raises:
        MemoryError: the limit of the address space is reached.
    """
    try:
        return mmap.mmap(descriptor, size, flags=flags, prot=prot)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise


_EMPTY = HEADER.pack(2) + b"{}"
