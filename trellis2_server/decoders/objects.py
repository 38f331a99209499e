"""Objects, found in a decoder process: OpenCV and SciPy do not run in the server's.

Does not know: how an object is found, background models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.decoders.process import invalid_result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.decoders.pool import DecoderPool
    from trellis2_server.inputs.background.objects import OutlineKind
    from trellis2_server.reports import Check


class DecoderFinder:
    """Is an `ObjectFinder` whose work is done by decoders.

    Besides those of `ObjectFinder`, its methods raise `InputError` if the work takes too long or
    its process crashes twice.

    Args:
        decoders: the processes.
    """

    def __init__(self, decoders: DecoderPool) -> None:
        self._decoders = decoders

    def find_by_color(self, rgb: NDArray[np.uint8], check: Check) -> NDArray[np.uint8]:
        """Find the object by colour alone."""
        return self._call("find_by_color", pixels(rgb), rgb.shape, {}, check)

    def apply_outline(
        self,
        rgb: NDArray[np.uint8],
        outline: NDArray[np.uint8],
        kind: OutlineKind,
        check: Check,
    ) -> NDArray[np.uint8]:
        """Cut the picture along an outline that is known."""
        content = pixels(np.concatenate([rgb.reshape(-1), outline.reshape(-1)]))
        return self._call("apply_outline", content, rgb.shape, {"kind": kind}, check)

    def _call(
        self,
        task: str,
        content: memoryview,
        shape: tuple[int, ...],
        more: dict[str, object],
        check: Check,
    ) -> NDArray[np.uint8]:
        height, width = shape[:2]
        arguments = {"height": height, "width": width, **more}
        result = self._decoders.call(
            task,
            content,
            arguments,
            field="image",
            result_bytes=4 * height * width,
            check=check,
        )
        return checked_pixels(result.arrays.get("rgba"), (height, width, 4))


def pixels(array: NDArray[np.uint8]) -> memoryview:
    """Return the bytes of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).data


def checked_pixels(array: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an array that a decoder sent.

    Raises:
        InputError: it is not what was asked for.
    """
    if array is None or array.dtype != np.uint8 or array.shape != shape:
        raise invalid_result("image")
    return array
