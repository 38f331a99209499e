from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="needs ray")

from trellis2_server.errors import EngineError
from trellis2_server.jobs.threads import StepCancelled
from trellis2_server.ray_serve.stream import (
    QUEUED,
    Outcome,
    read_stream,
    stream_call,
    stream_future,
)

if TYPE_CHECKING:
    from trellis2_server.reports import Report


class LocalStream:
    """Stands for Ray's generator of references: small items are awaited, large ones are not."""

    def __init__(self, items: list[Any]) -> None:
        self._items = iter(items)

    async def __anext__(self) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(next(self._items))
        return future

    def __next__(self) -> Any:
        return next(self._items)


def ignore(stage: str, step: int, steps: int) -> None:
    del stage, step, steps


async def opened(items: list[Any]) -> Any:
    return LocalStream(items)


def test_a_stream_ends_with_the_value_and_each_large_item() -> None:
    def call(report: Report) -> Outcome:
        report("sampling", 1, 2)
        return Outcome("value", ("mesh", "state"))

    items = list(stream_call("shape", call))
    assert items == [("progress", "sampling", 1, 2), ("result", "value", 2), "mesh", "state"]


def test_an_exception_ends_a_stream_as_an_error_without_traceback() -> None:
    def call(report: Report) -> Outcome:
        report("sampling", 0, 2)
        raise ValueError("nothing there")

    *_, (kind, error) = stream_call("shape", call)
    assert (kind, str(error)) == ("error", "shape failed: ValueError: nothing there")
    assert isinstance(error, EngineError)
    assert error.__traceback__ is None
    assert error.__cause__ is None


def test_closing_a_stream_cancels_the_call_at_its_next_report() -> None:
    cancelled = threading.Event()

    def call(report: Report) -> Outcome:
        try:
            while True:
                report("sampling", 0, 1)
        except StepCancelled:
            cancelled.set()
            raise

    items = stream_call("shape", call)
    assert next(items)[0] == "progress"
    items.close()
    assert cancelled.is_set()


def test_the_stream_of_a_future_has_the_same_items() -> None:
    async def collect() -> list[Any]:
        loop = asyncio.get_running_loop()

        def start(report: Report) -> asyncio.Future[Outcome]:
            def call() -> Outcome:
                report("sampling", 1, 2)
                return Outcome("value", ("field",))

            return loop.run_in_executor(None, call)

        return [item async for item in stream_future(start)]

    expected = [("progress", "sampling", 1, 2), ("result", "value", 1), "field"]
    assert asyncio.run(collect()) == expected


def test_a_reader_reports_progress_and_returns_the_references() -> None:
    seen: list[tuple[str, int, int]] = []
    items = [("progress", "sampling", 1, 2), ("result", "value", 2), "first", "second"]

    async def read() -> tuple[Any, list[Any]]:
        return await read_stream(opened(items), lambda *progress: seen.append(progress))

    assert asyncio.run(read()) == ("value", ["first", "second"])
    assert seen == [("sampling", 1, 2)]


def test_a_reader_notes_the_machine_of_a_task() -> None:
    noted: list[str] = []
    items = [("machine", "a node"), ("result", "value", 0)]

    async def read() -> None:
        assert await read_stream(opened(items), ignore) == ("value", [])
        assert await read_stream(opened(items), ignore, noted.append) == ("value", [])

    asyncio.run(read())
    assert noted == ["a node"]


def test_a_reader_raises_the_error_of_the_stream() -> None:
    async def read() -> None:
        await read_stream(opened([("error", EngineError("out of order"))]), ignore)

    with pytest.raises(EngineError, match="out of order"):
        asyncio.run(read())


def test_a_report_can_cancel_a_step_that_no_process_has_started() -> None:
    seen: list[str] = []

    def report(stage: str, step: int, steps: int) -> None:
        del step, steps
        seen.append(stage)
        raise StepCancelled

    async def read() -> None:
        never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await read_stream(never, report)

    with pytest.raises(StepCancelled):
        asyncio.run(read())
    assert seen == [QUEUED]
