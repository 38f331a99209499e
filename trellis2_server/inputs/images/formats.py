"""Accepted picture formats.

To accept a format, add it to `FORMATS`. A format without a Pillow plugin also needs an import
that registers one in `available_formats`.
"""

from __future__ import annotations

from typing import Final

from PIL import Image

#: Pillow's format names, and how messages write them. Phones' multi-picture JPEG files count as
#: JPEG, animated PNG files as PNG.
FORMATS: Final = {
    "PNG": "PNG",
    "JPEG": "JPEG",
    "WEBP": "WebP",
    "GIF": "GIF",
    "BMP": "BMP",
    "TIFF": "TIFF",
    "AVIF": "AVIF",
}


def available_formats() -> list[str]:
    """List the accepted formats that the installed Pillow can open, by Pillow's names."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF needs Pillow 11.3


def format_names() -> str:
    """List all accepted formats for an error message."""
    *names, last = FORMATS.values()
    return f"{', '.join(names)} or {last}"
