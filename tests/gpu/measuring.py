"""Time and memory of a pipeline type's stages and export, and memory that is not freed."""

from __future__ import annotations

import gc
import importlib
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.gpu.random_pipeline import replace_structure
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES
from trellis2_server.inputs.images import Cutout
from trellis2_server.parameters import Options, read_options
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.engines.trellis2 import Trellis2Engine
    from trellis2_server.mesh import Shape, VoxelField

GIB = 2**30
#: Pipeline type → tokens of the structure. A cascade multiplies them by 4 up to 1024 and by 9
#: up to 1536, since each voxel becomes a sheet.
TOKENS = {"512": 10_000, "1024": 25_000, "1024_cascade": 6_250, "1536_cascade": 5_450}
TINY_TOKENS = {"512": 60, "1024": 100, "1024_cascade": 40, "1536_cascade": 30}


def silent(stage: str, step: int, steps: int) -> None:
    """Ignore a report."""


class Meter:
    """Seconds and peak memory of work on a device."""

    def __init__(self, torch: Any, device: str) -> None:
        self._cuda = torch.cuda if device.startswith("cuda") else None
        self._mps = torch.mps if device == "mps" else None

    def allocated(self) -> int:
        """Bytes in use."""
        if self._mps:
            return self._mps.current_allocated_memory()
        return self._cuda.memory_allocated() if self._cuda else 0

    def now(self) -> float:
        """Wait for the device; return the clock, seconds."""
        for backend in (self._cuda, self._mps):
            if backend:
                backend.synchronize()
        return time.perf_counter()

    def peak(self) -> float:
        """Peak since the last call, GiB."""
        if self._cuda is None:
            return 0.0
        peak = self._cuda.max_memory_allocated() / GIB
        self._cuda.reset_peak_memory_stats()
        return peak

    def run(self, work: Callable[[], Any]) -> tuple[Any, float, float]:
        """Run work; return its result, its seconds and its peak, GiB."""
        gc.collect()
        self.peak()
        start = self.now()
        result = work()
        return result, self.now() - start, self.peak()


class StageTimes:
    """A report that measures each stage of a job.

    Attributes:
        measured: stage → seconds, and peak in GiB.
    """

    def __init__(self, meter: Meter) -> None:
        self.measured: dict[str, tuple[float, float]] = {}
        self._meter = meter
        self._stage = ""
        self._began = 0.0

    def __call__(self, stage: str, step: int, steps: int) -> None:
        """Wait for the device at the end of a stage, not after its steps."""
        del step, steps
        if stage != self._stage:
            self.end()
            self._stage, self._began = stage, self._meter.now()

    def end(self) -> None:
        """End the last stage."""
        now, peak = self._meter.now(), self._meter.peak()
        if self._stage:
            self.measured[self._stage] = (now - self._began, peak)
        self._stage = ""

    @property
    def gib(self) -> float:
        """Peak of all stages, GiB."""
        return max(peak for _, peak in self.measured.values())


def picture() -> Cutout:
    """A disc in two colours."""
    rgba = np.zeros((1024, 1024, 4), np.uint8)
    y, x = np.mgrid[:1024, :1024]
    disc = (y - 512) ** 2 + (x - 512) ** 2 < 511**2
    rgba[disc] = (200, 60, 40, 255)
    rgba[:512][disc[:512]] = (30, 90, 220, 255)
    return Cutout(rgba, "alpha")


def job(kind: str, steps: int, size: str, seed: int = 1) -> Options:
    """Options of a request."""
    return read_options(
        {
            "pipeline_type": kind,
            "seed": seed,
            "max_num_tokens": 65_536,
            "texture_size": 2048 if size == "full" else 256,
            **{f"{s}_sampling_steps": steps for s in ("ss", "shape", "tex")},
        },
        Settings(),
    )


def measure_type(  # noqa: PLR0913, PLR0917 - a script
    torch: Any,
    made: Trellis2Engine,
    pipeline: Any,
    meter: Meter,
    kind: str,
    steps: int,
    size: str,
    rounds: int,
) -> dict[str, Any]:
    """Measure a pipeline type; print and return its row."""
    bench: Any = importlib.import_module("engine")  # bench/engine.py
    tokens = TOKENS if size == "full" else TINY_TOKENS
    replace_structure(torch, pipeline, PIPELINE_TYPES[kind].structure_resolution, tokens[kind])
    requested = job(kind, steps, size)
    cutout = picture()
    image = Image.fromarray(cutout.rgb)
    row: dict[str, Any] = {"type": kind}
    begun = time.perf_counter()
    try:
        once = job(kind, 1, size)
        made.texture(made.shape(cutout, once, silent), cutout, once, silent)  # warms up
        for number in range(rounds):  # both ways alternate; the minimum counts
            first, second = StageTimes(meter), StageTimes(meter)
            shape, shape_s, _ = meter.run(partial(made.shape, cutout, requested, first))
            first.end()
            field, texture_s, _ = meter.run(partial(made.texture, shape, cutout, requested, second))
            second.end()
            _, bare_s, row["bare_gib"] = meter.run(
                lambda: bench.bare(torch, pipeline, image, requested)
            )
            new = {"shape_s": shape_s, "texture_s": texture_s, "bare_s": bare_s}
            row |= {k: min(v, row[k]) if number else v for k, v in new.items()}
    except Exception as error:  # noqa: BLE001 - the other rows follow
        row["error"] = f"{type(error).__name__}: {error}"[:200]
    else:
        row["job_s"] = row["shape_s"] + row["texture_s"]
        row["overhead_percent"] = 100 * (row["job_s"] / row["bare_s"] - 1)
        row |= {"shape_gib": first.gib, "texture_gib": second.gib}
        row["stages"] = {
            f"{name} {stage}": measured
            for name, stages in (("shape", first), ("texture", second))
            for stage, measured in stages.measured.items()
        }
        row["resolution"] = shape.resolution
        row["tokens"] = len(shape.state.features)
        row["voxels"], row["faces"] = len(field.coords), len(shape.mesh.faces)
        row["state_mb"] = shape.state.nbytes / 1e6
        row |= _export(shape, field, requested, made, meter)
    row["low_vram"] = pipeline.low_vram
    row["in_all_s"] = time.perf_counter() - begun
    print(json.dumps(row), flush=True)
    return row


def find_leaks(made: Trellis2Engine, meter: Meter, steps: int, size: str) -> list[int]:
    """Bytes on the device after each of ten jobs, with the voxels of the last type."""
    after: list[int] = []
    for seed in range(10):
        requested = job("512", steps, size, seed)
        made.texture(made.shape(picture(), requested, silent), picture(), requested, silent)
        gc.collect()
        after.append(meter.allocated())
    return after


def _export(
    shape: Shape, field: VoxelField, requested: Options, made: Trellis2Engine, meter: Meter
) -> dict[str, Any]:
    """Seconds of this server's exporter and its peak on the device, GiB, or why it failed."""
    from trellis2_server import pipeline

    try:
        (geometry, _), first, _ = meter.run(
            lambda: pipeline.export_shape(made, shape, requested, silent)
        )
        _, second, gib = meter.run(
            lambda: pipeline.export_model(
                made, geometry, field, requested, Settings().export, silent
            )
        )
    except Exception as error:  # noqa: BLE001 - the other rows follow
        return {"export_error": f"{type(error).__name__}: {error}"[:200]}
    return {"export_shape_s": first, "export_model_s": second, "export_gib": gib}
