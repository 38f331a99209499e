"""Tasks of a decoder that find objects in pixels; see `inputs.background.objects`.

Does not know: who calls, in which process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.inputs.background.objects import LocalFinder
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trellis2_server.decoders.messages import Result, Task

_finder: Final = LocalFinder()


def find_by_color(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Find an object by colour.

    Args:
        content: `rgb`, uint8 [H, W, 3].
        arguments: `height`, `width`.

    Returns:
        `rgba`, uint8 [H, W, 4].
    """
    rgb = read_pixels(content, arguments)
    return {}, {"rgba": _finder.find_by_color(rgb, no_check)}


def apply_outline(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Cut a picture along an outline.

    Args:
        content: `rgb`, uint8 [H, W, 3], then the outline, uint8 [H, W].
        arguments: `height`, `width`, `kind` of the outline.

    Returns:
        `rgba`, uint8 [H, W, 4].
    """
    split = len(content) // 4 * 3
    rgb = read_pixels(content[:split], arguments)
    outline = np.frombuffer(content[split:], np.uint8).reshape(rgb.shape[:2])
    return {}, {"rgba": _finder.apply_outline(rgb, outline, arguments["kind"], no_check)}


def read_pixels(content: memoryview, arguments: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return `rgb`, uint8 [H, W, 3], of a request with `height` and `width`."""
    return np.frombuffer(content, np.uint8).reshape(arguments["height"], arguments["width"], 3)


TASKS: Final[dict[str, Task]] = {
    "find_by_color": find_by_color,
    "apply_outline": apply_outline,
}
