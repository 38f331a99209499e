"""`ModelWait`: waits for a background model that is being loaded, without a thread.

Does not know: what waits for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.background import ModelPending


class ModelWait:
    """Calls once, on the event loop: when the model is loaded, or waiting for it is pointless.

    Args:
        pending: the model.
        call: is referred to until then, or until `cancel`.
    """

    def __init__(self, pending: ModelPending, call: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._call: Callable[[], None] | None = call
        self._timer = self._loop.call_later(pending.timeout_s, self._end)
        pending.loaded.add_done_callback(self._note_loaded)

    def _note_loaded(self, _: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        call = self._call
        self.cancel()
        if call is not None:
            call()

    def cancel(self) -> None:
        """Do not call any more; nothing but a few bytes stays until the model is loaded."""
        self._call = None
        self._timer.cancel()
