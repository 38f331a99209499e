"""TRELLIS.2 at full size on a GPU, with random weights: right, how fast, how much memory.

    TRELLIS2_HOME=path/to/TRELLIS.2 python tests/gpu/run.py [--device cuda]
        [--markdown docs/gpu.md] [--json FILE] [--types 512,1024] [--low-vram] [--steps 12]

Needs a clone of TRELLIS.2, PyTorch, transformers, and nothing else: no weights, no compiled
extensions. The weights take about 16 GB of the device's memory; `--low-vram` keeps them on
the CPU until they are needed. Rows are printed as they
come, and a type that fails is a row that says why. In one call it

1. holds each stand-in against a float64 reference on the device,
2. builds all of TRELLIS.2's models at their real size with random weights,
3. runs the stages of the four pipeline types through the adapter at fixed numbers of tokens
   and measures time and peak memory of each, and the same calls made bare,
4. exports each result,
5. runs ten more jobs and looks for memory that does not come back, and
6. prints all of it as tables, and ends with 1 if anything failed or is over its limit.

Random weights make no object. So the structure model runs as it is, and its result is
replaced by voxels on a sphere; and the decoder is biased to divide each voxel into a sheet,
which makes about as many voxels as a real surface has.

`--size tiny --device cpu` runs the same on any machine, to see that the script works.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from trellis2_server.engines.trellis2 import Trellis2Engine, engine, environment, loading  # noqa: E402
from trellis2_server.engines.trellis2.encoder import ImageEncoder  # noqa: E402
from trellis2_server.inputs.images import Cutout  # noqa: E402
from trellis2_server.parameters import Options, read_options  # noqa: E402
from trellis2_server.settings import ModelSettings, Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trellis2_server.mesh import Shape, VoxelField

GIB = 2**30
#: Pipeline type → tokens of the structure, and what they become: 4 times as many in the
#: 1024 cascade, 9 times in the 1536 one, each voxel being a sheet.
TOKENS = {"512": 10_000, "1024": 25_000, "1024_cascade": 6_250, "1536_cascade": 5_450}
#: What ten jobs may leave: the caches of libraries that fill up as they are used.
LEAK_BYTES = 16 * 2**20
#: Largest relative error of a stand-in, by what its name ends with: a rounding or two.
LIMITS = {"float32": 2e-5, "bfloat16": 1.6e-2, ".float16": 2e-3, "CPU's": 0.0}
TINY_TOKENS = {"512": 60, "1024": 100, "1024_cascade": 40, "1536_cascade": 30}

_FLOW = {
    "model_channels": 1536,
    "cond_channels": 1024,
    "num_blocks": 30,
    "num_heads": 12,
    "mlp_ratio": 5.3334,
    "pe_mode": "rope",
    "share_mod": True,
    "initialization": "scaled",
    "qk_rms_norm": True,
    "qk_rms_norm_cross": True,
    "dtype": "bfloat16",
}
_DECODER = {
    "model_channels": [1024, 512, 256, 128, 64],
    "latent_channels": 32,
    "num_blocks": [4, 16, 8, 4, 0],
    "block_type": ["SparseConvNeXtBlock3d"] * 5,
    "up_block_type": ["SparseResBlockC2S3d"] * 4,
    "block_args": [{"use_checkpoint": False}] * 5,
    "use_fp16": True,
}


def _slat(resolution: int, in_channels: int) -> tuple[str, dict[str, Any]]:
    return "SLatFlowModel", {
        **_FLOW,
        "resolution": resolution,
        "in_channels": in_channels,
        "out_channels": 32,
    }


def full_models() -> dict[str, tuple[str, dict[str, Any]]]:
    """Class and arguments of each model, as TRELLIS.2's own configurations give them."""
    return {
        "sparse_structure_flow_model": (
            "SparseStructureFlowModel",
            {**_FLOW, "resolution": 16, "in_channels": 8, "out_channels": 8},
        ),
        "sparse_structure_decoder": (
            "SparseStructureDecoder",
            {
                "out_channels": 1,
                "latent_channels": 8,
                "num_res_blocks": 2,
                "num_res_blocks_middle": 2,
                "channels": [512, 128, 32],
                "use_fp16": True,
            },
        ),
        "shape_slat_flow_model_512": _slat(32, 32),
        "shape_slat_flow_model_1024": _slat(64, 32),
        "shape_slat_decoder": ("FlexiDualGridVaeDecoder", {**_DECODER, "resolution": 256}),
        "tex_slat_flow_model_512": _slat(32, 64),
        "tex_slat_flow_model_1024": _slat(64, 64),
        "tex_slat_decoder": (
            "SparseUnetVaeDecoder",
            {**_DECODER, "out_channels": 6, "pred_subdiv": False},
        ),
    }


