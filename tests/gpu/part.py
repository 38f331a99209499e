"""The parts of the measurement, most valuable first, and what each is estimated to take.

Does not know: how a part measures, which parts run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Names of packages as they are imported, by purpose; `needs` has those of the package index.
_TORCH: Final = ("numpy", "torch")
_ENGINE: Final = (
    *_TORCH, "PIL", "pydantic", "transformers", "safetensors", "huggingface_hub", "easydict",
    "tqdm", "trellis2",
)  # fmt: skip
_EXPORT: Final = (*_ENGINE, "numba")
#: What the server imports beside the engine and the exporter.
SERVER: Final = (
    "fastapi", "uvicorn", "prometheus_client", "python_multipart", "anyio", "zstandard",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time of a part.

    Attributes:
        host_s: on the host: imports, compilation, building, exports; 16 cores, seconds.
        device_s: on an H100 by the model of docs/gpu.md, seconds; other devices scale it.
        tiny_s: with `--size tiny` on two cores, measured, seconds.
        why: what takes the time.
    """

    host_s: float
    device_s: float
    tiny_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the measurement.

    Attributes:
        name: value of `--parts`.
        module: has `run(session)`, which adds rows.
        title: of its tables.
        estimate: of its time.
        packages: names that it imports.
        is_alone: whether it has a process of its own, since it changes TRELLIS.2's modules.
    """

    name: str
    module: str
    title: str
    estimate: Estimate
    packages: tuple[str, ...]
    is_alone: bool = False


PARTS: Final = (
    Part(
        "probe",
        "tests.gpu.parts.probe",
        "Device and PyTorch's kernels",
        Estimate(
            27, 28, 35,
            "imports and contexts of two processes, 20 s; about 150 calls of attention at up to "
            "49k tokens, of 30 ms each, and plans of cuDNN for 18 lengths at up to 0.4 s; "
            "transfers 3 s; convolutions of one decode at three sizes, 5 s with first calls",
        ),
        _TORCH,
    ),
    Part(
        "tests",
        "tests.gpu.parts.small_checkpoint",
        "The engine's results and the server, small checkpoint",
        Estimate(
            45, 15, 130,
            "46 small jobs bound by kernel launches, under 1 s each; the exporter's compilation, "
            "10 to 30 s; three jobs over HTTP",
        ),
        _ENGINE,
        is_alone=True,
    ),
    Part(
        "512",
        "tests.gpu.parts.whole_512",
        "One 512 job",
        Estimate(
            35, 15, 40,
            "random weights 10 s; two rounds of a job and of bare calls at about 3 s, after one "
            "of each to warm up; the exporter's loops from the cache, two exports of 4 s",
        ),
        _ENGINE,
    ),
    Part(
        "steps",
        "tests.gpu.parts.steps",
        "Sampling at 25k and 49k tokens",
        Estimate(
            4, 13, 12,
            "the weights are there after `512`; 2 + 2 + 1 + 1 steps, at most two evaluations of "
            "0.6 s (25k) and 1.5 s (49k) each",
        ),
        _ENGINE,
    ),
    Part(
        "decode",
        "tests.gpu.parts.decode",
        "Decoders",
        Estimate(
            2, 4, 10,
            "both decoders at three sizes, twice each: 2 x 2 x 2.1 s by the model, and new "
            "allocations",
        ),
        _ENGINE,
    ),
    Part(
        "low_vram",
        "tests.gpu.parts.low_vram",
        "low_vram on against off",
        Estimate(
            33, 10, 40,
            "a second set of weights on the host, 10 GB, copied out at 2 to 3 GB/s; three jobs "
            "each way",
        ),
        _ENGINE,
    ),
    Part(
        "compile",
        "tests.gpu.parts.compiled",
        "Nothing compiled, CUDA graphs, compiled blocks, both",
        Estimate(
            45, 80, 60,
            "the weights are there after `512`; for each of four modes three jobs of 3 s and a "
            "sampling of 12 s at 25k tokens; compiling the blocks",
        ),
        _ENGINE,
    ),
    Part(
        "leaks",
        "tests.gpu.parts.leaks",
        "Ten jobs of different lengths",
        Estimate(3, 15, 25, "11 jobs with 4 steps a sampler, under 2 s each"),
        _ENGINE,
    ),
    Part(
        "whole",
        "tests.gpu.parts.whole",
        "Whole jobs at full resolution",
        Estimate(
            45, 45, 60,
            "the weights, 40 s; 1024_cascade: 22 s, bare calls the same, 5 s to warm up. Others, "
            "64 s, start by "
            "themselves where time is left",
        ),
        _ENGINE,
    ),
    Part(
        "exports",
        "tests.gpu.parts.exports",
        "Exports by threads",
        Estimate(120, 0, 20, "the weights and the exporter's loops, 50 s; exports of 3 to 14 s"),
        _EXPORT,
    ),
    Part(
        "views",
        "tests.gpu.parts.views",
        "Jobs of several pictures",
        Estimate(
            45, 60, 60,
            "the weights are there after `512`; five kinds of job twice and three once, of 3 s, "
            "with `multidiffusion` three times as long",
        ),
        _ENGINE,
    ),
    Part(
        "upstream_export",
        "tests.gpu.parts.upstream_export",
        "This server's exporter and TRELLIS.2's",
        Estimate(
            80, 20, 20,
            "the exporter's loops, 30 s; four objects, each made in 4 to 9 s and exported twice "
            "by both",
        ),
        _EXPORT,
    ),
    Part(
        "beside",
        "tests.gpu.parts.beside",
        "Sampling beside exports",
        Estimate(
            70, 110, 90,
            "the shape stage of a job with `both`, six samplings of 2 s (512) and of 12 s "
            "(1024_cascade); exports of 4 s one after the other and two at a time, until the "
            "samplings are done. Other ways of compilation start by themselves where time is left",
        ),
        _EXPORT,
    ),
)  # fmt: skip
BY_NAME: Final = {part.name: part for part in PARTS}
