"""Write binary STL: triangles without colours.

Format: 3D Systems, "StereoLithography Interface Specification" (1989).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.chunks import row_chunks
from trellis2_server.export.formats.rows import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model
    from trellis2_server.inputs.meshes import Axis

#: Header by the axis that points up: a file with Y up that is sent back is recognised by it.
_HEADERS: Final[Mapping[Axis, bytes]] = {"y": b"trellis2-server", "z": b"trellis2-server, Z up"}


def write_stl(model: Model) -> bytes:
    """Return the model as a binary STL file."""

    def rows(start: int, stop: int) -> NDArray[Any]:
        triangles = np.zeros(
            stop - start, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")]
        )
        triangles["corners"] = model.positions[model.faces[start:stop]]
        corners = triangles["corners"].astype(np.float64)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        triangles["normal"] = unit_vectors(normals, without=(0, 0, 0))
        return triangles

    count = len(model.faces)
    header = _HEADERS[model.up_axis].ljust(80) + count.to_bytes(4, "little")
    return b"".join([header, *row_chunks(rows, count)])
