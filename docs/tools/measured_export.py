"""Tables of what the exporter's benchmarks measured, for docs/export.md and docs/scale.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from docs.tools.figures import argument, markdown, recorded, rows

if TYPE_CHECKING:
    from collections.abc import Callable

_SPEED: Final = ("export-2026-11-27-50k", "export-2026-11-27-200k")
_QUALITY: Final = "export-2026-11-27-quality"
_ALPHA: Final = ("export-2026-11-26-alpha-blob", "export-2026-11-26-alpha-crowded")
_DECIMATION: Final = ("export-2026-11-27-decimate-blob", "export-2026-11-27-decimate-crowded")
_UPSTREAM: Final = "gpu-h200-2026-11-27-extensions"
_FILES: Final = ("export_files-2026-11-27-bolt", "export_files-2026-11-27-crowded")
_LARGE: Final = ("export-2026-11-27-500k", "export-2026-11-27-1m")


def _only(run: str) -> dict[str, Any]:
    (row,) = recorded(run, "export")
    return row


def _size(run: str) -> str:
    return f"{argument(run, 'faces'):,}, {argument(run, 'texture')}²"


def export_speed() -> str:
    """Seconds of an export, ours and upstream's CPU part."""
    body = [
        [
            _size(run),
            f"{row['ratio']:.0f}" if "ratio" in row else "not run",
            f"{row['baseline_seconds']:.1f}" if "ratio" in row else "",
            f"{row['own_cpu_seconds']:.2f}",
            f"{row['seconds']:.2f}",
            f"{row['peak_mb'] / 1024:.1f}",
            f"{row['stall_ms']:.0f}",
        ]
        for run in (*_SPEED, *_LARGE)
        for row in [_only(run)]
    ]
    head = (
        "faces, texture", "ratio", "other side, s", "ours, s", "total, s", "peak memory, GiB",
        "longest hold of the GIL, ms",
    )  # fmt: skip
    return markdown(head, body, *_SPEED, *_LARGE)


def export_quality() -> str:
    """Quality of all shapes, and of xatlas's charts of them if those were made."""
    found = recorded(_QUALITY, "export")
    sides = ["", "baseline_"] if "baseline_use" in found[0] else [""]
    body = [
        [
            row["shape"],
            f"{row['psnr_base']:.1f}",
            f"{row['psnr_metal_rough']:.1f}",
            f"{row['seam']:.2f}",
            ", ".join(f"{row[f'{side}stretch_p99']:.3f}" for side in sides),
            ", ".join(f"{row[f'{side}use']:.2f}" for side in sides),
            str(row["faces_without_uv"]),
            str(row["points_without_data"]),
            row["validator"],
        ]
        for row in found
    ]
    xatlas = ", xatlas" if len(sides) > 1 else ""
    head = (
        "shape", "base colour, dB", "metallic, roughness, dB", "seam", f"stretch{xatlas}",
        f"use{xatlas}", "faces without UVs", "points without data", "Khronos validator",
    )  # fmt: skip
    return markdown(head, body, _QUALITY)


def export_alpha() -> str:
    """Quality with a transparent base colour."""
    body = [
        [row["shape"], f"{row['psnr_base']:.1f}", f"{row['psnr_alpha']:.1f}"]
        for row in map(_only, _ALPHA)
    ]
    return markdown(("shape, `--alpha`", "base colour, dB", "alpha, dB"), body, *_ALPHA)


def export_decimation() -> str:
    """Seconds and errors of decimation, ours and meshoptimizer's."""
    body = [
        [
            row["shape"],
            f"{row['original_faces']:,} → {row['faces']:,}",
            f"{row['decimate_seconds']:.2f}",
            f"{row['baseline_decimate_seconds']:.2f}",
            f"{row['decimate_ratio']:.2f}",
            f"{row['error_p99_voxels']:.3f}, {row['baseline_error_p99_voxels']:.3f}",
        ]
        for row in map(_only, _DECIMATION)
    ]
    head = (
        "shape", "faces", "ours, cleaning included, s", "meshoptimizer, without cleaning, s",
        "ratio", "error p99, voxels: ours, meshoptimizer",
    )  # fmt: skip
    return markdown(head, body, *_DECIMATION)


def export_upstream() -> str:
    """Seconds of this exporter and of `to_glb`, of the same object on the same machine."""
    sides: dict[tuple[str, bool], dict[str, dict[str, Any]]] = {}
    for row in rows(_UPSTREAM, "upstream_export", "exports of the same object"):
        sides.setdefault((row["shape"], row["remesh"]), {})[row["exporter"]] = row
    body: list[list[str]] = []
    for (shape, is_remeshed), both in sides.items():
        own, other = both["this server"], both.get("to_glb")
        body.append(
            [
                f"{shape}{', remeshed' * is_remeshed}",
                f"{own['original_faces']:,} → {round(own['faces'], -3):,}",
                f"{own['seconds']:.1f}, {own['cpu_s']:.1f}",
                f"{other['seconds']:.1f}, {other['cpu_s']:.1f}" if other else "cut off",
                f"{other['seconds'] / own['seconds']:.1f}" if other else "",
            ]
        )
    head = (
        "object", "faces", "this exporter: s, CPU s", "`to_glb`: s, CPU s", "times as long",
    )  # fmt: skip
    return markdown(head, body, _UPSTREAM)


def export_files() -> str:
    """Quality of files of both exporters."""
    body = [
        [
            row["shape"],
            "`to_glb`" if "to_glb" in row["file"] else "this exporter",
            f"{row['psnr_base']:.1f}",
            f"{row['psnr_metal_rough']:.1f}",
            f"{row['seam']:.1f}",
            f"{row['use']:.2f}",
            f"{row['error_p99_voxels']:.2f}",
            f"{row['bytes'] / 1e6:.1f}",
            "silent" if row["validator"] == "silent" else "hints",
        ]
        for run in _FILES
        for row in recorded(run, "files")
    ]
    head = (
        "object", "exporter", "base colour, dB", "metallic, roughness, dB", "seam", "use",
        "99 % of the object are within, voxels", "MB", "Khronos validator",
    )  # fmt: skip
    return markdown(head, body, *_FILES)


def scale_export() -> str:
    """Seconds and memory of an export."""
    body = [
        [
            _size(run),
            f"{row['original_faces'] / 1e6:.1f} million faces",
            f"{row['decimate_seconds']:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['peak_mb'] / 1024:.1f}",
        ]
        for run in reversed(_LARGE)
        for row in [_only(run)]
    ]
    head = ("faces, texture", "from", "decimate, s", "textured file, s", "peak memory, GiB")
    return markdown(head, body, *reversed(_LARGE))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured export-upstream": export_upstream,
    "measured export-files": export_files,
    "measured export-speed": export_speed,
    "measured export-quality": export_quality,
    "measured export-alpha": export_alpha,
    "measured export-decimation": export_decimation,
    "measured scale-export": scale_export,
}
