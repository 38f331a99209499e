"""The id of the request that is being answered, for its reply and for every line about it.

A job's lines carry the id of the request that first asked for the job.

What this module does not know: HTTP, logging.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from typing import Final

#: Of the request that the present task or thread works for; empty: for none.
current: Final[ContextVar[str]] = ContextVar("request_id", default="")

_SANE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def choose(given: str | None) -> str:
    """The id that a client sent, where it is one that may stand in a log; else a new one."""
    return given if given and _SANE.fullmatch(given) else uuid.uuid4().hex
