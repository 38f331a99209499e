"""What the texture stage needs from the shape stage.

Does not know: how the arrays are computed or used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Trellis2State:
    """Input of the texture stage, on the CPU: about 28 MB for a large job.

    Each further picture takes 17 MB more, unless the features are joined.

    Attributes:
        pipeline_type: type that was used; after a retry it can be lower than requested.
        features: float32 [T, 32], latent of the shape.
        coords: int32 [T, 4], voxels of the latent: batch, x, y, z.
        condition: float32 [1, P, C], image features for the texture model; of V pictures [V, P, C],
            or joined, see `views.join`.
        generator: uint8 [5056], state of PyTorch's CPU generator after sampling the shape.
        subdivisions: uint8 [N, 1] for each decoder level, one bit per child voxel.
    """

    pipeline_type: str
    features: NDArray[np.float32]
    coords: NDArray[np.int32]
    condition: NDArray[np.float32]
    generator: NDArray[np.uint8]
    subdivisions: tuple[NDArray[np.uint8], ...]

    @property
    def nbytes(self) -> int:
        """Size of all arrays, bytes."""
        arrays = (self.features, self.coords, self.condition, self.generator, *self.subdivisions)
        return sum(a.nbytes for a in arrays)
