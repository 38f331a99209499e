"""Tables of what simulations gave and of jobs an hour, for docs/scale.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from docs.tools.figures import markdown, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

_SIMULATION: Final = "ray_simulation-2026-11-26"
_JOBS: Final = "jobs_per_hour-2026-11-27"
#: This checkout, and the other one.
_SIDES: Final = ("", "against_")
#: Numbers of GPUs of the page; the plot has those between them.
_GPUS: Final = (1, 2, 4, 16, 64)


def scale_gpus() -> str:
    """GPUs that are needed for 95 of 100 textured files within a time."""
    found = recorded(_SIMULATION, "gpus")
    limits = [name for name in found[0] if name.startswith("within_")]
    body = [
        [str(row["requests_per_hour"]), *(str(row[limit] or "none") for limit in limits)]
        for row in found
    ]
    head = ("requests/h", *(f"p95 within {limit.split('_')[1]} s" for limit in limits))
    return markdown(head, body, _SIMULATION)


def scale_load() -> str:
    """Waiting times over load."""
    body = [
        [
            str(row["gpus"]),
            f"{row['load']:g}",
            f"{row['requests_per_hour']:.0f}",
            *(_times(row, kind) for kind in ("untextured", "textured")),
            f"{row['gpu_busy']:.2f}",
            f"{row['export_busy']:.2f}",
        ]
        for row in recorded(_SIMULATION, "load")
        if row["gpus"] in _GPUS
    ]
    head = (
        "GPUs", "load", "requests/h", "untextured: mean, p50, p95, s",
        "textured: mean, p50, p95, s", "GPUs busy", "exports busy",
    )  # fmt: skip
    return markdown(head, body, _SIMULATION)


def _times(row: dict[str, Any], kind: str) -> str:
    return ", ".join(f"{row[f'{kind}_{name}_s']:.0f}" for name in ("mean", "p50", "p95"))


def scale_jobs() -> str:
    """Jobs an hour by the number of clients, now and with another order of steps."""
    found = recorded(_JOBS, "jobs per hour")
    body = [
        [
            f"`{row['type']}`",
            str(row["clients"]),
            *(_digits(row[f"{side}jobs_per_hour"]) for side in _SIDES),
            f"{row['ratio']:.2f}",
            ", ".join(f"{row[f'{side}untextured_s']:.1f}" for side in _SIDES),
            f"{row['gap_ms_real']:.1f} ms, {row['against_gap_s']:.1f} s",
        ]
        for row in found
    ]
    head = (
        "type", "clients", "jobs/h", "texture after the shape's export, jobs/h", "ratio",
        "to the untextured model, s: now, before", "shape to texture: now, before",
    )  # fmt: skip
    return markdown(head, body, _JOBS)


def _digits(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:.0f}"


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured scale-gpus": scale_gpus,
    "measured scale-load": scale_load,
    "measured scale-jobs": scale_jobs,
}
