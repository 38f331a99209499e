"""What the side of an object has that the picture does not show.

Does not know: meshes, voxels, how the back's colours are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trellis2_server.engines.preview.face import find_face

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trellis2_server.request_fields import Back

#: mirror: the front's colours. fill: a texture in the manner of the object's outer parts.
BackMode = Literal["mirror", "fill"]


def choose_back(picture: NDArray[np.uint8], asked: Back) -> BackMode:
    """Return what was asked for; for "auto", what suits the picture.

    Args:
        picture: RGBA uint8 [S, S, 4].
        asked: field of the request.
    """
    if asked != "auto":
        return asked
    # Objects seen from the side are much alike from the other side, and so are those that have no
    # sides: only a face on both sides is wrong for sure.
    return "mirror" if find_face(picture) is None else "fill"
