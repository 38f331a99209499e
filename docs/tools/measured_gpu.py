"""Tables of what `tests/gpu/run.py` measured, for docs/gpu.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from docs.tools.figures import Row, markdown, rows

if TYPE_CHECKING:
    from collections.abc import Callable

_H100: Final = "gpu-h100-2026-11-26"
_H200: Final = "gpu-h200-2026-11-26"
_VIEWS: Final = "gpu-h200-2026-11-27-views"
_SAMPLED: Final = ("condition", "structure", "shape", "texture")


def gpu_jobs() -> str:
    """Whole jobs: tokens, voxels, seconds, memory."""
    runs = {
        f"{_H100}-all-parts": ("H100", "none", ("512", "whole")),
        f"{_H200}-whole": ("H200", "both", ("whole",)),
    }
    body = [
        [
            card,
            f"`{compilation}`",
            f"`{row['type']}`",
            f"{row['tokens']:,}",
            f"{row['voxels'] / 1e6:.1f} million",
            f"{row['job_s']:.1f}",
            f"{row['overhead_percent']:+.1f} %" if "overhead_percent" in row else "",
            f"{row['peak_gib']:.1f}",
        ]
        for run, (card, compilation, parts) in runs.items()
        for part in parts
        for row in rows(run, part, "job")
        if "job_s" in row
    ]
    head = (
        "card", "`model.compile`", "type", "tokens", "voxels", "sampling and decoding, s",
        "against bare calls", "peak, GiB",
    )  # fmt: skip
    return markdown(head, body, *runs)


def gpu_stages() -> str:
    """Seconds of each stage of the jobs."""
    first, second = f"{_H100}-all-parts", f"{_H200}-whole"
    found = {
        "H100": [row for part in ("512", "whole") for row in rows(first, part, "stages")],
        "H200": rows(second, "whole", "stages"),
    }
    jobs = list(dict.fromkeys((card, row["type"]) for card, of in found.items() for row in of))
    seconds = {
        (row["step"], row["stage"], card, row["type"]): row["seconds"]
        for card, of in found.items()
        for row in of
    }
    stages = dict.fromkeys((row["step"], row["stage"]) for row in found["H100"])
    body = [
        [f"{stage} ({step})", *(f"{seconds[(step, stage, *each)]:.2f}" for each in jobs)]
        for step, stage in stages
    ]
    head = ("stage (of the step), s", *(f"{card}, `{kind}`" for card, kind in jobs))
    return markdown(head, body, first, second)


def gpu_compile() -> str:
    """What `model.compile` brings."""
    runs = {"H100": f"{_H100}-compile", "H200": f"{_H200}-both"}
    body: list[list[str]] = []
    for card, run in runs.items():
        sampling = {row["compile"]: row["seconds"] for row in rows(run, "compile", "sampling")}
        found = rows(run, "compile", "a 512 job")
        reference = next(row for row in found if row["compile"] == "none")
        body += [
            [
                card,
                f"`{row['compile']}`",
                f"{row['job_s']:.2f}",
                f"{reference['job_s'] / row['job_s']:.2f}",
                *(f"{row[stage]:.2f}" for stage in ("structure_s", "shape_s", "texture_s")),
                f"{sampling[row['compile']]:.2f}",
                f"{sampling['none'] / sampling[row['compile']]:.2f}",
                f"{row['peak_gib']:.1f}",
                "the same bits" if row["equal_to_none"] else f"{row['latent_difference']:.2%}",
            ]
            for row in found
        ]
    head = (
        "card", "`model.compile`", "`512` job, s", "jobs against `none`", "structure, s",
        "shape, s", "texture, s", "shape of 24,576 tokens, s", "against `none`", "peak, GiB",
        "latents differ by, of the largest value",
    )  # fmt: skip
    return markdown(head, body, *runs.values())


def gpu_beside() -> str:
    """What slows sampling down."""
    runs = {
        **{f"{_H100}-{name}": "H100" for name in ("all-parts", "beside", "beside-why")},
        f"{_H200}-both": "H200",
        _VIEWS: "H200",
    }
    body: list[list[str]] = []
    for run, card in runs.items():
        for row in rows(run, "beside", ""):
            ratio = row.get("ratio") or (
                1 + row["slower_percent"] / 100 if "slower_percent" in row else None
            )
            if ratio is not None:
                kind, compilation = row.get("type", "512"), row.get("compile", "none")
                body.append([card, f"`{kind}`", f"`{compilation}`", row["what"], f"{ratio:.2f}"])
    head = ("card", "type", "`model.compile`", "a job's shape stage", "times as long as alone")
    return markdown(head, body, *runs)


def gpu_views() -> str:
    """Jobs of several pictures, and of equal ones, against one of one picture."""
    equal = {
        row["multi_image"]: "the same bits" if row["equal"] else f"{row['latent_difference']:.2%}"
        for row in rows(_VIEWS, "views", "equal pictures")
    }
    body = [
        [
            "one picture" if row["pictures"] == 1 else f"`{row['multi_image']}`",
            f"{row['job_s']:.2f}",
            f"{row['against_one']:.2f}" if "against_one" in row else "1",
            *(f"{row[f'{stage}_s']:.2f}" for stage in _SAMPLED),
            f"{row['peak_gib']:.1f}",
            equal.get(row["multi_image"], ""),
        ]
        for row in rows(_VIEWS, "views", "a 512 job")
    ]
    head = (
        "three pictures by", "`512` job, s", "against one", "condition, s", "structure, s",
        "shape, s", "texture, s", "peak, GiB", "three equal ones: latents differ from one's by",
    )  # fmt: skip
    return markdown(head, body, _VIEWS)


def gpu_exports() -> str:
    """Seconds of an export by the threads that it has."""
    runs = [f"{_H200}-{name}" for name in ("both", "exports")]
    stages = (
        "untextured_clean", "untextured_decimate", "textured_unwrap", "textured_bake",
        "textured_encode",
    )  # fmt: skip
    body = [
        [
            str(row["threads"]),
            f"{row['untextured_s'] + row['textured_s']:.1f}",
            *(f"{row[stage]:.2f}" for stage in stages),
        ]
        for run in runs
        for row in rows(run, "exports", "seconds of an export")
        if "textured_s" in row
    ]
    head = ("threads", "both files, s", *(stage.partition("_")[2] for stage in stages))
    return markdown(head, body, *runs)


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
    "measured gpu-views": gpu_views,
    "measured gpu-exports": gpu_exports,
    "measured gpu-attention": gpu_attention,
    "measured gpu-low-vram": gpu_low_vram,
    "measured gpu-decoders": gpu_decoders,
}
