"""Overhead of the engine and the queue over direct calls of TRELLIS.2.

    TRELLIS2_HOME=path/to/TRELLIS.2 python bench/engine.py [--json FILE]
        [--types 1024_cascade,512]

Uses a random tiny checkpoint in a temporary folder, unless `--model` names another. Without
TRELLIS2_HOME it uses the tests' stand-in for TRELLIS.2, whose times mean little.

    types      both stages against the same calls made directly (`bare`), alternating; medians
               in seconds. On the CPU it is processor time of one thread, so that other
               programs do not count. `outside_percent` is the share of the stages that is
               not spent in TRELLIS.2's own calls
    small      wall-clock seconds of both stages of a '512' with 4 steps; the minimum
    queue      one 1024_cascade job through the queue, from the picture's bytes to the
               textured GLB (1024 px, 20,000 faces), against the direct calls; wall-clock
               seconds, the minimum of each, since other programs count here;
               `outside_stages_s` is the time of the job outside its two stages, `gap_ms` the
               median time that the device thread waits between them. Then eight such jobs at once:
               `device_idle_percent` is the share of the time between the first and the last
               stage in which no stage ran. `--trace FILE` writes what ran when, in Chrome's
               trace format: the single job of the last round, then the eight
    memory     with `--jobs 100`: that many short jobs, one after the other, and the memory of
               the process after the 20th and the last
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from bench import trace  # noqa: E402
from bench.record import Record, add_option  # noqa: E402
from trellis2_server.engines.trellis2 import Trellis2Engine, environment  # noqa: E402
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES  # noqa: E402
from trellis2_server.engines.trellis2.state import Trellis2State  # noqa: E402
from trellis2_server.engines.trellis2.upstream import import_upstream  # noqa: E402
from trellis2_server.inputs.images import Cutout, Cutter  # noqa: E402
from trellis2_server.jobs.manager import JobManager  # noqa: E402
from trellis2_server.parameters import Options, read_options  # noqa: E402
from trellis2_server.settings import ModelSettings, Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.jobs.job import Job
    from trellis2_server.mesh import Shape

#: Jobs that are submitted at once.
JOBS = 8
#: Jobs after which growing memory is a leak, not a cache.
SETTLED = 20
#: Methods of TRELLIS.2's pipeline that a job calls.
CALLS = (
    "get_cond",
    "sample_sparse_structure",
    "sample_shape_slat",
    "sample_shape_slat_cascade",
    "decode_shape_slat",
    "sample_tex_slat",
    "decode_tex_slat",
)


def silent(stage: str, step: int, steps: int) -> None:
    """Ignore a report."""


def picture(size: int) -> Cutout:
    """A disc in two colours."""
    rgba = np.zeros((size, size, 4), np.uint8)
    y, x = np.mgrid[:size, :size]
    disc = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 2 - 1) ** 2
    rgba[disc] = (200, 60, 40, 255)
    rgba[: size // 2][disc[: size // 2]] = (30, 90, 220, 255)
    return Cutout(rgba, "alpha")


def bare(torch: Any, pipeline: Any, image: Image.Image, requested: Options) -> None:
    """Make the calls of one job and copy their results to the CPU."""
    sets = [
        {"steps": o.sampling_steps, "guidance_strength": o.guidance_scale}
        for o in (requested.ss, requested.shape, requested.tex)
    ]
    kind = PIPELINE_TYPES[requested.pipeline_type]
    with torch.inference_mode():
        torch.manual_seed(requested.seed)
        low = pipeline.get_cond([image], 512)
        last = low if requested.pipeline_type == "512" else pipeline.get_cond([image], 1024)
        coords = pipeline.sample_sparse_structure(low, kind.structure_resolution, 1, sets[0])
        models = [pipeline.models[name] for name in kind.shape_models]
        if len(models) == 1:
            latent = pipeline.sample_shape_slat(last, models[0], coords, sets[1])
            resolution = kind.resolution
        else:
            latent, resolution = pipeline.sample_shape_slat_cascade(
                low, last, *models, 512, kind.resolution, coords, sets[1], requested.max_num_tokens
            )
        meshes, subdivisions = pipeline.decode_shape_slat(latent, resolution)
        _ = meshes[0].vertices.cpu().numpy(), meshes[0].faces.cpu().numpy()
        texture = pipeline.sample_tex_slat(
            last, pipeline.models[kind.texture_model], latent, sets[2]
        )
        voxels = pipeline.decode_tex_slat(texture, subdivisions)
        _ = voxels.coords.cpu().numpy(), voxels.feats.cpu().numpy()


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of some work, after a garbage collection."""
    gc.collect()
    start = clock()
    work()
    return clock() - start


