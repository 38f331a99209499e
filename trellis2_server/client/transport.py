"""Performing the actions of operations over httpx, blocking and asynchronous.

Does not know: what the operations are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from trellis2_server.client.connection import read_reply, request_arguments
from trellis2_server.client.errors import UsageError
from trellis2_server.client.protocol.actions import (
    Call,
    Execution,
    Open,
    Pause,
    ReadFile,
    Report,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

    from trellis2_server.client.connection import Connection
    from trellis2_server.client.protocol.actions import File, Operation, Update

T = TypeVar("T")


class BlockingTransport:
    """Performs operations in the calling thread; several threads may share one transport."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = httpx.Client(**connection.client_arguments())
        self._never = threading.Event()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def run(self, operation: Operation[T]) -> T:
        """Return the result of an operation."""
        execution = Execution(operation)
        for _ in self._perform(execution):
            pass
        return execution.result

    def updates(self, operation: Operation[Any]) -> Generator[Update]:
        """Yield the updates of an operation."""
        return self._perform(Execution(operation))

    def _perform(self, execution: Execution[Any]) -> Generator[Update]:
        with contextlib.ExitStack() as opened:
            chunks: Iterator[bytes] = iter(())
            while action := execution.next_action():
                try:
                    if isinstance(action, Report):
                        yield action.update
                    elif isinstance(action, Pause):
                        self._never.wait(action.seconds)
                    elif isinstance(action, ReadFile):
                        execution.answer = read_file(action.file)
                    elif isinstance(action, Call):
                        response = self._http.request(**request_arguments(action))
                        execution.answer = read_reply(response)
                    elif isinstance(action, Open):
                        opened.close()
                        stream = self._http.stream(**request_arguments(action))
                        response = opened.enter_context(stream)
                        if not response.is_success:
                            response.read()
                        execution.answer, chunks = read_reply(response), response.iter_bytes()
                    else:
                        execution.answer = next(chunks, b"")
                except BaseException as error:  # noqa: BLE001, PERF203 - the operation handles it
                    execution.failure = self._connection.translate(error)


class AsyncTransport:
    """Performs operations in an event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = httpx.AsyncClient(**connection.client_arguments())

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def run(self, operation: Operation[T]) -> T:
        """Return the result of an operation."""
        execution = Execution(operation)
        async for _ in self._perform(execution):
            pass
        return execution.result

    def updates(self, operation: Operation[Any]) -> AsyncGenerator[Update]:
        """Yield the updates of an operation."""
        return self._perform(Execution(operation))

    async def _perform(self, execution: Execution[Any]) -> AsyncGenerator[Update]:
        async with contextlib.AsyncExitStack() as opened:
            chunks: AsyncIterator[bytes] = _no_chunks()
            while action := execution.next_action():
                try:
                    if isinstance(action, Report):
                        yield action.update
                    elif isinstance(action, Pause):
                        await asyncio.sleep(action.seconds)
                    elif isinstance(action, ReadFile):
                        execution.answer = await asyncio.to_thread(read_file, action.file)
                    elif isinstance(action, Call):
                        response = await self._http.request(**request_arguments(action))
                        execution.answer = read_reply(response)
                    elif isinstance(action, Open):
                        await opened.aclose()
                        stream = self._http.stream(**request_arguments(action))
                        response = await opened.enter_async_context(stream)
                        if not response.is_success:
                            await response.aread()
                        execution.answer, chunks = read_reply(response), response.aiter_bytes()
                    else:
                        execution.answer = await anext(chunks, b"")
                except BaseException as error:  # noqa: BLE001, PERF203 - the operation handles it
                    execution.failure = self._connection.translate(error)


def read_file(file: File) -> bytes:
    """Return the content of a file.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    if isinstance(file, bytes):
        content = file
    else:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from error
    if not content:
        name = "" if isinstance(file, bytes) else f"{file}: "
        raise UsageError(f"{name}the file is empty")
    return content


async def _no_chunks() -> AsyncGenerator[bytes]:
    for chunk in ():
        yield chunk
