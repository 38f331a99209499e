"""One '512' job at about 4,000 tokens: the engine and bare calls in turn, then its export.

Does not know: other pipeline types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.gpu.full_model import measure_job, warm_up
from tests.gpu.sample_job import job, silent
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session
    from trellis2_server.mesh import Shape, VoxelField

#: Typical of a picture at 512.
TOKENS = 4_096
TINY_TOKENS = 60
STEPS = 12
TINY_STEPS = 2


def run(session: Session) -> None:
    """Measure the job, then its export."""
    made = session.full()
    made.set_tokens("512", TINY_TOKENS if session.is_tiny else TOKENS)
    steps = TINY_STEPS if session.is_tiny else STEPS
    warm_up(made, "512", session.size)
    results = measure_job(session, made, "512", steps, rounds=2)
    if results is None:
        return
    if not _has_exporter():
        session.row("export", what="export", skipped="numba is not installed")
        return
    session.compile_exporter()
    for what in ("first", "second"):
        session.attempt("export", {"what": what}, 5.0, lambda: export(session, made, *results))


def export(session: Session, made: FullModel, shape: Shape, field: VoxelField) -> dict[str, Any]:
    """Export a job's both files; return seconds and bytes."""
    from trellis2_server import pipeline

    requested = job("512", 1, session.size)
    (geometry, first), first_s, _ = session.meter.run(
        lambda: pipeline.export_shape(made.engine, shape, requested, silent)
    )
    second, second_s, gib = session.meter.run(
        lambda: pipeline.export_model(
            made.engine, geometry, field, requested, Settings().export, silent
        )
    )
    return {
        "untextured_s": first_s,
        "textured_s": second_s,
        "peak_gib": gib,
        "untextured_mb": len(first) / 1e6,
        "textured_mb": len(second) / 1e6,
        "faces": len(geometry.mesh.faces),
    }


def _has_exporter() -> bool:
    from tests.gpu import needs

    return not needs.missing(("numba",))
