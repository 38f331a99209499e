"""Accessors of the parts of a scene, which follow each other in one buffer view.

Does not know: how the bytes of a view are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.export.gltf import MAX_SHORT_VERTICES, UINT, USHORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.export.geometry import GltfParts
    from trellis2_server.export.gltf import GltfBuilder


def add_indices(
    builder: GltfBuilder, parts: GltfParts, add_view: Callable[[NDArray[Any]], int]
) -> list[int]:
    """Add the accessors of the parts' faces and return their indices.

    Args:
        builder: of the file.
        parts: the triangles.
        add_view: adds a buffer view of indices, uint16 or uint32 [N], and returns its index.
    """
    found = np.empty(len(parts.vertices), np.int64)
    is_short = parts.vertices <= MAX_SHORT_VERTICES
    for dtype, kind, chosen in (("<u2", USHORT, is_short), ("<u4", UINT, ~is_short)):
        if not chosen.any():
            continue
        faces = parts.faces
        if not chosen.all():
            faces = faces[np.repeat(chosen, parts.triangles)]
        rows = faces.astype(dtype).reshape(-1)
        counts = 3 * parts.triangles[chosen]
        view, stride = add_view(rows), rows.itemsize
        found[chosen] = add_accessors(builder, view, stride, counts, kind, "SCALAR")
    return found.tolist()


def add_accessors(  # noqa: PLR0913, PLR0917 - what glTF says of elements
    builder: GltfBuilder,
    view: int,
    stride: int,
    counts: NDArray[np.int64],
    kind: int,
    shape: str,
    **more: object,
) -> list[int]:
    """Add accessors that follow each other in a view, and return their indices.

    Args:
        builder: of the file.
        view: index of the buffer view.
        stride: bytes from one element to the next.
        counts: int64 [P], elements of each accessor.
        kind: component type.
        shape: type of an element.
        more: further properties of the accessors.
    """
    offsets = stride * (np.cumsum(counts) - counts)
    return [
        builder.add(
            "accessors",
            {
                "bufferView": view,
                **({"byteOffset": offset} if offset else {}),
                "componentType": kind,
                "count": count,
                "type": shape,
                **more,
            },
        )
        for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True)
    ]
