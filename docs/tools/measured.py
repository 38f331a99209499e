"""Tables of measured figures, made from the files in `docs/measured`.

A figure in such a table cannot differ from what was measured: `tables.py` writes the tables, and a
test fails if a document has others. Each table names its file.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FOLDER: Final = Path(__file__).resolve().parents[1] / "measured"
_H100: Final = "gpu-h100-2026-11-26"

Row = dict[str, Any]


def rows(run: str, part: str, table: str) -> list[Row]:
    """Return the rows of a table of `tests/gpu/run.py`.

    Args:
        run: name of the file, without the suffix.
        part: of the measurement.
        table: its title, or how that begins.

    Raises:
        LookupError: there is none.
    """
    written = json.loads((FOLDER / f"{run}.json").read_text(encoding="utf-8"))
    found = [row for row in written["parts"][part]["rows"] if row["table"].startswith(table)]
    if not found:
        raise LookupError(f"{run}: the part {part!r} has no table {table!r}")
    return found


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], *runs: str) -> str:
    """Return a table, and a line that names the files of its runs."""
    lines = [head, ["---"] * len(head), *body]
    files = ", ".join(f"`docs/measured/{run}.json`" for run in runs)
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"From {files}."])


def gpu_jobs() -> str:
    """Whole jobs: tokens, voxels, seconds, memory."""
    run = f"{_H100}-all-parts"
    found = [row for part in ("512", "whole") for row in rows(run, part, "job") if "job_s" in row]
    body = [
        [
            f"`{row['type']}`",
            f"{row['tokens']:,}",
            f"{row['voxels'] / 1e6:.1f} million",
            f"{row['job_s']:.1f}",
            f"{row['overhead_percent']:+.1f} %",
            f"{row['peak_gib']:.1f}",
        ]
        for row in found
    ]
    head = (
        "type",
        "tokens",
        "voxels",
        "sampling and decoding, s",
        "against bare calls",
        "peak, GiB",
    )
    return markdown(head, body, run)


def gpu_stages() -> str:
    """Seconds of each stage of the jobs."""
    run = f"{_H100}-all-parts"
    found = [row for part in ("512", "whole") for row in rows(run, part, "stages")]
    types = list(dict.fromkeys(row["type"] for row in found))
    seconds = {(row["step"], row["stage"], row["type"]): row["seconds"] for row in found}
    stages = dict.fromkeys((row["step"], row["stage"]) for row in found)
    body = [
        [f"{stage} ({step})", *(f"{seconds[step, stage, kind]:.2f}" for kind in types)]
        for step, stage in stages
    ]
    return markdown(("stage (of the step), s", *(f"`{kind}`" for kind in types)), body, run)


def gpu_compile() -> str:
    """What `model.compile` brings."""
    run = f"{_H100}-compile"
    sampling = {row["compile"]: row["seconds"] for row in rows(run, "compile", "sampling")}
    found = rows(run, "compile", "a 512 job")
    reference = next(row for row in found if row["compile"] == "none")
    body = [
        [
            f"`{row['compile']}`",
            f"{row['job_s']:.2f}",
            f"{reference['job_s'] / row['job_s']:.2f}",
            *(f"{row[stage]:.2f}" for stage in ("structure_s", "shape_s", "texture_s")),
            f"{sampling[row['compile']]:.2f}",
            f"{sampling['none'] / sampling[row['compile']]:.2f}",
            f"{row['ready_s']:.0f}",
            "the same bits" if row["equal_to_none"] else f"{row['latent_difference']:.2%}",
        ]
        for row in found
    ]
    head = (
        "`model.compile`", "`512` job, s", "jobs against `none`", "structure, s", "shape, s",
        "texture, s", "shape of 24,576 tokens, s", "against `none`", "until ready, s",
        "latents differ by, of the largest value",
    )  # fmt: skip
    return markdown(head, body, run)


def gpu_beside() -> str:
    """What slows the sampling of a short job down."""
    runs = [f"{_H100}-{name}" for name in ("all-parts", "beside", "beside-why")]
    body: list[list[str]] = []
    for run in runs:
        for row in rows(run, "beside", ""):
            ratio = row.get("ratio") or (
                1 + row["slower_percent"] / 100 if "slower_percent" in row else None
            )
            if ratio is not None:
                body.append([row["what"], f"{ratio:.2f}"])
    return markdown(("a `512` job's shape stage", "times as long as alone"), body, *runs)


def gpu_attention() -> str:
    """Milliseconds of attention, and of the first call at a new length."""
    run = f"{_H100}-all-parts"
    body: list[list[str]] = []
    for variable in ("", "; TORCH_CUDNN_SDPA_AVOID_RECOMPILE=1"):
        times = _exact(run, f"attention, [1, 12, T, 128], bfloat16{variable}")
        first = _exact(
            run,
            "a new length: first call against the second, and memory outside of PyTorch" + variable,
        )
        new = {(row["what"], row["T"]): row["new_length_ms"] - row["again_ms"] for row in first}
        for what in dict.fromkeys(row["what"] for row in times):
            own = {row["T"]: row["ms"] for row in times if row["what"] == what}
            shared = f"{what}, plans shared" if variable else what
            body.append(
                [
                    shared,
                    *(f"{ms:.2f}" for ms in own.values()),
                    *(f"{max(new[what, length], 0):.0f}" for length in own),
                ]
            )
    lengths = ("4,096", "24,576", "49,152")
    head = ("kernel", *lengths, *(f"new length by {length}, more" for length in lengths))
    return markdown(head, body, run)


def _exact(run: str, table: str) -> list[Row]:
    return [row for row in rows(run, "probe", table) if row["table"] == table]


def gpu_low_vram() -> str:
    """A job with all models on the device, and with one at a time."""
    run = f"{_H100}-all-parts"
    found = rows(run, "low_vram", "low_vram")
    body = [
        [
            row["what"],
            f"{row['job_s']:.2f}",
            f"{row['peak_gib']:.1f}",
            f"{row['on_device_between_jobs_gib']:.1f}",
            f"{row.get('HtoD_pinned_gb', 0):.1f}",
            f"{row.get('DtoH_pageable_gb', 0) + row.get('DtoH_pinned_gb', 0):.2f}",
        ]
        for row in found
    ]
    head = (
        "`low_vram`", "`512` job, s", "peak, GiB", "on the device between jobs, GiB",
        "copied to it, GB", "copied back (results), GB",
    )  # fmt: skip
    return markdown(head, body, run)


def gpu_decoders() -> str:
    """Seconds and memory of the decoders."""
    run = f"{_H100}-all-parts"
    body = [
        [
            f"{row['voxels'] / 1e6:.1f} million",
            f"{row['shape_s']:.3f}",
            f"{row['texture_s']:.3f}",
            f"{row['shape_peak_gib']:.1f}",
        ]
        for row in rows(run, "decode", "both decoders")
    ]
    return markdown(("voxels", "shape's decoder, s", "texture's, s", "peak, GiB"), body, run)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured gpu-jobs": gpu_jobs,
    "measured gpu-stages": gpu_stages,
    "measured gpu-compile": gpu_compile,
    "measured gpu-beside": gpu_beside,
    "measured gpu-attention": gpu_attention,
    "measured gpu-low-vram": gpu_low_vram,
    "measured gpu-decoders": gpu_decoders,
}
