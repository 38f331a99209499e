"""Write binary PLY, with colours at the vertices.

Format: G. Turk, "The PLY Polygon File Format" (1994). Colours are sRGB, as readers expect them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.export.chunks import byte_chunks

if TYPE_CHECKING:
    from trellis2_server.export.formats.model import Model


def write_ply(model: Model) -> bytes:
    """Return the model as a binary PLY file."""
    colors = model.vertex_colors()
    fields: list[Any] = [("position", "<f4", 3)]
    properties = ["float x", "float y", "float z"]
    if colors is not None:
        fields.append(("color", "u1", 4))
        properties += ["uchar red", "uchar green", "uchar blue", "uchar alpha"]
    vertices = np.empty(len(model.positions), fields)
    vertices["position"] = model.positions
    if colors is not None:
        vertices["color"] = colors
    faces = np.empty(len(model.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, model.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {name}" for name in properties]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    return b"".join(
        ["\n".join([*header, ""]).encode(), *byte_chunks(vertices), *byte_chunks(faces)]
    )
