"""`call_when_loaded`: waits for a background model that is being loaded, without a thread.

Does not know: what waits for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.background import ModelPending


def call_when_loaded(pending: ModelPending, call: Callable[[], None]) -> None:
    """Call on the event loop when the model is loaded, and when waiting for it is pointless.

    Args:
        pending: the model.
        call: may be called twice. It is referred to until then: it must hold nothing large.
    """
    loop = asyncio.get_running_loop()

    def loaded(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call)

    loop.call_later(pending.timeout_s, call)
    pending.loaded.add_done_callback(loaded)
