"""What a picture's own transparency means: a cut-out, a translucent object, or nothing.

Does not know: files, how an object is found in opaque pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Pixels with a higher alpha belong to the object's box: TRELLIS.2's 0.8 * 255.
OPAQUE_ALPHA: Final = 204
#: Least alpha that counts as visible: 10 %.
VISIBLE_ALPHA: Final = 26
#: Alpha under which a pixel of a frame's border is background.
_BACKGROUND_ALPHA: Final = 128
#: A cut-out's background takes this share of the frame's border, and of the whole frame; corners
#: that a program has rounded take less of the frame. Or it takes half of the frame.
_BORDER_SHARE, _FRAME_SHARE, _LARGE_SHARE = 0.2, 0.05, 0.5
#: An object is faint if less than this share of its visible pixels is opaque.
_OPAQUE_SHARE: Final = 0.01
#: How far faint pixels may stick out of the opaque box, as a share of its side and in pixels:
#: soft edges do.
_EDGE_SHARE, _EDGE_PX = 0.02, 2
#: Faint pixels outside of the opaque box that count, as a share of the opaque ones: specks do not.
_FAINT_SHARE: Final = 0.02
#: Share of the frame's border at which faint pixels are a veil over everything.
_VEIL_SHARE: Final = 0.9
#: Faint pixels without a brighter channel are a shadow.
_SHADOW_LEVEL: Final = 48
_SHADOW_SHARE: Final = 0.95
#: Share of its box that a rectangle fills, with rounded corners.
_FILLED_SHARE: Final = 0.9

TRANSLUCENT: Final = (
    "image: the whole object is translucent; its opacity was raised until its most opaque parts "
    "are opaque"
)
PARTLY_TRANSLUCENT: Final = (
    "image: parts of the object are translucent; the model sees them darker than they are"
)
SHADOW: Final = (
    "image: dark translucent pixels beside the object were taken for its shadow and not framed"
)


class Box(NamedTuple):
    """A rectangle of pixels.

    Attributes:
        top: first row.
        left: first column.
        bottom: row after the last one.
        right: column after the last one.
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.left, self.right)


def box_of(mask: NDArray[np.bool_], least: int = 1) -> Box | None:
    """Return the box of the rows and columns with at least that many pixels of a mask [H, W]."""
    rows = np.flatnonzero(np.count_nonzero(mask, axis=1) >= least)
    columns = np.flatnonzero(np.count_nonzero(mask, axis=0) >= least)
    if not len(rows) or not len(columns):
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def is_cut_out(alpha: NDArray[np.uint8]) -> bool:
    """Whether a picture's transparency is the background of an object.

    A few pixels, rounded corners and small holes are not.

    Args:
        alpha: uint8 [H, W].
    """
    is_background = alpha < _BACKGROUND_ALPHA
    share = is_background.mean()
    return bool(
        share >= _LARGE_SHARE
        or (share >= _FRAME_SHARE and _border(is_background).mean() >= _BORDER_SHARE)
    )


def stretch_alpha(alpha: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the alpha of a faint object or picture, with its most opaque parts made opaque.

    Args:
        alpha: uint8 [H, W].

    Returns:
        uint8 [H, W]; None: there is nothing to stretch.
    """
    counts = np.bincount(alpha.ravel(), minlength=256)
    counts[:VISIBLE_ALPHA] = 0
    visible = int(counts.sum())
    if not visible:
        return None
    reached = np.cumsum(counts[::-1])[::-1]  # pixels with at least that alpha
    top = int(np.flatnonzero(reached >= max(visible * _OPAQUE_SHARE, 1))[-1])
    if top > OPAQUE_ALPHA:
        return None
    table = np.minimum(np.arange(256) * 255 / top + 0.5, 255).astype(np.uint8)
    return table[alpha]


def find_box(rgba: NDArray[np.uint8]) -> tuple[Box | None, str | None]:
    """Return the box of a cut-out's object, and a warning about its translucent parts.

    It is that of the opaque pixels, as in TRELLIS.2, unless translucent parts are outside of it.

    Args:
        rgba: uint8 [H, W, 4], straight alpha.
    """
    alpha = rgba[..., 3]
    is_opaque = alpha > OPAQUE_ALPHA
    box = box_of(is_opaque)
    if box is None:
        return None, None
    reach = [
        max(_EDGE_PX, round(_EDGE_SHARE * side))
        for side in (box.bottom - box.top, box.right - box.left)
    ]
    is_outside = alpha >= VISIBLE_ALPHA
    is_outside[
        max(box.top - reach[0], 0) : box.bottom + reach[0],
        max(box.left - reach[1], 0) : box.right + reach[1],
    ] = False
    count = np.count_nonzero(is_outside)
    is_visible = alpha >= VISIBLE_ALPHA
    if (
        count < max(_FAINT_SHARE * np.count_nonzero(is_opaque), 1)
        or _border(is_visible).mean() >= _VEIL_SHARE
    ):
        return box, None
    if (rgba[is_outside, :3].max(axis=1) < _SHADOW_LEVEL).mean() >= _SHADOW_SHARE:
        return box, SHADOW
    wide = box_of(is_visible, least=max(_EDGE_PX, max(alpha.shape) // 200)) or box
    both = zip(box, wide, strict=True)
    top, left, bottom, right = (
        (min if side < 2 else max)(pair)  # noqa: PLR2004 - first the upper left corner
        for side, pair in enumerate(both)
    )
    return Box(top, left, bottom, right), PARTLY_TRANSLUCENT


def search_box(alpha: NDArray[np.uint8]) -> Box:
    """Return where in a partly transparent picture to look for the object.

    That is the frame, or the opaque rectangle in it, whose borders are not the object's.

    Args:
        alpha: uint8 [H, W].
    """
    height, width = alpha.shape
    is_visible = alpha >= VISIBLE_ALPHA
    box = box_of(is_visible)
    if box is None or is_visible[box.rows, box.columns].mean() < _FILLED_SHARE:
        return Box(0, 0, height, width)
    return box


def flatten(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture on one colour, in place of what is transparent: uint8 [H, W, 3].

    The colour is that of the border where most of that is opaque, so that nothing stands out;
    otherwise black or white, whichever is further from the picture's colours.

    Args:
        rgba: uint8 [H, W, 4], straight alpha.
    """
    alpha = rgba[..., 3]
    is_opaque = alpha > OPAQUE_ALPHA
    border, is_border_opaque = _border(rgba), _border(is_opaque)
    if is_border_opaque.mean() >= _LARGE_SHARE:
        color = np.median(border[is_border_opaque][:, :3], axis=0)
    else:
        is_bright = is_opaque.any() and rgba[is_opaque, :3].mean() > 127  # noqa: PLR2004 - middle
        color = np.full(3, 0 if is_bright else 255)
    share = alpha[..., None].astype(np.float32) / 255
    return (rgba[..., :3] * share + color * (1 - share) + 0.5).astype(np.uint8)


def _border(values: NDArray[Any]) -> NDArray[Any]:
    """Return the outermost pixels of a frame [H, W, …], the corners twice."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