@contextlib.contextmanager
def timed_calls(pipeline: Any, clock: Callable[[], float]) -> Generator[list[float], None, None]:
    """Within the block, the seconds of each of TRELLIS.2's own calls."""
    seconds: list[float] = []

    def with_time(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return call(*args, **kwargs)
            finally:
                seconds.append(clock() - start)

        return measured

    for name in CALLS:
        setattr(pipeline, name, with_time(getattr(pipeline, name)))
    try:
        yield seconds
    finally:
        for name in CALLS:
            delattr(pipeline, name)


def measure(
    made: Trellis2Engine, torch: Any, cutout: Cutout, requested: Options, rounds: int
) -> dict[str, Any]:
    """Medians of the direct calls and of the engine's stages."""
    image = Image.fromarray(cutout.rgb)
    times: dict[str, list[float]] = {"bare": [], "shape": [], "texture": [], "job": []}
    made_shape: list[Shape] = []

    def shape() -> None:
        made_shape[:] = [made.shape(cutout, requested, silent)]

    def texture() -> None:
        made.texture(made_shape[0], cutout, requested, silent)

    pipeline = pipeline_of(made)
    clock = time.process_time if pipeline.device.type == "cpu" else time.perf_counter
    bare(torch, pipeline, image, requested)
    for _ in range(rounds):
        times["bare"].append(timed(lambda: bare(torch, pipeline, image, requested), clock))
        times["shape"].append(timed(shape, clock))
        times["texture"].append(timed(texture, clock))
        times["job"].append(times["shape"][-1] + times["texture"][-1])
    with timed_calls(pipeline, clock) as calls:
        whole = timed(shape, clock) + timed(texture, clock)
    median = {name: statistics.median(values) for name, values in times.items()}
    differences = [job - base for job, base in zip(times["job"], times["bare"], strict=True)]
    state = made_shape[0].state
    assert isinstance(state, Trellis2State)
    return {
        **{f"{name}_s": round(value, 4) for name, value in median.items()},
        "overhead_percent": round(100 * statistics.median(differences) / median["bare"], 2),
        "outside_percent": round(100 * (1 - sum(calls) / whole), 2),
        "state_bytes": state.nbytes,
        "voxels": len(made_shape[0].mesh.vertices),
        "faces": len(made_shape[0].mesh.faces),
    }


def pipeline_of(made: Trellis2Engine) -> Any:
    """TRELLIS.2's pipeline of a loaded engine."""
    assert made._loaded is not None  # noqa: SLF001 - the same pipeline, without the engine
    return made._loaded.model.pipeline  # noqa: SLF001


def small(made: Trellis2Engine, cutout: Cutout, rounds: int) -> float:
    """Wall-clock seconds of a '512' with 4 steps."""
    steps = {f"{s}_sampling_steps": 4 for s in ("ss", "shape", "tex")}
    requested = read_options({"pipeline_type": "512", "seed": 7, **steps}, Settings())

    def job() -> None:
        made.texture(made.shape(cutout, requested, silent), cutout, requested, silent)

    return round(min(timed(job) for _ in range(rounds)), 3)


def memory(made: Trellis2Engine, cutout: Cutout, jobs: int) -> dict[str, Any]:
    """Memory of the process after some jobs and after all of them, MB; on Linux."""
    after: list[int] = []
    for seed in range(jobs):
        fields = {f"{s}_sampling_steps": 1 for s in ("ss", "shape", "tex")}
        requested = read_options({"pipeline_type": "512", "seed": seed, **fields}, Settings())
        made.texture(made.shape(cutout, requested, silent), cutout, requested, silent)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        after.append(pages * os.sysconf("SC_PAGE_SIZE"))
    settled = after[min(SETTLED, jobs) - 1]
    return {
        "jobs": jobs,
        "settled_mb": round(settled / 1e6, 1),
        "last_mb": round(after[-1] / 1e6, 1),
        "most_mb": round(max(after) / 1e6, 1),
    }


class LoadedEngine:
    """An engine that is loaded already."""

    def __init__(self, made: Trellis2Engine) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    def load(self, report: Any) -> None:
        """Do nothing."""


async def through_the_queue(  # noqa: PLR0913, PLR0917 - a script
    made: Trellis2Engine,
    torch: Any,
    cutout: Cutout,
    fields: dict[str, Any],
    rounds: int,
    trace_file: Path | None = None,
) -> dict[str, Any]:
    """From the picture to the textured GLB: one job, and eight at once."""
    executor = trace.TracedExecutor(LoadedEngine(made), Cutter(), Settings())
    with trace.transfers_recorded(executor):
        found, only_one = await _queue(executor, made, torch, cutout, fields, rounds)
    if trace_file:
        executor.trace.spans[:0] = only_one.spans
        executor.trace.write(trace_file)
    return found


async def _queue(  # noqa: PLR0913, PLR0917 - a script
    executor: trace.TracedExecutor,
    made: Trellis2Engine,
    torch: Any,
    cutout: Cutout,
    fields: dict[str, Any],
    rounds: int,
) -> tuple[dict[str, Any], trace.Trace]:
    settings = Settings()
    manager = JobManager(executor, settings)
    manager.start()
    while not manager.is_idle:  # noqa: ASYNC110 - nothing else runs
        await asyncio.sleep(0.05)
    file = io.BytesIO()
    Image.fromarray(cutout.rgba).save(file, "PNG")
    fields |= {"texture_size": 1024, "decimation_target": 20_000}

    async def job(seed: int) -> Job:
        options = read_options({**fields, "seed": seed}, settings)
        sent = await manager.submissions.submit(file.getvalue(), options, texture=True)
        return await manager.waiter.wait_for_texture(sent)

    seeds = iter(range(1, 1000))
    requested = read_options({**fields, "seed": 0}, settings)
    pipeline, image = pipeline_of(made), Image.fromarray(cutout.rgb)
    await job(next(seeds))
    alone: list[float] = []
    bare_s: list[float] = []
    stages_s: list[float] = []
    gaps_s: list[float] = []
    for _ in range(rounds):
        gc.collect()
        bare_s.append(timed(lambda: bare(torch, pipeline, image, requested)))
        executor.trace = trace.Trace()
        begin = time.perf_counter()
        await job(next(seeds))
        alone.append(time.perf_counter() - begin)
        shape, texture = executor.trace.of(*trace.DEVICE_STEPS)
        stages_s.append(sum(step.end - step.begin for step in (shape, texture)))
        gaps_s.append(trace.gap_s(shape, texture))
    only_one = executor.trace
    executor.trace = trace.Trace()
    begin = time.perf_counter()
    done = await asyncio.gather(*(job(next(seeds)) for _ in range(JOBS)))
    all_s = time.perf_counter() - begin
    await manager.close()
    device = executor.trace.of(*trace.DEVICE_STEPS)
    found = {
        "bare_s": round(min(bare_s), 3),
        "picture_to_textured_glb_s": round(min(alone), 3),
        "over_bare_s": round(min(alone) - min(bare_s), 3),
        "outside_stages_s": round(min(a - s for a, s in zip(alone, stages_s, strict=True)), 3),
        "gap_ms": round(1000 * statistics.median(gaps_s), 1),
        "glb_bytes": done[0].textured_glb.size if done[0].textured_glb else 0,
        "jobs_at_once": JOBS,
        "all_done_s": round(all_s, 3),
        "device_idle_percent": round(trace.idle_percent(device), 2),
    }
    return found, only_one


def main() -> None:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--types", default=",".join(PIPELINE_TYPES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=0, help="jobs for the memory; 0: not measured")
    parser.add_argument("--no-queue", action="store_true", help="do not measure the queue")
    parser.add_argument("--trace", type=Path, help="write a timeline of the queue there")
    parser.add_argument("--model", help="folder of a checkpoint; default: a random tiny one")
    arguments = parser.parse_args()
    record = Record(__file__, arguments)

    home = os.environ.get(environment.HOME_VARIABLE) or str(ROOT / "tests" / "support" / "standin")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        settings = ModelSettings(
            engine="trellis2",
            model_path=arguments.model or folder,
            device=arguments.device,
            trellis2_path=home,
        )
        torch = import_upstream(settings).torch
        torch.set_num_threads(arguments.threads)
        if not arguments.model:
            importlib.import_module("tests.support.tiny_checkpoint").write(Path(folder))
        made = Trellis2Engine(settings)
        load_s = timed(lambda: made.load(silent))
        steps = {f"{s}_sampling_steps": arguments.steps for s in ("ss", "shape", "tex")}
        results = {
            kind: measure(
                made,
                torch,
                picture(512),
                read_options({"pipeline_type": kind, "seed": 7, **steps}, Settings()),
                arguments.rounds,
            )
            for kind in filter(None, arguments.types.split(","))
        }
        more: dict[str, Any] = {"small_s": small(made, picture(512), arguments.rounds)}
        if arguments.jobs:
            more["memory"] = memory(made, picture(512), arguments.jobs)
        if not arguments.no_queue:
            cascade = {"pipeline_type": "1024_cascade", **steps}
            more["queue"] = asyncio.run(
                through_the_queue(
                    made, torch, picture(512), cascade, arguments.rounds, arguments.trace
                )
            )
    package = "stand-in" if home.endswith("standin") else "TRELLIS.2"
    record.add("load", {"package": package, "load_s": round(load_s, 3)})
    for kind, row in results.items():
        record.add("types", {"type": kind} | row)
    record.add("small", {"small_s": more["small_s"]})
    for name in ("memory", "queue"):
        if name in more:
            record.add(name, more[name])
    print(f"{package}, torch {torch.__version__}, {arguments.device}, {arguments.steps} steps")
    for kind, row in results.items():
        print(f"{kind:14}", "  ".join(f"{name} {value}" for name, value in row.items()))
    print(f"small          512 with 4 steps {more['small_s']} s")
    for name in ("memory", "queue"):
        if name in more:
            print(f"{name:14}", "  ".join(f"{key} {value}" for key, value in more[name].items()))


if __name__ == "__main__":
    main()
