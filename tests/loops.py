"""Event loops for tests: one for each, which must end with nothing left to complain of."""

from __future__ import annotations

import asyncio
import functools
import gc
from typing import TYPE_CHECKING, Any

from tests.engines import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test on an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        complaints: list[Any] = []

        async def bounded() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            await asyncio.wait_for(test(*arguments, **named), PATIENCE_S)

        asyncio.run(bounded())
        gc.collect()
        assert not complaints

    return run


async def until(is_so: Callable[[], bool]) -> None:
    """Look until something is so that no event tells of."""
    while not is_so():  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.002)
