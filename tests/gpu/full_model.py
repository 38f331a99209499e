"""`FullModel`: the engine with random weights at full size, or tiny, and a job on it.

Does not know: what is compared, tables.
"""

from __future__ import annotations

import gc
import importlib
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from tests.gpu.meter import GIB, StageTimes
from tests.gpu.random_pipeline import build, replace_structure
from tests.gpu.sample_job import job, picture, silent
from trellis2_server.engines.trellis2 import Trellis2Engine
from trellis2_server.engines.trellis2.loaded_model import LoadedModel
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES
from trellis2_server.engines.trellis2.upstream import Upstream, import_upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tests.gpu.meter import Meter
    from tests.gpu.session import Session
    from trellis2_server.engines.trellis2.state import Trellis2State
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Shape, VoxelField
    from trellis2_server.parameters import Options


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredJob:
    """A job's results and what it took.

    Attributes:
        shape: of the first stage.
        field: of the second stage.
        times: of each stage's own stages.
        seconds: of both.
    """

    shape: Shape
    field: VoxelField
    times: dict[str, StageTimes]
    seconds: float

    @property
    def gib(self) -> float:
        """Peak, GiB."""
        return max(times.gib for times in self.times.values())


@dataclass(frozen=True, slots=True, eq=False)
class FullModel:
    """An engine and TRELLIS.2's pipeline in it.

    Attributes:
        upstream: TRELLIS.2.
        engine: without retries after out-of-memory, which is a result here.
        pipeline: TRELLIS.2's, which the engine uses.
    """

    upstream: Upstream
    engine: Trellis2Engine
    pipeline: Any

    def set_tokens(self, kind: str, tokens: int) -> None:
        """Let the structure of that pipeline type have so many voxels."""
        resolution = PIPELINE_TYPES[kind].structure_resolution
        replace_structure(self.upstream.torch, self.pipeline, resolution, tokens)

    def run(self, requested: Options) -> tuple[Shape, VoxelField]:
        """Both stages of a job."""
        shape = self.engine.shape(picture(), requested, silent)
        return shape, self.engine.texture(shape, picture(), requested, silent)

    def measure(
        self, meter: Meter, requested: Options, cutout: Cutout | None = None
    ) -> MeasuredJob:
        """Run both stages of a job, of the sample picture or another, and measure them."""
        first, second = StageTimes(meter), StageTimes(meter)

        def run(stage: Callable[..., Any], times: StageTimes, *inputs: Any) -> Any:
            made = stage(*inputs, cutout or picture(), requested, times)
            times.end()  # before the meter takes the peak
            return made

        shape, shape_s, _ = meter.run(partial(run, self.engine.shape, first))
        field, texture_s, _ = meter.run(partial(run, self.engine.texture, second, shape))
        times = {"shape": first, "texture": second}
        return MeasuredJob(shape, field, times, shape_s + texture_s)

    def measure_bare(self, meter: Meter, requested: Options) -> float:
        """Seconds of the calls of a job without this server."""
        bench: Any = importlib.import_module("bench.engine")
        image = Image.fromarray(picture().rgb)
        _, seconds, _ = meter.run(
            lambda: bench.bare(self.upstream.torch, self.pipeline, image, requested)
        )
        return seconds


def build_model(
    session: Session, *, low_vram: bool, only: Collection[str] | None = None
) -> FullModel:
    """Build an engine with random models.

    Args:
        session: device and size.
        low_vram: whether models stay on the CPU until they are needed.
        only: names of the models; None: all.
    """
    settings = session.settings(low_vram=low_vram)
    upstream = import_upstream(settings)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = build(
            upstream, session.size, session.device, Path(folder), low_vram=low_vram, only=only
        )
    engine = Trellis2Engine(settings, oom_fallback="none")
    engine.use(LoadedModel(upstream, pipeline))
    gc.collect()
    gc.freeze()  # as `load` does: garbage collections between jobs leave these objects out
    return FullModel(upstream, engine, pipeline)


def build_with_row(session: Session, *, low_vram: bool) -> FullModel:
    """Build an engine with all random models, and a row on it."""
    made, seconds, peak = session.meter.run(lambda: build_model(session, low_vram=low_vram))
    described = made.engine.describe().items()
    session.about(
        engine={k: v for k, v in described if not k.startswith("vram")},
        torch=session.torch.__version__,
        **({"name": session.torch.cuda.get_device_name()} if session.is_cuda else {}),
    )
    session.row(
        "weights",
        what="random weights of all models",
        build_s=seconds,
        gib=session.meter.allocated() / GIB,
        peak_gib=peak,
    )
    return made


def warm_up(made: FullModel, kind: str, size: str) -> None:
    """Run a job with one step a sampler."""
    made.run(job(kind, 1, size))


def measure_job(  # noqa: PLR0913 - a script
    session: Session, made: FullModel, kind: str, steps: int, *, rounds: int, has_bare: bool = True
) -> tuple[Shape, VoxelField] | None:
    """Measure a pipeline type: the engine and bare calls in turn, the shortest of each counts.

    Args:
        session: gets a row on the job and one for each stage.
        made: warm.
        kind: pipeline type.
        steps: of each sampler.
        rounds: runs of both.
        has_bare: whether the bare calls are measured too.

    Returns:
        The last result; None after an error.
    """
    requested = job(kind, steps, session.size)
    kept: dict[str, Any] = {}

    def work() -> dict[str, Any]:
        measured: list[MeasuredJob] = []
        bare_s: list[float] = []
        for _ in range(rounds):
            measured.append(made.measure(session.meter, requested))
            if has_bare:
                bare_s.append(made.measure_bare(session.meter, requested))
        last = kept["last"] = measured[-1]
        state = cast("Trellis2State", last.shape.state)
        row: dict[str, Any] = {
            "resolution": last.shape.resolution,
            "tokens": len(state.features),
            "voxels": len(last.field.coords),
            "faces": len(last.shape.mesh.faces),
            "steps": steps,
            "job_s": min(job.seconds for job in measured),
        }
        if has_bare:
            row["bare_s"] = min(bare_s)
            row["overhead_percent"] = 100 * (row["job_s"] / row["bare_s"] - 1)
        row |= {"peak_gib": last.gib, "state_mb": state.nbytes / 1e6}
        return row | {"low_vram": made.engine.describe()["low_vram"]}

    if session.attempt("job", {"type": kind}, 3.0, work) is None:
        return None
    last: MeasuredJob = kept["last"]
    for name, times in last.times.items():
        for stage, (seconds, gib) in times.measured.items():
            session.row("stages", type=kind, step=name, stage=stage, seconds=seconds, peak_gib=gib)
    return last.shape, last.field
