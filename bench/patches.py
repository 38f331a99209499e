"""Time of a sampling step with and without each patch of TRELLIS.2.

    TRELLIS2_HOME=path/to/TRELLIS.2 python bench/patches.py [--device cuda --tokens 25000 …]

Builds one flow model with random weights and samples it with guidance and its rescaling, so that
a step has two evaluations. The variants alternate in each round; the figures are minima. On the
CPU they are processor time, so that other programs do not count.

    none       TRELLIS.2 as it is
    exact      all patches with the same results, bit for bit (`model.patches: exact`)
    true       all patches (`model.patches: true`)
    NAME       one patch alone

    step_ms    milliseconds of a step: the difference of two calls with different numbers of
               steps, so that what happens once a stage does not count
    first_ms   milliseconds of a call with one step, with what happens once a stage
    waits      calls in one step that wait for a GPU: copies to it, and reads of its results
    difference largest difference to `none`, relative to the largest number; 0: the same bits
    peak_mib   memory of a CUDA device at its peak, without the model

The size of TRELLIS.2's models: --channels 1536 --blocks 30 --heads 12 --dtype bfloat16, with
--features 1029 (pictures at 512) or 4101 (at 1024).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from bench.record import Record, add_option  # noqa: E402
from trellis2_server.engines.trellis2 import environment, patches  # noqa: E402
from trellis2_server.engines.trellis2.samplers import build_sampler  # noqa: E402
from trellis2_server.engines.trellis2.upstream import import_upstream  # noqa: E402
from trellis2_server.settings import ModelSettings  # noqa: E402

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2.upstream import Upstream

#: Edge of the grid of tokens.
GRID = 64


class Bench:
    """A flow model, and the same call of its sampler with different patches."""

    def __init__(self, upstream: Upstream, size: argparse.Namespace) -> None:
        self.torch = torch = upstream.torch
        self.device = torch.device(size.device)
        torch.manual_seed(0)
        with torch.device(self.device):
            self.model = upstream.models.SLatFlowModel(
                resolution=GRID,
                in_channels=32,
                model_channels=size.channels,
                cond_channels=1024,
                out_channels=32,
                num_blocks=size.blocks,
                num_heads=size.heads,
                mlp_ratio=size.mlp,
                pe_mode="rope",
                dtype=size.dtype,
                share_mod=True,
                initialization="scaled",
                qk_rms_norm=True,
                qk_rms_norm_cross=True,
            )
            # TRELLIS.2 begins with zeros here: every result would be zero.
            for name, values in self.model.named_parameters():
                if name.endswith("bias") or name.startswith("out_layer"):
                    torch.nn.init.normal_(values, std=0.1)
        self.model.eval().requires_grad_(requires_grad=False)
        self.sampler = build_sampler(
            upstream,
            {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}},
        )
        place = torch.randperm(GRID**3)[: size.tokens].sort().values
        axes = [place // GRID**2, place // GRID % GRID, place % GRID]
        coords = torch.stack([torch.zeros_like(place), *axes], dim=1).int()
        self.noise = torch.randn(size.tokens, 32).to(self.device)
        self.coords = coords.to(self.device)
        self.cond = torch.randn(1, size.features, 1024).to(self.device)
        self.sparse = upstream.sparse

    def sample(self, names: tuple[str, ...], steps: int) -> tuple[float, Any]:
        """Seconds and samples, float [T, 32], of one call."""
        self.sampler.patches = names
        self._synchronize()
        start = self._clock()
        with self.torch.inference_mode():
            result = self.sampler.sample(
                self.model,
                self.sparse.SparseTensor(self.noise, self.coords),
                cond=self.cond,
                neg_cond=self.torch.zeros_like(self.cond),
                steps=steps,
                rescale_t=3.0,
                guidance_strength=7.5,
                guidance_rescale=0.5,
                guidance_interval=(0.0, 1.0),
            )
        self._synchronize()
        return self._clock() - start, result.samples.feats

    def waits(self, names: tuple[str, ...]) -> int:
        """Calls in one step that wait for a GPU."""
        counted_waits = importlib.import_module("tests.support.device_waits").counted_waits
        counts: list[int] = []
        for steps in (1, 2):
            with counted_waits() as counted:
                self.sample(names, steps)
            counts.append(counted.total())
        return counts[1] - counts[0]

    def peak_mib(self, names: tuple[str, ...]) -> int | None:
        """MiB of a CUDA device at the peak of a call, without what was there before."""
        if self.device.type != "cuda":
            return None
        cuda = self.torch.cuda
        cuda.reset_peak_memory_stats(self.device)
        before = cuda.memory_allocated(self.device)
        self.sample(names, 1)
        return int((cuda.max_memory_allocated(self.device) - before) / 2**20)

    def _clock(self) -> float:
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)


def measure(bench: Bench, steps: int, rounds: int) -> dict[str, dict[str, object]]:
    """Figures of each variant."""
    exact = tuple(patch.name for patch in patches.PATCHES if patch.is_exact)
    every = tuple(patch.name for patch in patches.PATCHES)
    variants = {"none": (), "exact": exact, "true": every, **{name: (name,) for name in every}}
    _, expected = bench.sample((), steps)  # warms up, too
    first: dict[str, list[float]] = {name: [] for name in variants}
    whole: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, used in variants.items():
            first[name].append(bench.sample(used, 1)[0])
            whole[name].append(bench.sample(used, 1 + steps)[0])
    rows: dict[str, dict[str, object]] = {}
    for name, used in variants.items():
        _, samples = bench.sample(used, steps)
        difference = (samples - expected).abs().max() / expected.abs().max()
        rows[name] = {
            "step_ms": round(1000 * (min(whole[name]) - min(first[name])) / steps, 3),
            "first_ms": round(1000 * min(first[name]), 3),
            "waits": bench.waits(used),
            "difference": float(difference),
            "peak_mib": bench.peak_mib(used),
        }
    return rows


def main() -> None:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_option(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--features", type=int, default=1029, help="of the picture")
    parser.add_argument("--channels", type=int, default=192)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--mlp", type=float, default=5.3334, help="ratio of the widths")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    home = os.environ.get(environment.HOME_VARIABLE)
    if not home:
        parser.error(f"{environment.HOME_VARIABLE} must name a clone of TRELLIS.2")
    with contextlib.redirect_stdout(sys.stderr):
        settings = ModelSettings(device=arguments.device, trellis2_path=home, patches=True)
        upstream = import_upstream(settings)
        upstream.torch.set_num_threads(arguments.threads)
        missing = {patch.name for patch in patches.PATCHES} - set(upstream.patches)
        if missing:
            parser.error(f"patches that do not fit this TRELLIS.2: {', '.join(sorted(missing))}")
        rows = measure(Bench(upstream, arguments), arguments.steps, arguments.rounds)
    record = Record(__file__, arguments)
    for name, row in rows.items():
        record.add("patches", {"variant": name} | row)
    report = {"torch": upstream.torch.__version__, **vars(arguments)}
    size = ("tokens", "features", "channels", "blocks", "dtype", "device", "torch")
    print("  ".join(f"{name} {report[name]}" for name in size))
    for name, row in rows.items():
        print(f"{name:11}", "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
