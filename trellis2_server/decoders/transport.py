"""How the server sends a request to a decoder and gets its result.

    MemoryLink   a socket pair; contents and results in memory files whose descriptors are sent
    InlineLink   two pipes, with contents and results in them: where no descriptor can be sent

The decoder says how large its result is, and the server makes the memory for it: a decoder can
make none itself.

    server → decoder   {task, arguments, size, timeout_s, idle_s}   content
    decoder → server   {error} or {meta, arrays}
    server → decoder   {}                                           memory for the arrays
    decoder → server   {}                                           they are in it

In pipes, the content follows the first message and the arrays the second one, the last one.

Does not know: what is decoded, how a process is started.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from trellis2_server.decoders.memory import create_memory, fill_memory, read_arrays, seal_memory
from trellis2_server.decoders.messages import (
    HEADER,
    check_array,
    decode_message,
    encode_message,
    message_length,
    read_specs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from trellis2_server.reports import Check

    Message = Mapping[str, object]

_T = TypeVar("_T")

#: Whether descriptors can be sent to another process.
CAN_SEND_DESCRIPTORS: Final = hasattr(socket, "send_fds") and hasattr(socket, "AF_UNIX")
#: Maximum time between two calls of a `check`, seconds.
CHECK_INTERVAL_S: Final = 0.05


class TimeIsUpError(Exception):
    """A decoder did not answer in time."""


class Patience:
    """How long a call waits for a decoder, and what may end it earlier.

    Args:
        timeout_s: maximum time, seconds.
        check: called at least every `CHECK_INTERVAL_S`; an exception that it raises ends the wait.
    """

    def __init__(self, timeout_s: float, check: Check) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._check = check

    def wait(self, is_ready: Callable[[float], bool]) -> None:
        """Return when `is_ready` does.

        Args:
            is_ready: waits for at most as many seconds as it is given.

        Raises:
            TimeIsUpError: the time is up.
        """
        while True:
            self._check()
            left_s = self._deadline - time.monotonic()
            if is_ready(max(0.0, min(CHECK_INTERVAL_S, left_s))):
                return
            if left_s <= 0:
                raise TimeIsUpError


class Reply(NamedTuple):
    """Answer of a decoder.

    Attributes:
        message: what it says; it has `error` if the task failed.
        arrays: arrays of the result.
    """

    message: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Link(Protocol):
    """The server's end of the connection to one decoder.

    Its methods raise `EOFError` when the decoder has ended, `ProtocolError`, `TimeIsUpError`, and
    what a check raises.
    """

    #: Arguments of the decoder's program.
    arguments: list[str]
    #: Arguments of `subprocess.Popen`.
    options: dict[str, Any]

    def connect(self, process: subprocess.Popen[bytes]) -> None:
        """Take over the started process."""
        ...

    def receive(self, patience: Patience) -> dict[str, Any]:
        """Return the next message."""
        ...

    def exchange(
        self, request: Message, content: bytes | memoryview, max_bytes: int, patience: Patience
    ) -> Reply:
        """Send a request with its content; return the answer."""
        ...

    def close(self) -> None:
        """Close the connection; the decoder ends, even in the middle of a call."""
        ...


class MemoryLink:
    """Socket pair and memory files.

    A second connection, a pipe, only holds the decoder alive: when the server's end is closed, by
    whatever end of the server, the system sends the decoder a signal. (`PR_SET_PDEATHSIG` would do
    that when the thread ends that started the decoder.)

    Args:
        is_named: see `memory.create_memory`.
    """

    def __init__(self, *, is_named: bool = False) -> None:
        self._is_named = is_named
        self._socket, self._theirs = socket.socketpair()
        self._theirs_alive, self._alive = os.pipe()
        self._socket.settimeout(0)
        inherited = (self._theirs.fileno(), self._theirs_alive)
        self.arguments = ["memory", *map(str, inherited)]
        self.options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "pass_fds": inherited,
        }  # fmt: skip

    def connect(self, process: subprocess.Popen[bytes]) -> None:
        """Close the decoder's ends in this process."""
        del process
        self._close_theirs()

    def receive(self, patience: Patience) -> dict[str, Any]:
        """Return the next message. Descriptors that come with it are dropped."""
        length = message_length(self._read(HEADER.size, patience))
        return decode_message(self._read(length, patience))

    def exchange(
        self, request: Message, content: bytes | memoryview, max_bytes: int, patience: Patience
    ) -> Reply:
        """Send a request with its content in a memory file; return the answer."""
        memory = create_memory(len(content), is_named=self._is_named)
        try:
            fill_memory(memory, content)
            seal_memory(memory, is_written=True)
            self._send(request, memory, patience)
        finally:
            os.close(memory)
        message = self.receive(patience)
        specs = read_specs(message.pop("arrays", []), max_bytes)
        size = sum(spec.nbytes for spec in specs)
        if not size:
            return Reply(message, {spec.name: np.empty(spec.shape, spec.dtype) for spec in specs})
        memory = create_memory(size, is_named=self._is_named)
        try:
            seal_memory(memory, is_written=False)
            self._send({}, memory, patience)
            written = self.receive(patience)
            if "error" in written:  # it has no memory left to copy them
                return Reply(written, {})
            return Reply(message, read_arrays(memory, specs))
        finally:
            os.close(memory)

    def close(self) -> None:
        """Close both connections."""
        self._close_theirs()
        self._socket.close()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1

    def _close_theirs(self) -> None:
        self._theirs.close()
        if self._theirs_alive >= 0:
            os.close(self._theirs_alive)
            self._theirs_alive = -1

    def _send(self, message: Message, descriptor: int, patience: Patience) -> None:
        left = memoryview(encode_message(message))
        descriptors = [descriptor]
        while left:
            patience.wait(self._can_write)
            count = _moved(lambda: socket.send_fds(self._socket, [left], descriptors))  # noqa: B023
            if count:  # the descriptor came with the first byte
                left, descriptors = left[count:], []

    def _read(self, length: int, patience: Patience) -> bytes:
        data = bytearray(length)
        left = memoryview(data)
        while left:
            patience.wait(self._can_read)
            count = _moved(lambda: self._socket.recv_into(left))  # noqa: B023 - called at once
            if count == 0:
                raise EOFError
            left = left[count or 0 :]
        return bytes(data)

    def _can_read(self, limit_s: float) -> bool:
        return self._is_ready(select.POLLIN, limit_s)

    def _can_write(self, limit_s: float) -> bool:
        return self._is_ready(select.POLLOUT, limit_s)

    def _is_ready(self, event: int, limit_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(limit_s * 1000))


