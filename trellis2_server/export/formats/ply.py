"""Write binary PLY, with normals and colours at the vertices.

Format: G. Turk, "The PLY Polygon File Format" (1994). Colours are sRGB, as readers expect them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.export.chunks import row_chunks
from trellis2_server.export.formats.colors import place_colors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model


def write_ply(model: Model) -> bytes:
    """Return the model as a binary PLY file."""
    colors, normals = place_colors(model), model.place_normals()
    fields: list[Any] = [("position", "<f4", 3), ("normal", "<f4", 3)]
    properties = [f"float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    if colors is not None:
        fields.append(("color", "u1", 4))
        properties += ["uchar red", "uchar green", "uchar blue", "uchar alpha"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(model.positions)}"]
    header += [f"property {name}" for name in properties]
    header += [
        f"element face {len(model.faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]

    def vertices(start: int, stop: int) -> NDArray[Any]:
        rows = np.empty(stop - start, fields)
        rows["position"], rows["normal"] = model.positions[start:stop], normals[start:stop]
        if colors is not None:
            rows["color"] = colors[start:stop]
        return rows

    def faces(start: int, stop: int) -> NDArray[Any]:
        rows = np.empty(stop - start, [("count", "u1"), ("corners", "<i4", 3)])
        rows["count"], rows["corners"] = 3, model.faces[start:stop]
        return rows

    return b"".join(
        [
            "\n".join([*header, ""]).encode(),
            *row_chunks(vertices, len(model.positions)),
            *row_chunks(faces, len(model.faces)),
        ]
    )
