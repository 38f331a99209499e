from __future__ import annotations

import asyncio

import pytest

from trellis2_server.races import result_unless


class PointlessError(Exception):
    """Raised when the event ends first."""


async def run(*, call_ends: bool, event_ends: bool) -> tuple[str, int]:
    """What a race gives, and how many tasks it leaves."""

    async def wait(ends: bool) -> str:  # noqa: FBT001
        if not ends:
            await asyncio.Event().wait()
        return "result"

    try:
        given = await result_unless(wait(call_ends), wait(event_ends), PointlessError())
    except PointlessError:
        given = "error"
    await asyncio.sleep(0)
    return given, len(asyncio.all_tasks()) - 1


@pytest.mark.parametrize(
    ("call_ends", "event_ends", "given"),
    [(True, False, "result"), (False, True, "error"), (True, True, "result")],
)
def test_what_ends_first_counts_and_nothing_is_left(
    *, call_ends: bool, event_ends: bool, given: str
) -> None:
    assert asyncio.run(run(call_ends=call_ends, event_ends=event_ends)) == (given, 0)
