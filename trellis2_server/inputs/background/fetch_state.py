"""`FetchState`: how far a background model is on this machine.

Does not know: how files are fetched, who is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class FetchState:
    """How far a background model is.

    Attributes:
        name: the model's name.
        state: "checking": its files are looked at; "fetching": one is downloaded; "ready": they
            are on this machine; "loaded": the model is in memory; "failed": see `error`.
        file_name: the file that is downloaded, or the last one that was; None: none was.
        done_bytes: what is downloaded of it, bytes.
        total_bytes: its size, bytes; None: unknown.
        error: why the model is not available.
    """

    name: str
    state: Literal["checking", "fetching", "ready", "loaded", "failed"]
    file_name: str | None = None
    done_bytes: int = 0
    total_bytes: int | None = None
    error: str | None = None
