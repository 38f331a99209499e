"""The id of the current request, for its response and its log records.

Log records of a job carry the id of the request that created the job.

Does not know: HTTP, logging.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from typing import Final

#: Id of the request that the current task or thread works for; empty outside of a request.
current: Final[ContextVar[str]] = ContextVar("request_id", default="")

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def choose(client_id: str | None) -> str:
    """Return the client's request id if it is safe to log, otherwise a new one."""
    return client_id if client_id and _VALID_ID.fullmatch(client_id) else uuid.uuid4().hex
