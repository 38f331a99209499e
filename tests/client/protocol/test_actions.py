"""Operations and their actions, performed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trellis2_server.client import UnreachableError
from trellis2_server.client.protocol.actions import (
    Execution,
    Notice,
    Pause,
    Read,
    Report,
    handle_updates,
)

if TYPE_CHECKING:
    from trellis2_server.client.protocol.actions import Operation


def operation(caught: list[BaseException]) -> Operation[bytes]:
    """Reads until an error or the end, and reports each chunk."""
    content = b""
    try:
        while chunk := (yield Read()):
            content += chunk
            yield Report(Notice(chunk.decode()))
    except Exception as error:
        caught.append(error)
        yield Pause(1)
        raise
    return content


def test_an_execution_passes_answers_and_returns_the_result() -> None:
    execution = Execution(operation([]))
    assert execution.next_action() == Read()
    execution.answer = b"one"
    assert execution.next_action() == Report(Notice("one"))
    assert execution.next_action() == Read()
    execution.answer = b""
    assert execution.next_action() is None
    assert execution.result == b"one"


def test_a_failed_action_raises_inside_the_operation() -> None:
    caught: list[BaseException] = []
    execution = Execution(operation(caught))
    execution.next_action()
    execution.failure = UnreachableError("lost")
    assert execution.next_action() == Pause(1)
    assert [str(each) for each in caught] == ["lost"]
    with pytest.raises(UnreachableError, match="lost"):
        execution.next_action()


def test_handled_updates_are_not_reported() -> None:
    texts: list[object] = []
    execution = Execution(handle_updates(operation([]), texts.append))
    for answer in (b"one", b"two", b""):
        assert execution.next_action() == Read()
        execution.answer = answer
    assert execution.next_action() is None
    assert execution.result == b"onetwo"
    assert texts == [Notice("one"), Notice("two")]


def test_an_exception_of_a_callback_is_raised_inside_the_operation() -> None:
    caught: list[BaseException] = []

    def refuse(_: object) -> None:
        raise RuntimeError("enough")

    execution = Execution(handle_updates(operation(caught), refuse))
    execution.next_action()
    execution.answer = b"one"
    assert execution.next_action() == Pause(1)
    assert [str(each) for each in caught] == ["enough"]
    with pytest.raises(RuntimeError, match="enough"):
        execution.next_action()
