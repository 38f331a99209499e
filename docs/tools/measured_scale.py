"""Tables of what simulations gave, of jobs an hour and of cut links, for docs/scale.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from docs.tools.figures import markdown, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

_SIMULATION: Final = "ray_simulation-2026-11-26"
_JOBS: Final = "jobs_per_hour-2026-11-27"
#: The second one has the exports again, whose files were above 4 MB: Serve did not send them.
_CUTS: Final = ("cluster_cuts-2026-11-28", "cluster_cuts-2026-11-28-export")
#: What a job does when its engine's machine is cut off, in the words of the page.
_STATES: Final = {
    "queued": "waits in the queue",
    "shape": "its shape is made",
    "between": "between its stages",
    "texture": "its texture is made",
    "export": "it is exported",
}
#: What happens to a machine.
_ENDS: Final = {
    "cut 5.0 s": "cut for 5 s",
    "cut 20.0 s": "cut for 20 s",
    "cut 40.0 s": "cut for 40 s",
    "cut for good": "cut for good",
    "kill": "its processes killed",
    "power": "its power lost",
}
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


def scale_engine_cuts() -> str:
    """Seconds from the cut of an engine's machine to the client's file."""
    found = [row for run in _CUTS for row in recorded(run, "engine")]
    ends = [end for end in _ENDS if any(row["what"] == end for row in found)]
    seconds = {(row["state"], row["what"]): row for row in found}
    body = [
        [name, *(_reply(seconds.get((state, end))) for end in ends)]
        for state, name in _STATES.items()
    ]
    return markdown(("job", *(_ENDS[end] for end in ends)), body, *_CUTS)


def _reply(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['seconds']:.0f}" if row["outcome"] == "200" else f"error {row['outcome']}"


def scale_desk_cuts() -> str:
    """How requests end when the machine of the job service is lost."""
    body = [
        [
            _ENDS[row["what"]],
            _ended(row["waiting"]),
            _polled(row),
            "goes on" if row["running_job"]["status"] == "completed" else _why(row["running_job"]),
        ]
        for row in recorded(_CUTS[0], "desk")
    ]
    head = ("machine", "request that waits", "other requests", "unfinished job")
    return markdown(head, body, _CUTS[0])


def _ended(reply: str) -> str:
    """Return "503 after 25 s" of "503 after 25.1 s and a text"."""
    outcome, _, rest = reply.partition(" after ")
    return f"{outcome} after {float(rest.split()[0]):.0f} s"


def _polled(row: dict[str, Any]) -> str:
    if "first_error_s" not in row:
        return f"answered after {row['longest_poll_s']:.0f} s at most"
    errors = ", ".join(each for each in row["polls"] if each != "200")
    return (
        f"{errors} from {row['first_error_s']:.0f} s on, answered again after"
        f" {row['answers_again_s']:.0f} s"
    )


def _why(job: dict[str, Any]) -> str:
    return f"ends: {job['error'] or job['text']}"


def _digits(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:.0f}"


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured scale-gpus": scale_gpus,
    "measured scale-load": scale_load,
    "measured scale-jobs": scale_jobs,
    "measured scale-engine-cuts": scale_engine_cuts,
    "measured scale-desk-cuts": scale_desk_cuts,
}
