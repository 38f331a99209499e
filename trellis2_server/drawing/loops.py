"""`Loops`: the two functions that take nearly all of the time, which a caller may replace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from trellis2_server.drawing.interpolation import interpolate
from trellis2_server.drawing.rasterizer import rasterize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trellis2_server.drawing.model import DrawnModel, Pyramid


class Rasterizer(Protocol):
    """See `rasterizer.rasterize`."""

    def __call__(
        self,
        points: NDArray[np.float64],
        faces: NDArray[np.int32],
        n: int,
        *,
        cull: bool,
        beyond: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the nearest face at each sample, and its depth."""
        ...


class Interpolator(Protocol):
    """See `interpolation.interpolate`."""

    def __call__(
        self,
        model: DrawnModel,
        pyramid: Pyramid,
        points: NDArray[np.float64],
        owner: NDArray[np.int32],
        sample: NDArray[np.intp],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return texture and normals at samples."""
        ...


class Loops(NamedTuple):
    """The two functions. Others must return the same as those of this package."""

    rasterize: Rasterizer
    interpolate: Interpolator


NUMPY_LOOPS: Final = Loops(rasterize, interpolate)
