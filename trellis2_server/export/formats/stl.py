"""Write binary STL: triangles without colours.

Format: 3D Systems, "StereoLithography Interface Specification" (1989).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.chunks import byte_chunks

if TYPE_CHECKING:
    from trellis2_server.export.formats.model import Model


def write_stl(model: Model) -> bytes:
    """Return the model as a binary STL file."""
    rows = np.zeros(
        len(model.faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")]
    )
    rows["corners"] = corners = model.positions[model.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    rows["normal"] = normals / np.where(length > 0, length, 1)
    header = b"trellis2-server".ljust(80) + len(rows).to_bytes(4, "little")
    return b"".join([header, *byte_chunks(rows)])
