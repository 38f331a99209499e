"""Whole jobs of the larger pipeline types, as far as the time goes.

Does not know: exports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.gpu.full_model import measure_job, warm_up

if TYPE_CHECKING:
    from tests.gpu.session import Session

#: Pipeline type → tokens of the structure, and seconds of a job on the modelled H100. A cascade
#: multiplies the tokens by 4 up to 1024 and by 9 up to 1536, since each voxel becomes a sheet.
KINDS: Final = {
    "1024_cascade": (6_250, 22.0),
    "1536_cascade": (5_450, 64.0),
    "1024": (25_000, 22.0),
}
TINY_TOKENS: Final = {"1024_cascade": 40, "1536_cascade": 30, "1024": 100}
#: Runs of a job: with one step to warm up, measured, and bare.
_RUNS: Final = {True: 2.4, False: 1.4}


def run(session: Session) -> None:
    """Measure each type, with bare calls if there is time for them."""
    made = session.full()
    steps = 1 if session.is_tiny else 12
    for kind, (tokens, job_s) in KINDS.items():
        # Compiled blocks are in the model, where bare calls would find them.
        has_bare = not session.is_compiled and session.fits(job_s * _RUNS[True])
        needed_s = job_s * _RUNS[has_bare]
        if not session.fits(needed_s):
            left = f"no time: {session.left_s:.0f} s left, {needed_s:.0f} s on the modelled H100"
            session.row("job", type=kind, skipped=left)
            continue
        made.set_tokens(kind, TINY_TOKENS[kind] if session.is_tiny else tokens)
        session.attempt("warm-up", {"type": kind}, 0.0, lambda kind=kind: _warm(session, kind))
        measure_job(session, made, kind, steps, rounds=1, has_bare=has_bare)
        session.release()


def _warm(session: Session, kind: str) -> dict[str, float]:
    """Seconds of a first job with one step a sampler."""
    _, seconds, gib = session.meter.run(lambda: warm_up(session.full(), kind, session.size))
    return {"first_job_with_one_step_s": seconds, "peak_gib": gib}
