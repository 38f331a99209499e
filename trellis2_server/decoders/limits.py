"""`DecoderLimits`: what a decoder process may use.

Does not know: how a limit is enforced.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """Limits of one decoder process.

    Attributes:
        memory_bytes: of its address space, besides what it has before it reads a file, bytes.
        timeout_s: time for one call, seconds.
        result_bytes: maximum size of the arrays of one result, bytes.
        threads: threads of its numerical libraries.
    """

    memory_bytes: int
    timeout_s: float
    result_bytes: int = 2**30
    threads: int = 1
