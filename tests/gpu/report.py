"""The measurements as tables, and what is over its limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.gpu.standins import limit

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes that ten jobs may leave: caches of libraries that fill as they are used.
LEAK_BYTES = 16 * 2**20


def problems(report: dict[str, Any]) -> Iterator[str]:
    """What failed or is over its limit."""
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
        yield f"ten jobs: {after[-1] - after[0]} bytes were not freed"


def tables(report: dict[str, Any]) -> str:
    """All measurements as a Markdown document."""
    flags = {"full": "", "tiny": "tiny "}[report["size"]]
    standins = [name for name, kind in report["extensions"].items() if kind != "real"]
    text = (
        f"# TRELLIS.2 on {report['device']}\n\n"
        f"By `tests/gpu/run.py`: PyTorch {report['torch']}, Python {report['python']}, "
        f"{report['steps']} steps per sampler, stand-ins for {', '.join(standins) or 'nothing'}. "
        f"The {flags}models had **random weights**: times and memory are those of the given "
        "numbers of tokens and voxels, not of a picture.\n\n"
        f"Weights {report['weights_gib']:.1f} GiB, made in {report['build_s']:.0f} s.\n\n"
    )
    columns = [
        "type", "resolution", "tokens", "voxels", "faces", "shape_s", "shape_gib", "texture_s",
        "texture_gib", "bare_s", "bare_gib", "overhead_percent", "state_mb", "export_shape_s",
        "export_model_s", "export_gib", "low_vram",
    ]  # fmt: skip
    rows = report["types"]
    text += _table(columns, [[row.get(column, "") for column in columns] for row in rows])
    stages = [
        [row["type"], stage, *measured]
        for row in rows
        for stage, measured in row.get("stages", {}).items()
    ]
    text += "\n" + _table(["type", "stage", "seconds", "peak GiB"], stages)
    errors = [[n, f"{e:.1e}", f"{limit(n):.0e}"] for n, e in report["errors"].items()]
    text += "\n" + _table(["stand-in against float64", "relative error", "limit"], errors)
    if "allocated_after_each_job" in report:
        after = report["allocated_after_each_job"]
        text += f"\nBytes in use after ten jobs: {after[-1] - after[0]:+d} against the first.\n"
    found = list(problems(report))
    text += "\n" + ("\n".join(f"- {p}" for p in found) if found else "Nothing failed.") + "\n"
    return text


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns)]
    lines += [[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
