"""Tables of what `bench/preview.py` measured, for docs/preview.md.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from docs.tools.figures import Row, markdown, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

_RUN: Final = "preview-2026-11-28"


def preview_shapes() -> str:
    """Untextured models of known shapes against these, now and before."""
    body = [
        [
            str(row["shape"]),
            f"{row['truth']:.2f}",
            _both(row, "depth_per_width", ".2f"),
            _both(row, "spearman", ".2f"),
            _both(row, "angle", ".0f") + "°",
        ]
        for row in recorded(_RUN, "shapes")
    ]
    head = (
        "shape", "depth / width of the shape", "of the model: now, before",
        "depth, rank correlation: now, before", "normals, median angle: now, before",
    )  # fmt: skip
    return markdown(head, body, _RUN)


def preview_pictures() -> str:
    """Models of pictures, now and before."""
    body = [
        [
            str(row["picture"]),
            _both(row, "psnr_db", ".1f"),
            _both(row, "iou", ".3f"),
            _both(row, "back", ".2f"),
            _both(row, "untextured_s", ".2f"),
            _both(row, "textured_s", ".2f"),
        ]
        for row in recorded(_RUN, "pictures")
    ]
    head = (
        "picture", "front view, dB", "outline, IoU", "contrast of the back over the front's",
        "untextured, s", "textured, s",
    )  # fmt: skip
    return markdown(head, body, _RUN)


def _both(row: Row, name: str, form: str) -> str:
    return f"{row[name]:{form}}, {row[f'against_{name}']:{form}}"


TABLES: Final[dict[str, Callable[[], str]]] = {
    "measured preview-shapes": preview_shapes,
    "measured preview-pictures": preview_pictures,
}
