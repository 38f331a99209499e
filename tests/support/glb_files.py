"""Read GLBs in tests, independently of the exporter."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Check the container of a GLB, and return its JSON document and its binary chunk."""
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    assert size % 4 == 0
    document = json.loads(content[20 : 20 + size])
    binary, kind = struct.unpack_from("<I4s", content, 20 + size)
    assert kind == b"BIN\0"
    assert 28 + size + binary == len(content)
    assert binary == document["buffers"][0]["byteLength"]
    return document, content[28 + size :]


def to_gltf(points: NDArray[Any]) -> NDArray[Any]:
    """Convert points [N, 3] from the model frame to glTF's."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], 1)
