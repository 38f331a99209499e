"""`result_unless`: waits for a call while something else may happen that makes it pointless.

Does not know: what is called, what happens.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


async def result_unless(call: Awaitable[T], event: Awaitable[object], error: Exception) -> T:
    """Return the result of a call, or raise `error` if `event` ends first.

    A call that has ended counts, even if `event` has ended, too. What has not ended is cancelled.

    Raises:
        Exception: `error`, or what the call raises.
    """
    result, happening = asyncio.ensure_future(call), asyncio.ensure_future(event)
    try:
        await asyncio.wait((result, happening), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise error
        return result.result()
    finally:
        happening.cancel()
        result.cancel()