def silent(stage: str, step: int, steps: int) -> None:
    """A report that nobody reads."""


# ---- 1. the stand-ins ----------------------------------------------------------------------


def relative(got: Any, expected: Any) -> float:
    """Norm of the difference over the norm."""
    return float((got.double() - expected).norm() / expected.norm())


def check_standins(torch: Any, device: str, channels: int) -> dict[str, float]:
    """Relative error of each against float64, on the device.

    Args:
        torch: PyTorch.
        device: its name of it.
        channels: of the convolution; 1024 make the longest sums that TRELLIS.2 has.
    """
    from trellis2_server.engines.portable import attention, convolution, dualgrid, sampling

    double = torch.float64 if device.partition(":")[0] != "mps" else torch.float32
    torch.manual_seed(0)
    errors: dict[str, float] = {}
    size = 24
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), *[torch.arange(size)] * 3)
    coords = grid[torch.rand(len(grid)) < 0.3].int().to(device)
    b, x, y, z = coords.long().unbind(1)
    feats = torch.randn(len(coords), channels, device=device)
    weight = torch.randn(channels, 3, 3, 3, channels, device=device) / (9 * channels) ** 0.5
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        f, w = feats.to(dtype), weight.to(dtype)
        dense = torch.zeros(1, channels, size, size, size, dtype=double, device=device)
        dense[b, :, x, y, z] = f.to(double)
        kernel = w.to(double).permute(0, 4, 1, 2, 3)
        expected = torch.nn.functional.conv3d(dense, kernel, padding=1)[b, :, x, y, z]
        got, _ = convolution.sparse_submanifold_conv3d(f, coords, (), w)
        errors[f"convolution {dtype}"] = relative(got, expected)

        qkv = torch.randn(3000, 3, 12, 128, device=device, dtype=dtype)
        bounds = torch.tensor([0, 1000, 3000], dtype=torch.int32, device=device)
        got = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, 2000)
        parts = []
        for rows in (slice(0, 1000), slice(1000, 3000)):
            q, k, v = (t.transpose(0, 1) for t in qkv[rows].to(double).unbind(1))
            parts.append(((q @ k.transpose(1, 2) / 128**0.5).softmax(-1) @ v).transpose(0, 1))
        errors[f"attention {dtype}"] = relative(got, torch.cat(parts))

    points = torch.rand(1, 5000, 3, device=device) * (size - 1) + 0.5
    full = grid.int().to(device)
    values = torch.randn(len(full), 6, device=device)
    volume = torch.zeros(1, 6, size, size, size, dtype=double, device=device)
    _, x, y, z = full.long().unbind(1)
    volume[0, :, z, y, x] = values.to(double).t()
    where = (points / size * 2 - 1).to(double).view(1, 1, 1, -1, 3)
    expected = torch.nn.functional.grid_sample(volume, where, align_corners=False)
    got = sampling.grid_sample_3d(values, full, (), points)[0]
    errors["grid sample torch.float32"] = relative(got, expected[0, :, 0, 0].t())

    flags, split = torch.rand(len(coords), 3) > 0.5, torch.rand(len(coords), 1)
    faces = [
        dualgrid.flexible_dual_grid_to_mesh(
            coords[:, 1:].to(place),
            torch.zeros(len(coords), 3, device=place),
            flags.to(place),
            split.to(place),
            aabb=[[0.0] * 3, [1.0] * 3],
            grid_size=size,
        )[1].cpu()
        for place in (device, "cpu")
    ]
    errors["dual grid, faces that differ from the CPU's"] = float((faces[0] != faces[1]).sum())
    return errors


# ---- 2. the models -------------------------------------------------------------------------


