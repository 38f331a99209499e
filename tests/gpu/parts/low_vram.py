"""A '512' job with `low_vram` on against off: seconds, and bytes between host and device.

Does not know: how models move.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.gpu.full_model import build_model, warm_up
from tests.gpu.meter import GIB
from tests.gpu.sample_job import job
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES, SHARED_MODELS

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session

_512: Final = PIPELINE_TYPES["512"]
_NEEDED: Final = frozenset({*SHARED_MODELS, *_512.shape_models, _512.texture_model})


def run(session: Session) -> None:
    """Measure both; `off` is the engine that the other parts use."""
    for low_vram in (False, True):
        session.attempt(
            "low_vram",
            {"what": "on" if low_vram else "off"},
            20.0,
            lambda low_vram=low_vram: _measure(session, low_vram=low_vram),
        )
        session.release()


def _measure(session: Session, *, low_vram: bool) -> dict[str, Any]:
    if low_vram:
        made, build_s, _ = session.meter.run(
            lambda: build_model(session, low_vram=True, only=_NEEDED)
        )
    else:
        made, build_s = session.full(), 0.0
    made.set_tokens("512", 60 if session.is_tiny else 4_096)
    warm_up(made, "512", session.size)
    steps = 2 if session.is_tiny else 12
    jobs = [made.measure(session.meter, job("512", steps, session.size)) for _ in range(2)]
    seconds = min(each.seconds for each in jobs)
    row: dict[str, Any] = {"job_s": seconds, "peak_gib": max(each.gib for each in jobs)}
    row["weights_on_device_between_jobs_gib"] = session.meter.allocated() / GIB
    if low_vram:
        row["build_s"] = build_s
    return row | _copied(session, made)


def _copied(session: Session, made: FullModel) -> dict[str, Any]:
    """Bytes that a job copies, by PyTorch's profiler; one step, since weights move once."""
    if not session.is_cuda:
        return {"copied": "only on a GPU"}
    torch = session.torch
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        warm_up(made, "512", session.size)
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text("utf-8"))["traceEvents"]
    return copied_bytes(events)


def copied_bytes(events: list[dict[str, Any]]) -> dict[str, float]:
    """GB of copies in a profiler's trace, by direction and kind of host memory."""
    found: dict[str, float] = {}
    for event in events:
        if event.get("cat") != "gpu_memcpy":
            continue
        name = str(event.get("name", ""))
        direction = next((d for d in ("HtoD", "DtoH") if d in name), None)
        if direction is None:
            continue
        memory = "pinned" if "Pinned" in name else "pageable"
        key = f"{direction}_{memory}_gb"
        found[key] = found.get(key, 0.0) + event.get("args", {}).get("bytes", 0) / 1e9
    return found
