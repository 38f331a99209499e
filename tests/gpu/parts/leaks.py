"""Ten jobs of different lengths: memory by the driver and of the process, beside PyTorch's.

What libraries keep for each new length (plans, workspaces) is outside of PyTorch's figures.

Does not know: exports.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.gpu.full_model import warm_up
from tests.gpu.sample_job import job

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session

JOBS: Final = 10
#: Seconds of a job on the modelled H100.
_JOB_S: Final = 1.5


def run(session: Session) -> None:
    """Measure memory after each job; the longest runs before, so that no peak is new."""
    made = session.full()
    # No two lengths are equal, and none is a multiple of another's difference.
    lengths = (
        [60 + 3 * n for n in range(JOBS)]
        if session.is_tiny
        else [3_000 + 211 * n for n in range(JOBS)]
    )
    order = lengths[::2] + lengths[1::2]
    made.set_tokens("512", max(lengths) + 1)
    warm_up(made, "512", session.size)
    after = [_memory(session)]
    session.row("after each job", what="before", tokens=max(lengths) + 1, **_shown(after[0]))
    for number, tokens in enumerate(order, 1):
        measured = session.attempt(
            "after each job",
            {"what": f"job {number}", "tokens": tokens},
            _JOB_S,
            lambda tokens=tokens, number=number: _job(session, made, tokens, number, after),
        )
        if measured is None:
            return
    for name in ("driver", "process"):
        first, last = after[0][name], after[-1][name]
        if first:
            key = "growth_percent" if name == "driver" else "process_growth_percent"
            session.row(
                "growth",
                what={"driver": "device, by its driver", "process": "process (RSS)"}[name],
                **{key: 100 * (last / first - 1)},
                mb=(last - first) / 1e6,
            )


def _job(
    session: Session, made: FullModel, tokens: int, seed: int, after: list[dict[str, int]]
) -> dict[str, Any]:
    made.set_tokens("512", tokens)
    steps = 1 if session.is_tiny else 4
    _, seconds, _ = session.meter.run(lambda: made.run(job("512", steps, session.size, seed)))
    after.append(_memory(session))
    return {**_shown(after[-1]), "seconds": seconds}


def _memory(session: Session) -> dict[str, int]:
    """Bytes in use after everything that can be freed was freed."""
    gc.collect()
    session.release()
    meter = session.meter
    return {
        "driver": meter.used(),
        "outside": meter.outside(),
        "allocated": meter.allocated(),
        "process": _resident(),
    }


def _shown(memory: dict[str, int]) -> dict[str, float]:
    return {f"{name}_mb": size / 1e6 for name, size in memory.items()}


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    file = Path("/proc/self/statm")
    if not file.exists():
        return 0
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
