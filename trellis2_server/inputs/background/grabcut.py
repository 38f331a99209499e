"""Find the object by colour alone, with GrabCut: for plain backgrounds.

C. Rother, V. Kolmogorov, A. Blake, "GrabCut", SIGGRAPH 2004. Imports OpenCV on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import MissingPackageError
from trellis2_server.inputs.background.masks import remove_small_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

_OPENCV_INSTALL: Final = "pip install opencv-python-headless"


def grabcut_alpha(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Find the object's alpha by colour.

    Runs on a copy of at most 512 pixels. The initial marks come from the distance of each pixel
    to the background that the frame's border predicts.

    Args:
        rgb: uint8 [H, W, 3].

    Returns:
        uint8 [H, W]; equal pictures give equal results.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingPackageError(f"OpenCV is not installed ({_OPENCV_INSTALL})") from error
    height, width = rgb.shape[:2]
    scale = min(1.0, 512 / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    marks = _initial_marks(lab)
    if not (marks & 1).any():
        return np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(1)  # GrabCut uses this thread's generator; equal pictures need equal hashes
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(small[..., ::-1])
    cv2.grabCut(bgr, marks, (0, 0, 0, 0), models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
    mask = ~remove_small_parts(~remove_small_parts((marks & 1).astype(bool)), least=1 / 2000)
    return _upsample(rgb, mask)


def _initial_marks(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make GrabCut's initial marks from the frame's border.

    The background model is a quadratic surface in each channel of L*a*b*, which covers a lit
    wall and a vignette. It is fitted to the border without outliers.

    Args:
        lab: float32 [H, W, 3], CIE L*a*b*.

    Returns:
        uint8 [H, W]: 0 background, 1 object, 2 likely background, 3 likely object.
    """
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    ring = np.zeros((height, width), bool)
    depth = max(2, round(0.03 * max(height, width)))
    ring[:depth], ring[-depth:], ring[:, :depth], ring[:, -depth:] = True, True, True, True
    basis, colours = terms[ring], lab[ring]
    inliers = np.ones(len(basis), bool)
    surface = np.zeros((6, 3), np.float32)
    deviation = 1.0
    for _ in range(6):
        surface = np.linalg.lstsq(basis[inliers], colours[inliers], rcond=None)[0]
        distance = np.linalg.norm(colours - basis @ surface, axis=1)
        deviation = max(1.0, float(np.median(distance)))
        inliers = distance <= 2.5 * deviation
    distance = np.linalg.norm(lab - terms @ surface, axis=2)
    near, far = 2.5 * deviation, max(6.0, 3 * deviation)
    marks = np.where(distance > far, 3, 2).astype(np.uint8)
    # Flat regions of the wall's colour are certain background, also between two legs.
    on_surface = distance <= min(near, 2.5)
    ndimage = importlib.import_module("scipy.ndimage")
    flat = ndimage.binary_opening(on_surface, np.ones((5, 5), bool))
    # At least half of the ring is that near: the deviation is a median.
    marks[flat | (ring & (distance <= near))] = 0
    return marks


def _upsample(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Scale a small mask to the picture's size and fit its edge to the picture's edges.

    K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010, guided by the picture's grey.

    Args:
        rgb: uint8 [H, W, 3].
        mask: bool [h, w].

    Returns:
        Alpha, uint8 [H, W].
    """
    cv2 = importlib.import_module("cv2")
    height, width = rgb.shape[:2]
    coarse = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    radius = max(2, round(max(height, width) / 256))
    coarse = cv2.GaussianBlur(coarse, (0, 0), radius / 2)
    guide = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255

    def mean(values: Floats) -> Floats:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_mask = mean(guide), mean(coarse)
    slope = (mean(guide * coarse) - mean_guide * mean_mask) / (
        mean(guide * guide) - mean_guide * mean_guide + 1e-3
    )
    offset = mean_mask - slope * mean_guide
    fine = mean(slope) * guide + mean(offset)
    alpha = np.clip((fine - 0.25) * 2, 0, 1)
    return (alpha * 255 + 0.5).astype(np.uint8)
