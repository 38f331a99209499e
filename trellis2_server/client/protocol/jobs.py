"""Operations on existing jobs: state, list, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trellis2_server.client.errors import ProtocolError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import Call
from trellis2_server.client.protocol.replies import read_name, read_state

if TYPE_CHECKING:
    from trellis2_server.client.protocol.actions import Operation
    from trellis2_server.client.protocol.retry import Backoff
    from trellis2_server.client.records import JobState


def job(uid: str, backoff: Backoff) -> Operation[JobState]:
    """Return the state of a job."""
    reply = yield from retry.call(Call("GET", f"jobs/{read_name(uid)}"), backoff)
    return read_state(reply.document())


def jobs(limit: int, before: str | None, backoff: Backoff) -> Operation[list[JobState]]:
    """Return one page of the server's jobs, most recent first."""
    page = f"&before={read_name(before)}" if before else ""
    reply = yield from retry.call(Call("GET", f"jobs?limit={limit}{page}"), backoff)
    found: Any = reply.document().get("jobs")
    if not isinstance(found, list):
        raise ProtocolError("the reply does not belong to this API", status=reply.status)
    return [read_state(each if isinstance(each, dict) else {}) for each in found]


def cancel(uid: str, backoff: Backoff) -> Operation[None]:
    """Cancel an unfinished job, or delete a finished one."""
    yield from retry.call(Call("DELETE", f"jobs/{read_name(uid)}"), backoff)