def build(up: environment.Upstream, size: str, device: str, folder: Path, *, low_vram: bool) -> Any:
    """A pipeline of random models on the device."""
    tiny: Any = importlib.import_module("tests.support.tiny_checkpoint")
    if size == "tiny":
        table = {
            name: (config["name"], config["args"])
            for name, config in tiny.models("float32", use_fp16=False).items()
        }
    else:
        table = full_models()
    torch = up.torch
    models: dict[str, Any] = {}
    for name, (kind, args) in table.items():
        with torch.device(device), loading._NoInitialValues.mode(torch):
            model = getattr(up.models, kind)(**args)
        with torch.no_grad():
            for parameter in model.parameters():
                width = parameter[0].numel() if parameter.dim() > 1 else 0
                parameter.normal_(std=0.5 / width**0.5 if width else 0.05)
            if name == "shape_slat_decoder":
                for level in model.blocks[:-1]:
                    subdivide = level[-1].to_subdiv
                    subdivide.weight.mul_(0.05)
                    subdivide.bias.copy_(torch.tensor([2.0] * 4 + [-2.0] * 4))
                model.output_layer.bias[5] = 1.0
        models[name] = model.eval().requires_grad_(requires_grad=False)
        models[name].to("cpu" if low_vram else device)
    widths = {"tiny": (tiny.COND_CHANNELS, 2, 2), "full": (1024, 24, 16)}
    write_encoder(folder, *widths[size])
    args = tiny._pipeline(folder, list(table))["args"]
    pipeline = up.pipeline(
        models=models,
        **{name: loading._sampler(up, args[name]) for name in loading.SAMPLERS},
        **{f"{name}_params": args[name]["params"] for name in loading.SAMPLERS},
        shape_slat_normalization=args["shape_slat_normalization"],
        tex_slat_normalization=args["tex_slat_normalization"],
        image_cond_model=ImageEncoder(str(folder)),
        low_vram=low_vram,
    )
    pipeline.to(torch.device(device))
    return pipeline


def write_encoder(folder: Path, width: int, layers: int, heads: int) -> None:
    """A DINOv3 of that size, random."""
    transformers: Any = importlib.import_module("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_register_tokens=4,
        patch_size=16,
        image_size=512,
    )
    transformers.DINOv3ViTModel(config).save_pretrained(folder)


def sphere(torch: Any, resolution: int, tokens: int) -> Any:
    """So many voxels nearest to a sphere, int32 [tokens, 4]."""
    grid = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    away = ((grid - (resolution - 1) / 2).float().norm(dim=1) - 0.4 * resolution).abs()
    voxels = grid[away.argsort(stable=True)[:tokens].sort().values]
    return torch.cat([torch.zeros(len(voxels), 1, dtype=torch.long), voxels], dim=1).int()


# ---- 3. to 5. ------------------------------------------------------------------------------


class Meter:
    """Seconds and peak memory of what runs on a device."""

    def __init__(self, torch: Any, device: str) -> None:
        self._cuda = torch.cuda if device.startswith("cuda") else None
        self._mps = torch.mps if device == "mps" else None

    def allocated(self) -> int:
        """Bytes in use."""
        if self._mps:
            return self._mps.current_allocated_memory()
        return self._cuda.memory_allocated() if self._cuda else 0

    def now(self) -> float:
        """Seconds of the clock, when all that was begun on the device is done."""
        for backend in (self._cuda, self._mps):
            if backend:
                backend.synchronize()
        return time.perf_counter()

    def peak(self) -> float:
        """GiB at most since it was last asked."""
        if self._cuda is None:
            return 0.0
        peak = self._cuda.max_memory_allocated() / GIB
        self._cuda.reset_peak_memory_stats()
        return peak

    def run(self, work: Callable[[], Any]) -> tuple[Any, float, float]:
        """What it returns, seconds, and GiB at most."""
        gc.collect()
        self.peak()
        start = self.now()
        result = work()
        return result, self.now() - start, self.peak()


class Stages:
    """A report that measures each stage of a job.

    Attributes:
        measured: stage → seconds, and GiB at most.
    """

    def __init__(self, meter: Meter) -> None:
        self.measured: dict[str, tuple[float, float]] = {}
        self._meter = meter
        self._stage = ""
        self._began = 0.0

    def __call__(self, stage: str, step: int, steps: int) -> None:
        """Stages wait for the device at their ends, steps do not."""
        del step, steps
        if stage != self._stage:
            self.end()
            self._stage, self._began = stage, self._meter.now()

    def end(self) -> None:
        """The last one is over."""
        now, peak = self._meter.now(), self._meter.peak()
        if self._stage:
            self.measured[self._stage] = (now - self._began, peak)
        self._stage = ""

    @property
    def gib(self) -> float:
        """At most, of all of them."""
        return max(peak for _, peak in self.measured.values())


