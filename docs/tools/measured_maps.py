"""Tables of baked maps, levels of detail and solids, for docs/export.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from docs.tools.figures import markdown, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

_MAPS: Final = tuple(
    f"export-2026-11-27-maps-{run}" for run in ("noise-20k", "links-20k", "bolt-20k", "blob-200k")
)
_PICTURE_MAPS: Final = "export_pictures-2026-11-27-maps"
_PICTURE_LEVELS: Final = "export_pictures-2026-11-27-levels"
_SOLIDS: Final = "export_solids-2026-11-27"


def _map(run: str) -> dict[str, Any]:
    (row,) = recorded(run, "export")
    return row


def export_maps() -> str:
    """Time and quality of normal maps and occlusion."""
    body = [
        [
            row["shape"],
            f"{row['original_faces']:,} → {row['faces']:,}",
            f"{row['maps_ratio']:.1f}, {row['maps_cpu_ratio']:.1f}",
            f"{row['normal_degrees']:.2f}°, {row['normal_degrees_without']:.2f}°",
            f"{row['occlusion_rmse']:.3f}",
        ]
        for row in map(_map, _MAPS)
    ]
    head = (
        "shape", "faces", "time: ratio, of processor time",
        "angle to the full surface: with the map, without", "occlusion, RMSE",
    )  # fmt: skip
    return markdown(head, body, *_MAPS)


def picture_maps() -> str:
    """Quality of normal maps and occlusion of models of pictures."""
    body = [
        [
            row["picture"],
            f"{row['full_faces']:,} → {row['faces']:,}",
            f"{row['normal_degrees']:.2f}°, {row['normal_degrees_without']:.2f}°",
            f"{row['normal_gain']:.1f}",
            f"{row['occlusion_rmse']:.3f}",
        ]
        for row in recorded(_PICTURE_MAPS, "maps")
    ]
    head = (
        "picture", "faces", "angle to the full surface: with the map, without", "times better",
        "occlusion, RMSE",
    )  # fmt: skip
    return markdown(head, body, _PICTURE_MAPS)


def picture_levels() -> str:
    """Silhouettes of levels of detail, ours and meshoptimizer's."""
    body = [
        [
            row["picture"],
            f"{row['full_faces']:,}",
            *(
                f"{row['iou'][level]:.4f} ({row['iou_least'][level]:.4f}), "
                f"{row['other_iou'][level]:.4f}"
                for level in (1, 2)
            ),
        ]
        for row in recorded(_PICTURE_LEVELS, "levels")
    ]
    head = (
        "picture", "faces of the full surface", "25,000: ours (least), meshoptimizer",
        "5,000: ours (least), meshoptimizer",
    )  # fmt: skip
    return markdown(head, body, _PICTURE_LEVELS)


def export_solids() -> str:
    """Solids, beside shells that are only remeshed."""
    body = [
        [
            row["shape"],
            f"{row['original_faces']:,} → {row['faces']:,}",
            f"{row['seconds']:.1f}, {row['other_seconds']:.1f}",
            f"{row['touching']:,}, {row['other_touching']:,}",
            "; ".join(row["faults"]) or "none",
            "; ".join(row["other_faults"]) or "none",
        ]
        for row in recorded(_SOLIDS, "solids")
    ]
    head = (
        "shape", "faces", "time, s: solid, shell", "faces that touch others: solid, shell",
        "faults of the solid: its surface …", "of the shell",
    )  # fmt: skip
    return markdown(head, body, _SOLIDS)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured export-maps": export_maps,
    "measured export-picture-maps": picture_maps,
    "measured export-picture-levels": picture_levels,
    "measured export-solids": export_solids,
}
