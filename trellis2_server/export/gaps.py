"""Fill texels outside all faces, for filtering and mipmaps.

Does not know: what the values mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.kernels import gaps as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fill_gaps(values: NDArray[np.uint8], covered: NDArray[np.uint8]) -> None:
    """Fill uncovered texels with the mean of the nearest covered ones, in place (push-pull).

    Args:
        values: uint8 [S, S, C].
        covered: uint8 [S, S], 0: a gap.
    """
    levels = [(values, covered)]
    while levels[-1][1].shape[0] > 1:
        half = (levels[-1][1].shape[0] + 1) // 2
        coarse = (
            np.zeros((half, half, values.shape[2]), np.uint8),
            np.empty((half, half), np.uint8),
        )
        parallel_for(kernels.pull_values, half, *levels[-1], *coarse, grain=64)
        levels.append(coarse)
    for fine, coarse in zip(levels[-2::-1], levels[:0:-1], strict=True):
        parallel_for(kernels.push_values, len(fine[1]), *fine, coarse[0], grain=64)
