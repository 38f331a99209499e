"""Tables of what clients notice of cut links and lost machines, for docs/scale.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from docs.tools.figures import markdown, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from docs.tools.figures import Row

#: The second one has the exports again, whose files were above 4 MB: Serve did not send them.
_CUTS: Final = ("cluster_cuts-2026-11-28", "cluster_cuts-2026-11-28-export")
#: Losses of an ingress, slow links, full disks; and losses of the head.
_SERVICES: Final = "cluster_cuts-2026-11-28-services"
_HEAD: Final = "cluster_cuts-2026-11-28-head"
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
#: A full disk of the head, in the words of the page.
_DISKS: Final = {
    "results full": "of `worker.result_dir`",
    "Ray's files full": "of Ray's own files, `/tmp/ray`",
}


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


def _reply(row: Row | None) -> str:
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


def scale_head_cuts() -> str:
    """How requests to an ingress end while the head is cut off."""
    body = [
        [_lasting(row), _ended(row["waiting"]), _ended(row["submitted"]), _polled(row["polls"][0])]
        for row in recorded(_HEAD, "head")
    ]
    head = ("head", "request that waits", "new request", "other requests")
    return markdown(head, body, _HEAD)


def scale_ingress_cuts() -> str:
    """How requests to an ingress, and to another one, end while the first one is cut off."""
    body = [
        [
            _lasting(row),
            _ended(row["waiting"]),
            _ended(row["submitted"]),
            *(_polled(each) for each in row["polls"]),
        ]
        for row in recorded(_SERVICES, "ingress")
    ]
    head = ("ingress", "request that waits", "new request", "other requests", "at another ingress")
    return markdown(head, body, _SERVICES)


def _lasting(row: Row) -> str:
    """Return "cut for 5 s" of "5.0 s"."""
    return _ENDS[f"cut {row['what']}"]


def scale_slow_links() -> str:
    """Times of jobs over links that are slow and lose frames."""
    body = [
        [
            f"{row['delay_ms']:g} ms",
            f"{row['loss_percent']:g} %",
            " ".join(row["outcomes"]),
            f"{row['median_s']:.1f}",
            f"{row['all_s']:.1f}",
            str(row["stages"]),
        ]
        for row in recorded(_SERVICES, "slow")
    ]
    head = ("delay", "lost frames", "replies", "median, s", "all 8 jobs, s", "stages")
    return markdown(head, body, _SERVICES)


def scale_full_disks() -> str:
    """How jobs end while a disk of the head is full, and when it has space again."""
    found = recorded(_SERVICES, "disk")
    usual = set[str].intersection(*(set(each["health"][2]) for each in found[::2]))
    body = [
        [
            _DISKS[full["what"]],
            _counted(job.split()[0] for job in full["jobs"]),
            "; ".join(each for each in full["health"][2] if each not in usual) or "none",
            _counted(str(each) for each in (full["job_before"], full["new_file"])),
            f"{freed['note_gone_s']:.0f}" if set(full["health"][2]) - usual else "",
            _counted(map(str, freed["files"])),
        ]
        for full, freed in zip(found[::2], found[1::2], strict=True)
    ]
    head = (
        "disk", "jobs while it is full", "notes of `/healthcheck`", "files", "note gone after, s",
        "files then",
    )  # fmt: skip
    return markdown(head, body, _SERVICES)


def _counted(outcomes: Iterable[str]) -> str:
    """Return "3 times 200" of three of them."""
    return ", ".join(f"{count} times {each}" for each, count in Counter(outcomes).items())


def _ended(reply: str) -> str:
    """Return "503 after 25 s" of "503 after 25.1 s and a text"."""
    outcome, _, rest = reply.partition(" after ")
    return f"{outcome} after {float(rest.split()[0]):.0f} s"


def _polled(row: Row) -> str:
    if "first_error_s" not in row:
        return f"answered after {row['longest_poll_s']:.0f} s at most"
    # Errors of HTTP clients have names.
    kinds = (each if each.isdigit() else "no reply" for each in row["polls"] if each != "200")
    errors = ", ".join(dict.fromkeys(kinds))
    again_s = row["answers_again_s"]
    return f"{errors} from {row['first_error_s']:.0f} s on, " + (
        "not answered again" if again_s is None else f"answered again after {again_s:.0f} s"
    )


def _why(job: Row) -> str:
    return f"ends: {job['error'] or job['text']}"


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured scale-engine-cuts": scale_engine_cuts,
    "measured scale-desk-cuts": scale_desk_cuts,
    "measured scale-head-cuts": scale_head_cuts,
    "measured scale-ingress-cuts": scale_ingress_cuts,
    "measured scale-slow-links": scale_slow_links,
    "measured scale-full-disks": scale_full_disks,
}
