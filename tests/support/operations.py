"""Performs the client's operations by hand: no server, no waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trellis2_server.client.protocol.actions import Execution, Open, Pause, Report
from trellis2_server.client.protocol.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.client.protocol.actions import Action, Operation, Update


@dataclass(slots=True)
class Performed:
    """What an operation asked for.

    Attributes:
        asked: its actions that need an answer.
        pauses: seconds of each pause.
        updates: what it reported.
        result: its return value; None: it raised.
        error: what it raised; None: nothing.
    """

    asked: list[Action] = field(default_factory=list["Action"])
    pauses: list[float] = field(default_factory=list[float])
    updates: list[Update] = field(default_factory=list["Update"])
    result: Any = None
    error: BaseException | None = None

    @property
    def paths(self) -> list[str]:
        """The paths of its requests."""
        return [path for each in self.asked if (path := getattr(each, "path", None)) is not None]

    @property
    def headers(self) -> list[Mapping[str, str]]:
        """The headers of the replies that it opened."""
        return [each.headers for each in self.asked if isinstance(each, Open)]


def perform(operation: Operation[Any], *answers: object) -> Performed:
    """Answer each action with the next of these; exceptions are raised at it.

    An operation that asks for more gets an `EOFError`.
    """
    left, performed, execution = list(answers), Performed(), Execution(operation)
    try:
        while action := execution.next_action():
            if isinstance(action, Report):
                performed.updates.append(action.update)
            elif isinstance(action, Pause):
                performed.pauses.append(action.seconds)
            else:
                performed.asked.append(action)
                answer = left.pop(0) if left else EOFError("no more answers")
                if isinstance(answer, BaseException):
                    execution.failure = answer
                else:
                    execution.answer = answer
        performed.result = execution.result
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        performed.error = error
    assert not left, left
    return performed


def json_reply(status: int = 200, text: str = "{}", **headers: str) -> Reply:
    """A complete reply; underscores in the names of headers become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, text.encode())
