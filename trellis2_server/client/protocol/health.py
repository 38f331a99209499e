"""Operations that request the state of the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from trellis2_server.client.errors import BusyError, UnreachableError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import Call, Pause, Report
from trellis2_server.client.protocol.replies import SHUTTING_DOWN, read_health
from trellis2_server.client.protocol.retry import Backoff

if TYPE_CHECKING:
    from trellis2_server.client.protocol.actions import Operation
    from trellis2_server.client.protocol.replies import Reply
    from trellis2_server.client.records import Health

#: Time between two health checks of a server that is loading its model, seconds.
LOADING_POLL_S: Final = 1.0


def health() -> Operation[Health]:
    """Return the state of the server, without retries."""
    reply: Reply = yield Call("GET", "healthcheck")
    return read_health(reply)


def wait_until_ready(limit_s: float) -> Operation[Health]:
    """Wait until the server is ready; return its state.

    Args:
        limit_s: longest time to wait, seconds.

    Raises:
        BusyError: loading takes longer than that, or has failed.
        UnreachableError: the server did not reply for longer than that.
    """
    backoff = Backoff(limit_s)
    begin = time.monotonic()
    while True:
        try:
            state = yield from health()
        except (UnreachableError, BusyError) as error:
            yield from retry.pause(error, backoff)
            continue
        yield Report(state)
        if state.status in {"ok", "unknown"}:
            return state
        # Another server may take the place of one that is shutting down.
        if state.status == "error" and state.error != SHUTTING_DOWN:
            raise BusyError(state.error or "the server reports an error", status=503)
        if time.monotonic() - begin + LOADING_POLL_S > limit_s:
            raise BusyError(state.error or "the server is still loading its model", status=503)
        backoff.reset()
        yield Pause(LOADING_POLL_S)
