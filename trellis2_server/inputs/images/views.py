"""Several cut-outs of one object: squares of one size, at a common scale.

Pictures whose sides are named are level views, in which the object has one height: they are scaled
so that it has. Of other pictures nothing is known that they have in common: each object fills its
square, as that of a single picture does.

Does not know: files, how an object is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from trellis2_server.inputs.images.transparency import VISIBLE_ALPHA, Box, box_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Largest edge of a square, pixels, as that of a single cut-out.
MAX_EDGE_PX: Final = 1024
#: Edge of a picture on a sheet, and pictures in a row.
CELL_PX: Final = 512
_COLUMNS: Final = 4


def square_alike(
    squares: Sequence[NDArray[np.uint8]], *, is_level: bool
) -> list[NDArray[np.uint8]]:
    """Bring the squares of one object to one edge, and to a common scale.

    The first picture keeps its scale, unless the squares would be over 1024 pixels.

    Args:
        squares: uint8 [S, S, 4] of each picture, straight alpha, S differs.
        is_level: whether the object has the same height in all of them.

    Returns:
        uint8 [S, S, 4] of each; the object is centred.
    """
    if not is_level:
        edge = len(squares[0])
        return [_resized(square, (edge, edge)) for square in squares]
    boxes = [_box(square) for square in squares]
    height = boxes[0].bottom - boxes[0].top
    scales = [height / (box.bottom - box.top) for box in boxes]
    edge = max(
        max(box.bottom - box.top, box.right - box.left) * scale
        for box, scale in zip(boxes, scales, strict=True)
    )
    edge_px = min(round(edge), MAX_EDGE_PX)
    shrink = edge_px / edge
    return [
        _placed(square[box.rows, box.columns], scale * shrink, edge_px)
        for square, box, scale in zip(squares, boxes, scales, strict=True)
    ]


def _box(square: NDArray[np.uint8]) -> Box:
    box = box_of(square[..., 3] >= VISIBLE_ALPHA)
    return box or Box(0, 0, *square.shape[:2])


def _placed(part: NDArray[np.uint8], scale: float, edge_px: int) -> NDArray[np.uint8]:
    """Scale a picture [H, W, 4] and put it into the middle of a square."""
    height, width = (min(max(round(side * scale), 1), edge_px) for side in part.shape[:2])
    square = np.zeros((edge_px, edge_px, 4), np.uint8)
    top, left = (edge_px - height) // 2, (edge_px - width) // 2
    square[top : top + height, left : left + width] = _resized(part, (width, height))
    return square


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to (width, height); colour under alpha 0 is 0."""
    if picture.shape[1::-1] == size:
        return picture
    # Pillow premultiplies RGBA to resize it, so hidden colour does not bleed into edges.
    resized = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    out = np.array(resized)
    out.view(np.uint32)[..., 0] *= out[..., 3] > 0
    return out


def sheet(squares: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return pictures side by side, four in a row, each at most 512 pixels wide.

    Args:
        squares: uint8 [S, S, 4] of each picture.

    Returns:
        uint8 [H, W, 4]; what has no picture is transparent.
    """
    cell = min(len(squares[0]), CELL_PX)
    columns = min(len(squares), _COLUMNS)
    rows = -(-len(squares) // columns)
    out = np.zeros((rows * cell, columns * cell, 4), np.uint8)
    for index, square in enumerate(squares):
        row, column = divmod(index, columns)
        out[row * cell :][:cell, column * cell :][:, :cell] = _resized(square, (cell, cell))
    return out
