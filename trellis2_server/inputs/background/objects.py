"""Make the picture of an object from a picture and what is known of its outline.

`ObjectFinder` is what a cutter calls; `LocalFinder` does it in the calling process.

Does not know: files, background models, which method is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from trellis2_server.inputs.background.foreground import estimate_foreground
from trellis2_server.inputs.background.grabcut import grabcut_alpha
from trellis2_server.inputs.background.masks import mask_to_alpha

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.reports import Check

#: What the values [H, W] beside a picture mean: a background model's mask, or finished alpha.
OutlineKind = Literal["mask", "alpha"]


class ObjectFinder(Protocol):
    """Makes pictures of objects. Thread-safe."""

    def find_by_color(self, rgb: NDArray[np.uint8], check: Check) -> NDArray[np.uint8]:
        """Find the object by colour alone, with GrabCut.

        Args:
            rgb: uint8 [H, W, 3].
            check: ends the call by raising.

        Returns:
            uint8 [H, W, 4]: straight alpha, the object's own colour at its soft edge.

        Raises:
            MissingPackageError: OpenCV is not installed.
        """
        ...

    def apply_outline(
        self,
        rgb: NDArray[np.uint8],
        outline: NDArray[np.uint8],
        kind: OutlineKind,
        check: Check,
    ) -> NDArray[np.uint8]:
        """Cut the picture along an outline that is known.

        Args:
            rgb: uint8 [H, W, 3].
            outline: uint8 [H, W].
            kind: what the outline's values mean. A mask is cleaned up.
            check: ends the call by raising.

        Returns:
            uint8 [H, W, 4], as of `find_by_color`.
        """
        ...


class LocalFinder:
    """Finds objects in the calling process, which imports OpenCV and SciPy."""

    def find_by_color(self, rgb: NDArray[np.uint8], check: Check) -> NDArray[np.uint8]:
        """Find the object by colour alone; the check is not called."""
        del check
        return _with_alpha(rgb, grabcut_alpha(rgb))

    def apply_outline(
        self,
        rgb: NDArray[np.uint8],
        outline: NDArray[np.uint8],
        kind: OutlineKind,
        check: Check,
    ) -> NDArray[np.uint8]:
        """Cut the picture along an outline that is known; the check is not called."""
        del check
        return _with_alpha(rgb, mask_to_alpha(outline, rgb) if kind == "mask" else outline)


def _with_alpha(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.dstack([estimate_foreground(rgb, alpha), alpha])
