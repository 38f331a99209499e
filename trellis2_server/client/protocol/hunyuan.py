"""Waiting for a job of a Hunyuan3D server, which has `/send` and `/status` only."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.client.errors import JobLostError, NotFoundError, ProtocolError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import Call, Pause, Report
from trellis2_server.client.records import JobState

if TYPE_CHECKING:
    from trellis2_server.client.protocol.actions import Operation
    from trellis2_server.client.protocol.retry import Backoff

#: Time between two requests for the status of a job, seconds.
POLL_S: Final = 1.0


def poll(uid: str, backoff: Backoff) -> Operation[tuple[JobState, bytes]]:
    """Poll a job until it ends; return its last state and its model, empty after an error.

    Raises:
        JobLostError: the server has no such job.
    """
    while True:
        try:
            reply = yield from retry.call(Call("GET", f"status/{uid}"), backoff)
        except NotFoundError as error:
            raise JobLostError(f"the server no longer has the job: {error}", uid=uid) from error
        document = reply.document()
        status = document.get("status")
        if status == "completed":
            model = _decode(document.get("model_base64", ""))
            if not model:
                raise ProtocolError("the reply contains no model", status=reply.status)
            state = JobState(uid, "completed")
            yield Report(state)
            return state, model
        if status == "error":
            message = str(document.get("message") or document.get("error") or "the job failed")
            return JobState(uid, "error", error=message), b""
        if status == "texturing":
            yield Report(JobState(uid, "texture_processing", shape_ready=True))
        else:
            yield Report(JobState(uid, "shape_processing"))
        yield Pause(POLL_S)


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""
