"""Mesh files with many faces or many parts for their size, each under 5 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tests.support.meshes import glb, ply, triangle

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MILLION: Final = 1_000_000


def obj_of_apart_objects(count: int = 9_990) -> bytes:
    """Objects of one triangle each, beside each other."""
    return b"".join(
        b"o part %d\nv %d %d 0\nv %d %d 0\nv %d %d 1\nf -3 -2 -1\n"
        % (number, x, y, x + 1, y, x, y + 1)
        for number, (x, y) in enumerate((2 * (at % 100), at // 100 * 2) for at in range(count))
    )


def obj_of_long_faces() -> bytes:
    """Twenty faces of fifty thousand corners, which share a thousand vertices."""
    points = "".join("v {:.3f} {:.7f} {:.7f}\n".format(*point) for point in _thin(1000).tolist())
    faces = (" ".join(map(str, (row + 1).tolist())) for row in _corners(1000, 20, 50_000))
    return (points + "".join(f"f {corners}\n" for corners in faces)).encode()


def _thin(count: int) -> NDArray[np.float32]:
    """Return points close to a line, whose triangles have hardly any area, float32 [N, 3]."""
    points = np.zeros((count, 3), "<f4")
    points[:, 0] = np.arange(count) / count
    points[:, 1:] = 1e-6 * np.random.default_rng(0).random((count, 2))
    return points


def _corners(points: int, *shape: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, points, shape)


def ply_of_byte_faces() -> bytes:
    """A million triangles of four bytes, which share 250 vertices."""
    faces = np.full((MILLION, 4), 3, np.uint8)
    faces[:, 1:] = _corners(250, MILLION, 3)
    content = ply(250, MILLION, _thin(250).tobytes() + faces.tobytes())
    return content.replace(b"list uchar int", b"list uchar uchar")


def glb_of_one_strip() -> bytes:
    """A strip in which each byte is one of three million triangles."""
    points, strip = _thin(250).tobytes(), _corners(250, 3 * MILLION).astype(np.uint8).tobytes()
    size = len(points)
    tree = triangle(
        accessors=[
            {"bufferView": 0, "componentType": 5126, "count": 250, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5121, "count": 3 * MILLION, "type": "SCALAR"},
        ],
        bufferViews=[
            {"buffer": 0, "byteLength": size},
            {"buffer": 0, "byteOffset": size, "byteLength": len(strip)},
        ],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": 5}]}],
    )
    return glb(tree, points + strip)


def glb_of_shared_vertices() -> bytes:
    """Sixty primitives that each show the same eight thousand small triangles."""
    random = np.random.default_rng(0)
    corners = random.random((8_000, 1, 3)) + 0.004 * random.random((8_000, 3, 3))
    tree = triangle(
        accessors=[{"bufferView": 0, "componentType": 5126, "count": 24_000, "type": "VEC3"}],
        bufferViews=[{"buffer": 0, "byteLength": 288_000}],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}}] * 60}],
    )
    return glb(tree, corners.astype("<f4").tobytes())


def glb_of_dense_faces() -> bytes:
    """Almost as many triangles as a file of its size may have, each different, of near vertices."""
    count, faces = 60_000, 650_000
    near = np.sort(np.random.default_rng(2).integers(1, 60, (faces, 2)), axis=1)
    first = np.arange(faces) % (count - 100)
    corners = np.stack([first, first + near[:, 0], first + near[:, 1] + 1], axis=1)
    points, indices = _thin(count).tobytes(), corners.astype("<u2").tobytes()
    tree = triangle(
        accessors=[
            {"bufferView": 0, "componentType": 5126, "count": count, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3 * faces, "type": "SCALAR"},
        ],
        bufferViews=[
            {"buffer": 0, "byteLength": len(points)},
            {"buffer": 0, "byteOffset": len(points), "byteLength": len(indices)},
        ],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
    )
    return glb(tree, points + indices)


DENSE: Final[tuple[Callable[[], bytes], ...]] = (
    obj_of_apart_objects,
    obj_of_long_faces,
    ply_of_byte_faces,
    glb_of_one_strip,
    glb_of_shared_vertices,
    glb_of_dense_faces,
)