def _moved(move: Callable[[], int]) -> int | None:
    """Return how many bytes a call has moved; None: it has to be called again."""
    try:
        return move()
    except BlockingIOError:
        return None
    except OSError as error:
        raise EOFError from error


class InlineLink:
    """Two pipes; a thread moves the bytes, because a pipe cannot be waited for everywhere.

    The decoder notices the end of the server only when it reads its next request.
    """

    def __init__(self) -> None:
        self.arguments = ["inline"]
        self.options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._input: IO[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._thread: threading.Thread | None = None

    def connect(self, process: subprocess.Popen[bytes]) -> None:
        """Take the pipes of the process."""
        self._input, self._output = process.stdin, process.stdout

    def receive(self, patience: Patience) -> dict[str, Any]:
        """Return the next message."""
        return self._on_thread(self._read_message, patience)

    def exchange(
        self, request: Message, content: bytes | memoryview, max_bytes: int, patience: Patience
    ) -> Reply:
        """Send a request with its content in the pipe; return the answer."""

        def run() -> Reply:
            stream = cast("IO[bytes]", self._input)
            stream.write(encode_message(request))
            stream.write(content)
            stream.flush()
            message = self._read_message()
            specs = read_specs(message.pop("arrays", []), max_bytes)
            arrays: dict[str, NDArray[Any]] = {}
            for spec in specs:
                array = np.empty(spec.shape, spec.dtype)
                self._read_into(array.reshape(-1).view(np.uint8).data)
                check_array(array)
                arrays[spec.name] = array
            return Reply(message, arrays)

        return self._on_thread(run, patience)

    def close(self) -> None:
        """Close the pipes. The process has ended, or else a thread may hold on to them."""
        if self._thread is not None:
            self._thread.join(1)
        for stream in (self._input, self._output):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.close()

    def _on_thread(self, call: Callable[[], _T], patience: Patience) -> _T:
        done: Future[_T] = Future()

        def run() -> None:
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised again below
                done.set_exception(error)

        def is_done(limit_s: float) -> bool:
            wait((done,), limit_s)
            return done.done()

        self._thread = threading.Thread(target=run, name="decoder-pipe", daemon=True)
        self._thread.start()
        patience.wait(is_done)
        try:
            return done.result()
        except (OSError, ValueError) as error:  # the pipe is closed
            raise EOFError from error

    def _read_message(self) -> dict[str, Any]:
        header = bytearray(HEADER.size)
        self._read_into(memoryview(header))
        text = bytearray(message_length(bytes(header)))
        self._read_into(memoryview(text))
        return decode_message(text)

    def _read_into(self, view: memoryview) -> None:
        stream: Any = self._output
        while view:
            count = stream.readinto(view)
            if not count:
                raise EOFError
            view = view[count:]