def picture() -> Cutout:
    """A disc in two colours."""
    rgba = np.zeros((1024, 1024, 4), np.uint8)
    y, x = np.mgrid[:1024, :1024]
    disc = (y - 512) ** 2 + (x - 512) ** 2 < 511**2
    rgba[disc] = (200, 60, 40, 255)
    rgba[:512][disc[:512]] = (30, 90, 220, 255)
    return Cutout(rgba, "alpha")


def export(
    shape: Shape, field: VoxelField, asked: Options, made: Trellis2Engine, meter: Meter
) -> dict[str, Any]:
    """Seconds of our exporter and GiB of the device at most, or why it did not run."""
    from trellis2_server import pipeline as story

    try:
        (geometry, _), first, _ = meter.run(lambda: story.export_shape(made, shape, asked, silent))
        _, second, gib = meter.run(
            lambda: story.export_model(made, geometry, field, asked, Settings().export, silent)
        )
    except Exception as error:  # noqa: BLE001 - the table goes on
        return {"export_error": f"{type(error).__name__}: {error}"[:200]}
    return {"export_shape_s": first, "export_model_s": second, "export_gib": gib}


def job(kind: str, steps: int, size: str, seed: int = 1) -> Options:
    """What a request would ask for."""
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


def run_type(  # noqa: PLR0913, PLR0917 - a script
    torch: Any,
    made: Trellis2Engine,
    meter: Meter,
    kind: str,
    steps: int,
    size: str,
    rounds: int,
) -> dict[str, Any]:
    """The row of a pipeline type."""
    bare: Any = importlib.import_module("engine")  # bench/engine.py
    pipeline = made._pipeline
    tokens = TOKENS if size == "full" else TINY_TOKENS
    voxels = sphere(torch, engine.PLANS[kind].structure_resolution, tokens[kind])

    def structure(*args: Any) -> Any:
        type(pipeline).sample_sparse_structure(pipeline, *args)
        return voxels.to(pipeline.device)

    pipeline.sample_sparse_structure = structure
    asked = job(kind, steps, size)
    cutout = picture()
    image = Image.fromarray(cutout.rgb)
    row: dict[str, Any] = {"type": kind}
    begun = time.perf_counter()
    try:
        once = job(kind, 1, size)
        made.texture(made.shape(cutout, once, silent), cutout, once, silent)  # warms up
        for number in range(rounds):  # the ways take turns; the shortest count
            first, second = Stages(meter), Stages(meter)
            shape, shape_s, _ = meter.run(partial(made.shape, cutout, asked, first))
            first.end()
            field, texture_s, _ = meter.run(partial(made.texture, shape, cutout, asked, second))
            second.end()
            _, bare_s, row["bare_gib"] = meter.run(lambda: bare.bare(torch, pipeline, image, asked))
            new = {"shape_s": shape_s, "texture_s": texture_s, "bare_s": bare_s}
            row |= {k: min(v, row[k]) if number else v for k, v in new.items()}
    except Exception as error:  # noqa: BLE001 - the table goes on
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
        row["kept_mb"] = shape.state.nbytes / 1e6
        row |= export(shape, field, asked, made, meter)
    row["low_vram"] = pipeline.low_vram
    row["in_all_s"] = time.perf_counter() - begun
    print(json.dumps(row), flush=True)
    return row


def find_leaks(made: Trellis2Engine, meter: Meter, steps: int, size: str) -> list[int]:
    """Bytes on the device after each of ten jobs, with the voxels of the last type."""
    after: list[int] = []
    for seed in range(10):
        asked = job("512", steps, size, seed)
        made.texture(made.shape(picture(), asked, silent), picture(), asked, silent)
        gc.collect()
        after.append(meter.allocated())
    return after


