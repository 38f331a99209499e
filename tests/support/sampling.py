"""Values of a voxel field at points, by the functions with which the exporter bakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export import bake
from trellis2_server.export.kernels import bake as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh, VoxelField


def sample_field(
    points: NDArray[np.float64], field: VoxelField, original: Mesh | None = None
) -> NDArray[np.float64]:
    """Interpolate the field's attributes at points, as `bake` does.

    Args:
        points: float64 [N, 3], in the model frame.
        field: attributes to interpolate.
        original: surface to whose closest points the points are mapped; None: they are not.

    Returns:
        float64 [N, 6], in [0, 1]; NaN where no voxel is near.
    """
    values = np.full((len(points), 6), np.nan)
    places = np.array(points, np.float64, order="C")
    index = bake.build_index(field, original)
    if index.has_surface:
        parallel_for(kernels.project_points, len(places), places, *index.surface)
    parallel_for(
        kernels.sample_points, len(places), places, *index.voxels, index.resolution, values
    )
    return values
