"""Accepted picture formats.

To accept a format, add it to `FORMATS`. A format without a Pillow plugin also needs an import
that registers one in `available_formats`.

HEIC needs a package of its own, pi-heif or pillow-heif, which is optional: libheif and the codec
are under the LGPL. It decodes in the thread that calls it.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

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
    "HEIF": "HEIC",
}
#: Packages that read HEIC, the smaller one first.
HEIF_PACKAGES: Final = ("pi_heif", "pillow_heif")
HEIF_INSTALL: Final = "pip install pi-heif"


def available_formats() -> list[str]:
    """List the accepted formats that the installed Pillow can open, by Pillow's names."""
    Image.init()
    if "HEIF" not in Image.OPEN:
        _register_heif()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF needs Pillow 11.3


def _register_heif() -> None:
    """Register a plugin for HEIC, if there is one."""
    for name in HEIF_PACKAGES:
        try:
            package: Any = importlib.import_module(name)
            package.register_heif_opener(
                thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
            )
        except (ImportError, OSError, AttributeError):
            continue
        return


def format_names() -> str:
    """List all accepted formats for an error message."""
    *names, last = FORMATS.values()
    return f"{', '.join(names)} or {last}"