def main() -> int:
    """All of it, and tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2, help="of each measurement")
    parser.add_argument("--types", default=",".join(engine.PLANS))
    parser.add_argument("--low-vram", action="store_true", help="models on the CPU until needed")
    parser.add_argument("--json", type=Path, help="write all figures there, after each type")
    parser.add_argument("--markdown", type=Path, help="write the tables there: docs/gpu.md")
    given = parser.parse_args()
    settings = ModelSettings(
        engine="trellis2",
        device=given.device,
        trellis2_path=os.environ.get(environment.HOME_VARIABLE),
    )
    up = environment.import_upstream(settings)
    torch = up.torch
    name = given.device
    if name.startswith("cuda"):
        torch.cuda.set_device(given.device if ":" in given.device else 0)
        properties = torch.cuda.get_device_properties(given.device)
        name = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    meter = Meter(torch, given.device)
    report: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "size": given.size,
        "steps": given.steps,
        "extensions": {e.name: e.kind for e in up.extensions},
    }
    print(json.dumps(report), flush=True)
    with torch.inference_mode():
        report["errors"] = check_standins(torch, given.device, 1024 if given.size == "full" else 64)
    print(json.dumps(report["errors"]), flush=True)
    # What does not fit is to be seen, not to be tried again with less.
    made = Trellis2Engine(settings, oom_fallback="none")
    with tempfile.TemporaryDirectory() as folder:
        pipeline, report["build_s"], report["build_gib"] = meter.run(
            lambda: build(up, given.size, given.device, Path(folder), low_vram=given.low_vram)
        )
    made._upstream, made._pipeline = up, pipeline
    report["weights_gib"] = meter.allocated() / GIB
    print(f"built in {report['build_s']:.0f} s", flush=True)
    gc.freeze()  # as after a load: the search for garbage between jobs leaves this out
    report["types"] = []
    for kind in given.types.split(","):
        row = run_type(torch, made, meter, kind, given.steps, given.size, given.rounds)
        report["types"].append(row)
        if given.json:
            given.json.write_text(json.dumps(report, indent=1))
    try:
        after = find_leaks(made, meter, min(given.steps, 2), given.size)
    except Exception as error:  # noqa: BLE001 - the tables come all the same
        report["leaks_error"] = f"{type(error).__name__}: {error}"[:200]
    else:
        report["allocated_after_each_job"] = after
    text = tables(report)
    print(f"\n{text}")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))
    if given.markdown:
        given.markdown.write_text(text)
    return 1 if any(problems(report)) else 0


def limit(name: str) -> float:
    """The largest error of what has that name."""
    return next(most for end, most in LIMITS.items() if name.endswith(end))


def problems(report: dict[str, Any]) -> Iterator[str]:
    """What failed, or is not as it should be."""
    for name, error in report["errors"].items():
        if not error <= limit(name):
            yield f"{name}: {error:.1e} is over {limit(name):.1e}"
    for row in report["types"]:
        for key in ("error", "export_error"):
            if key in row:
                yield f"{row['type']}: {row[key]}"
    if "leaks_error" in report:
        yield f"ten jobs: {report['leaks_error']}"
    after = report.get("allocated_after_each_job", [0])
    if after[-1] > after[0] + LEAK_BYTES:
        yield f"ten jobs: {after[-1] - after[0]} bytes did not come back"


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns)]
    lines += [[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables(report: dict[str, Any]) -> str:
    """All that was found, as a document."""
    flags = {"full": "", "tiny": "tiny "}[report["size"]]
    standins = [name for name, kind in report["extensions"].items() if kind != "real"]
    text = (
        f"# TRELLIS.2 on {report['device']}\n\n"
        f"By `tests/gpu/run.py`: PyTorch {report['torch']}, Python {report['python']}, "
        f"{report['steps']} steps a sampler, stand-ins for {', '.join(standins) or 'nothing'}. "
        f"The {flags}models had **random weights**: times and memory are those of so many tokens "
        "and voxels, not of a picture.\n\n"
        f"Weights {report['weights_gib']:.1f} GiB, made in {report['build_s']:.0f} s.\n\n"
    )
    columns = [
        "type", "resolution", "tokens", "voxels", "faces", "shape_s", "shape_gib", "texture_s",
        "texture_gib", "bare_s", "bare_gib", "overhead_percent", "kept_mb", "export_shape_s",
        "export_model_s", "export_gib", "low_vram",
    ]  # fmt: skip
    rows = report["types"]
    text += table(columns, [[row.get(column, "") for column in columns] for row in rows])
    stages = [
        [row["type"], stage, *measured]
        for row in rows
        for stage, measured in row.get("stages", {}).items()
    ]
    text += "\n" + table(["type", "stage", "seconds", "GiB at most"], stages)
    errors = [[n, f"{e:.1e}", f"{limit(n):.0e}"] for n, e in report["errors"].items()]
    text += "\n" + table(["stand-in against float64", "relative error", "limit"], errors)
    if "allocated_after_each_job" in report:
        after = report["allocated_after_each_job"]
        text += f"\nBytes in use after ten jobs: {after[-1] - after[0]:+d} against the first.\n"
    found = list(problems(report))
    text += "\n" + ("\n".join(f"- {p}" for p in found) if found else "Nothing failed.") + "\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
