"""Draw a GLB in software, and measure how well its front view matches a cut-out.

    python bench/render.py model.glb out.png [--view front] [--size 512] [--shading lit]
    python bench/render.py model.glb out.png --turntable 8

The renderer is that of the client's thumbnails, see `trellis2_server.drawing`.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trellis2_server.drawing import (
    MARGIN,
    VIEWS,
    Shading,
    axes_of,
    draw,
    draw_model,
    load_glb,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MATCH_SIZE_PX: Final = 512


def _edges(profile: NDArray[Any]) -> tuple[float, float]:
    """Return where a profile first rises above a half and last falls below it.

    Args:
        profile: float [N], largest alpha of each column, 0 … 1.

    Returns:
        Positions in pixels, interpolated linearly between centres; pixel i spans [i, i + 1].
    """
    padded = np.concatenate([[0.0], profile, [0.0]])
    inside = np.flatnonzero(padded > 0.5)
    if not len(inside):
        raise ValueError("the cut-out shows no object")
    i, j = int(inside[0]), int(inside[-1])
    low = i - (padded[i] - 0.5) / (padded[i] - padded[i - 1])
    high = j + (padded[j] - 0.5) / (padded[j] - padded[j + 1])
    return float(low) - 0.5, float(high) - 0.5


def front_view_match(glb: bytes, cutout_rgba: NDArray[np.uint8]) -> tuple[float, float]:
    """Compare the model's front view with the cut-out, at 512 px.

    The cut-out is padded to a square and reduced to 512 px with an area filter, premultiplied. The
    view is placed so that the bounding boxes of the model and of the object (alpha above 0.5) have
    the same centre and the same longer side.

    Args:
        glb: the model.
        cutout_rgba: uint8 [H, W, 4], straight alpha.

    Returns:
        PSNR in dB, of the RGB of pixels with alpha above 0.5 and full coverage (4 of 4 samples).
        IoU of alpha above 0.5 and coverage of at least 0.5.
    """
    height, width = cutout_rgba.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cutout_rgba / np.float32(255)
    x0, x1 = _edges(square[..., 3].max(0))
    y0, y1 = _edges(square[..., 3].max(1))

    square[..., :3] *= square[..., 3:]
    small = cv2.resize(square, (MATCH_SIZE_PX, MATCH_SIZE_PX), interpolation=cv2.INTER_AREA)
    alpha = small[..., 3]
    expected = 255 * small[..., :3] / np.maximum(alpha[..., None], 1e-6)

    model = replace(load_glb(glb), alpha_mode="OPAQUE")  # coverage is that of the surface
    used = model.positions[model.faces.ravel(), :2]
    low, high = used.min(0), used.max(0)
    unit = float((high - low).max()) / max(x1 - x0, y1 - y0)
    center = (low + high) / 2
    shown = draw_model(
        model,
        view="front",
        shading="unlit",
        frame=(
            float(center[0]) + (side / 2 - (x0 + x1) / 2) * unit,
            float(center[1]) - (side / 2 - (y0 + y1) / 2) * unit,
            side * unit,
        ),
    )
    inside, covered = alpha > 0.5, shown[..., 3] >= 127
    both = inside & (shown[..., 3] == 255)
    iou = float((inside & covered).sum() / max((inside | covered).sum(), 1))
    if not both.any():
        return 0.0, iou
    error = np.mean((expected[both] - shown[both][:, :3]) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9))), iou


def _on_grey(picture: NDArray[np.uint8], grey: int = 90) -> NDArray[np.uint8]:
    alpha = picture[..., 3:] / np.float32(255)
    return np.rint(picture[..., :3] * alpha + grey * (1 - alpha)).astype(np.uint8)


def turntable(
    glb: bytes, n: int = 8, *, size_px: int = 320, shadings: tuple[Shading, ...] = ("lit", "clay")
) -> bytes:
    """Return a PNG with `n` views around the vertical axis, from slightly above, a row a shading.

    Args:
        glb: the model.
        n: number of views.
        size_px: edge of a view, pixels.
        shadings: one row each.
    """
    model = load_glb(glb)
    center = (model.positions.min(0) + model.positions.max(0)) / 2
    reach = np.linalg.norm((model.positions - center)[:, [0, 2]], axis=1).max()
    rows = []
    for shading in shadings:
        row = []
        for i in range(n):
            view = (360.0 * i / n, 12.0 if i else 0.0)
            axes = axes_of(view)
            flat = axes[:2] @ center
            tall = float(np.ptp(model.positions @ axes[1]))
            extent = max(2 * float(reach), tall) * MARGIN
            row.append(
                _on_grey(
                    draw_model(
                        model,
                        size_px=size_px,
                        view=view,
                        shading=shading,
                        frame=(float(flat[0]), float(flat[1]), extent),
                    )
                )
            )
        rows.append(np.concatenate(row, 1))
    out = io.BytesIO()
    Image.fromarray(np.concatenate(rows, 0)).save(out, "PNG")
    return out.getvalue()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Draw a GLB into a PNG.")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--view", default="front", choices=sorted(VIEWS))
    parser.add_argument("--azimuth", type=float, help="degrees, instead of --view")
    parser.add_argument("--elevation", type=float, default=0.0, help="degrees, with --azimuth")
    parser.add_argument("--size", type=int, default=MATCH_SIZE_PX, help="pixels")
    parser.add_argument("--shading", default="lit", choices=["unlit", "lit", "clay"])
    parser.add_argument("--turntable", type=int, metavar="N", help="N views in one image instead")
    parser.add_argument("--match", type=Path, metavar="CUTOUT", help="print PSNR and IoU as well")
    arguments = parser.parse_args()
    glb = arguments.model.read_bytes()
    if arguments.turntable:
        arguments.out.write_bytes(turntable(glb, arguments.turntable, size_px=arguments.size))
    else:
        view = arguments.view
        if arguments.azimuth is not None:
            view = (arguments.azimuth, arguments.elevation)
        drawn = draw(glb, size_px=arguments.size, view=view, shading=arguments.shading)
        Image.fromarray(drawn).save(arguments.out)
    if arguments.match:
        with Image.open(arguments.match) as picture:
            psnr_db, iou = front_view_match(glb, np.asarray(picture.convert("RGBA")))
        print(f"front view: {psnr_db:.1f} dB, IoU {iou:.3f}")


if __name__ == "__main__":
    main()
