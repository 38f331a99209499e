"""Operations on existing jobs: state, list, export, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trellis2_server.client.errors import ProtocolError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import Call
from trellis2_server.client.protocol.replies import read_name, read_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.client.protocol.actions import Operation
    from trellis2_server.client.protocol.retry import Backoff
    from trellis2_server.client.records import JobState

#: Longest time without data of an export, which sends none while it is made, seconds.
EXPORT_TIMEOUT_S: Final = 1800.0


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


def export(uid: str, fields: Mapping[str, Any], backoff: Backoff) -> Operation[bytes]:
    """Return the model of a job, exported with other fields."""
    body = {name: value for name, value in fields.items() if value is not None}
    call = Call("POST", f"jobs/{read_name(uid)}/export", body, EXPORT_TIMEOUT_S)
    reply = yield from retry.call(call, backoff)
    return reply.body


def cancel(uid: str, backoff: Backoff) -> Operation[None]:
    """Cancel an unfinished job, or delete a finished one."""
    yield from retry.call(Call("DELETE", f"jobs/{read_name(uid)}"), backoff)
