"""What the side of an object has that the picture does not show.

Does not know: meshes, voxels, how the back's colours are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from trellis2_server.engines.preview.face import find_face

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trellis2_server.request_fields import Back

#: mirror: the front's colours. fill: a texture in the manner of the object's outer parts.
BackMode = Literal["mirror", "fill"]


#: Depth below which a model is a plate, on both sides of which a face may be.
_PLATE_DEPTH: Final = 0.5


def choose_back(picture: NDArray[np.uint8], asked: Back, depth: float = 1.0) -> BackMode:
    """Return what was asked for; for "auto", what suits the picture.

    Args:
        picture: RGBA uint8 [S, S, 4].
        asked: field of the request.
        depth: of the model, 0, flat, to 1, as deep as wide.
    """
    if asked != "auto":
        return asked
    # Objects seen from the side are much alike from the other side, and so are those that have no
    # sides: only a face on both sides of a head is wrong for sure.
    return "mirror" if depth < _PLATE_DEPTH or find_face(picture) is None else "fill"
