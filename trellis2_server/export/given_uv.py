"""Use the texture coordinates that a client's scene has, instead of unwrapping it.

    check_uv      whether they can be used: inside the square, without overlaps
    given_atlas   scene → `Atlas`

Does not know: the scene's file format, how a field is baked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.cancellation import call, cancellable, check
from trellis2_server.export.kernels import layouts as kernels
from trellis2_server.inputs.meshes.scene import are_mirrored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes import Scene
    from trellis2_server.mesh import Mesh
    from trellis2_server.reports import Report

#: Edge of the grid on which overlaps are looked for, whatever the size of the textures: the same
#: file is accepted for all sizes.
_GRID: Final = 2048
#: By which coordinates may be outside the square: what programs round.
_OUTSIDE: Final = 1e-4
#: Maximum sum of the heights of all faces, in edges of the square, and of their areas, in squares:
#: what the search for overlaps costs. Four million even faces have heights of 2,800.
_MAX_HEIGHT: Final = 20_000.0
_MAX_AREA: Final = 8.0
#: Two points of the surface so close together are one, edges of the model's cube.
_SAME_POINT: Final = 1e-3
#: Share of the covered texels in which faces may overlap: charts of curved surfaces fold over in a
#: few slivers. Those of this server's own models do in 5e-5.
_MAX_OVERLAP: Final = 1e-3
#: Share of the surface that may have no area in the texture: faces like needles.
_MAX_LOST: Final = 0.01
#: Area in the square below which a face has none.
_NO_AREA: Final = 1e-12


def check_uv(scene: Scene, placed: Mesh, report: Report | None = None) -> None:
    """Check that a picture can be baked with the scene's own texture coordinates.

    Faces that show the same points of the surface, such as the two sides of a leaf, may share their
    place. So may all faces along their edges, and some slivers; see `_MAX_OVERLAP`.

    Args:
        scene: in its own frame.
        placed: the whole scene as one mesh in the model frame, faces in the order of the parts.
        report: stage "read".

    Raises:
        InputError: a part has none, one is outside the square, or two faces overlap; says where.
    """
    with cancellable(report, "read"):
        for index, part in enumerate(scene.parts):
            if part.uv is None:
                raise InputError(
                    f"uv: keep needs texture coordinates, but {_part_name(scene, index)} has none; "
                    "they are read from GLB (TEXCOORD_0), OBJ (vt) and PLY (vertices with s, t or "
                    "u, v; faces with texcoord)"
                )
        uv, faces = _merge(scene)
        _check_inside(scene, uv, faces)
        corners = uv[faces]
        check()
        _check_area(scene, corners, placed)
        owner = np.full((_GRID, _GRID), -1, np.int32)
        one, other, count = call(
            kernels.find_overlap,
            np.clip(uv, 0, 1).astype(np.float64) * _GRID,
            faces,
            placed.faces,
            placed.vertices.astype(np.float64),
            _SAME_POINT,
            owner,
        )
        if count > _MAX_OVERLAP * np.count_nonzero(owner >= 0):
            raise InputError(
                f"uv: keep needs faces that do not overlap, but {_face_name(scene, one)} and "
                f"{_face_name(scene, other)} do, near u, v = {_middle(corners, one)}"
            )


def given_atlas(scene: Scene, placed: Mesh, size_px: int) -> Atlas:
    """Return the scene's own texture coordinates as an atlas of the placed mesh.

    Args:
        scene: checked by `check_uv`.
        placed: the whole scene as one mesh, faces in the order of the parts.
        size_px: edge of the textures, pixels.
    """
    uv, faces = _merge(scene)
    source = np.zeros(len(uv), np.int32)
    source[faces] = placed.faces
    texels = np.clip(uv, 0, 1) * np.float32(size_px)
    return Atlas(texels, source, faces, np.zeros(len(faces), np.int32), size_px)


def _merge(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the coordinates of all parts, and their faces as wound in the placed mesh."""
    flipped = are_mirrored(np.array([part.placement for part in scene.parts])).tolist()
    rows: list[NDArray[np.float32]] = []
    faces: list[NDArray[np.int32]] = []
    count = 0
    for part, is_flipped in zip(scene.parts, flipped, strict=True):
        if part.uv is None:
            raise InputError("uv: keep needs texture coordinates")
        corners = part.faces[:, ::-1] if is_flipped else part.faces
        rows.append(part.uv)
        faces.append(corners + np.int32(count))
        count += len(part.uv)
    return np.concatenate(rows), np.concatenate(faces)


def _check_inside(scene: Scene, uv: NDArray[np.float32], faces: NDArray[np.int32]) -> None:
    is_outside: NDArray[np.bool_] = np.any((uv < -_OUTSIDE) | (uv > 1 + _OUTSIDE), axis=1)
    if not is_outside.any():
        return
    found = np.flatnonzero(is_outside[faces].reshape(-1))
    if len(found):
        face, corner = divmod(int(found[0]), 3)
        u, v = uv[faces[face, corner]].tolist()
        raise InputError(
            f"uv: keep needs texture coordinates from 0 to 1, but {_face_name(scene, face)} has "
            f"u, v = {u:.4g}, {v:.4g}"
        )


def _check_area(scene: Scene, corners: NDArray[np.float32], placed: Mesh) -> None:
    """Check that nearly all of the surface has a place, and that a search is not too long.

    Args:
        scene: for the message.
        corners: float32 [F, 3, 2].
        placed: the surface.
    """
    sides = np.diff(corners.astype(np.float64), axis=1)
    areas = np.abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]) / 2
    if float(areas.sum()) > _MAX_AREA or float(np.ptp(corners[:, :, 1], axis=1).sum()) > (
        _MAX_HEIGHT
    ):
        raise InputError("uv: keep needs faces that do not overlap, but they do in many layers")
    edges = np.diff(placed.vertices[placed.faces].astype(np.float64), axis=1)
    surface = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    lost = np.where(areas < _NO_AREA, surface, 0)
    if float(lost.sum()) > _MAX_LOST * float(surface.sum()):
        face = int(lost.argmax())
        raise InputError(
            f"uv: keep needs faces with an area in the texture, but {_face_name(scene, face)} has "
            f"none, at u, v = {_middle(corners, face)}"
        )


def _part_name(scene: Scene, index: int) -> str:
    """Return the mesh and the primitive of a part, counted from 0 as in glTF."""
    mesh = scene.parts[index].mesh
    primitive = sum(part.mesh == mesh for part in scene.parts[:index])
    name = scene.meshes[mesh]
    return f"mesh {mesh}{f' ({name[:40]})' if name else ''}, primitive {primitive}"


def _face_name(scene: Scene, face: int) -> str:
    """Return the mesh, the primitive and the face, counted from 0 without those left out."""
    ends = np.cumsum([len(part.faces) for part in scene.parts])
    index = int(np.searchsorted(ends, face, "right"))
    first = int(ends[index]) - len(scene.parts[index].faces)
    return f"{_part_name(scene, index)}, face {face - first}"


def _middle(corners: NDArray[Any], face: int) -> str:
    u, v = corners[face].mean(axis=0).tolist()
    return f"{u:.4g}, {v:.4g}"
