"""Tables of what the server's benchmarks measured, for docs/operations.md and docs/preview.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from docs.tools.figures import markdown, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

_STORE: Final = "store-2026-11-27"
_KILLS: Final = "kills-2026-11-27"
_SOAK: Final = "soak-2026-11-27"
_DECODERS: Final = "decoders-2026-11-27"
_READERS: Final = "readers-2026-11-27"
_SERVER: Final = "server-2026-11-27-pictures"


def store() -> str:
    """What storing a job costs."""
    row = next(row for row in recorded(_STORE, "store") if row["where"] == "result_dir")
    median, most = row["completion_saved_ms_median"], row["completion_saved_ms_p95"]
    body = [
        ["a reply that completes a job with a model of 1.5 MB waits for", f"{median:.1f}",
         f"{most:.1f}"],
        ["work on the event loop for a job with three files, 5 MB",
         f"{row['store_ms_median']:.2f}", ""],
    ]  # fmt: skip
    return markdown(("cost, ms", "median", "95 %"), body, _STORE)


def kills() -> str:
    """What clients lose when the server is killed under load."""
    (row,) = recorded(_KILLS, "kills")
    body = [
        ["files that clients had received", f"{row['files']:,}", str(row["lost_files"])],
        ["jobs said to be completed", f"{row['completions']:,}", str(row["lost_completions"])],
        ["confirmed deletions", f"{row['deletions']:,}", f"{row['returned']} came back"],
    ]
    return markdown((f"after {row['kills']} times `kill -9`", "checked", "lost"), body, _KILLS)


def soak() -> str:
    """What mixed traffic, with faulty clients and dying decoders, leaves in the server."""
    (row,) = recorded(_SOAK, "soak")
    parts = {
        "resident memory of the server, MB": "rss_mb",
        "of its other processes, MB": "children_mb",
        "descriptors": "descriptors",
        "threads": "threads",
        "processes": "processes",
    }
    body = [
        [
            what,
            *(f"{row[f'{key}_{when}']:.0f}" for when in ("early", "late")),
            f"{row[f'{key}_per_hour']:+.1f}",
            f"{row[f'{key}_idle']:.0f}",
        ]
        for what, key in parts.items()
    ]
    requests, others = sum(row["requests"].values()), row["unexplained"]
    minutes = row["minutes"]
    replies = f"replies that the docs do not explain, of {requests:,} requests"
    body += [
        [replies, "", str(others), "", ""],
        ["`/healthcheck`, 99 %, ms", "", f"{row['health_p99_ms']:.0f}", "", ""],
    ]
    head = (f"{minutes:.0f} minutes", "first tenth", "last tenth", "slope per hour", "idle after")
    return markdown(head, body, _SOAK)


def decoders() -> str:
    """What decoding outside of the server's process costs."""
    body = [
        [
            row["picture"],
            f"{row['inside_cpu_ms']:.1f}",
            f"{row['outside_cpu_ms']:.1f}",
            f"{row['more_cpu_ms']:.1f}",
        ]
        for row in recorded(_DECODERS, "pictures")
    ]
    (decoder,) = recorded(_DECODERS, "decoder")
    body.append(["start of a decoder", "", f"{decoder['start_cpu_ms']:.0f}", ""])
    head = ("processor time, ms", "in the server's process", "in a decoder", "more")
    return markdown(head, body, _DECODERS)


def readers() -> str:
    """What reading mesh files in text costs, beside another library."""
    rows = recorded(_READERS, "readers")
    body = [
        [
            row["file"],
            f"{row['bytes'] / 1e6:.0f}",
            f"{row['own_cpu_s']:.2f}",
            f"{row['trimesh_cpu_s']:.2f}",
            f"{row['peak_mb']:.0f}",
        ]
        for row in rows
    ]
    head = (f"{rows[0]['faces']:,} faces", "MB", "this server, s", "trimesh, s", "memory, MB")
    return markdown(head, body, _READERS)


def preview() -> str:
    """What the server does with the preview engine."""
    (row,) = recorded(_SERVER, "server")
    pictures = len(recorded(_SERVER, "pictures"))
    likeness = f"PSNR {row['psnr_db']:.1f} dB inside the mask, outline IoU {row['iou']:.3f} (means)"
    health = [f"{row[f'{app}health_p99_ms']:.0f} ms" for app in ("", "blocking_")]
    start = f"{row['first_reply_warm_s']:.1f} s, {row['ok_warm_s']:.1f} s"
    cold = f"{row['ok_cold_s']:.0f} s to `ok` when nothing is compiled yet"
    memory = f"{row['rss_20_mb']:.0f} MiB, {row['rss_end_mb']:.0f} MiB"
    body = [
        [
            f"request to {kind} GLB, {pictures} pictures",
            f"median {row[f'{kind}_s']:.2f} s, maximum {row[f'{kind}_max_s']:.2f} s",
        ]
        for kind in ("untextured", "textured")
    ]
    body += [
        ["front view of the textured model against the picture", likeness],
        ["`/healthcheck` with four jobs in progress, p99", health[0]],
        ["the same of an app that works inside its handlers", health[1]],
        ["process start to first answer, to `ok`", f"{start}; {cold}"],
        [f"memory after the 20th and the last of {row['jobs']} pictures", memory],
    ]
    return markdown(("what", "measured"), body, _SERVER)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured store": store,
    "measured kills": kills,
    "measured soak": soak,
    "measured decoders": decoders,
    "measured readers": readers,
    "measured preview": preview,
}
