"""Solids for printing: closed, manifold, wound outward, without inner shells, not self-touching.

A surface that is a solid already is only decimated; remeshing makes others closed and manifold.
Where the surface touches itself, its vertices are moved to the middle of their neighbours.
Decimation keeps it closed and flips no face; where the decimated surface touches itself, the
vertices around are kept as they are, and all is decimated again. In the end every property is
checked, and each one that does not hold is a warning.

Does not know: files, their size, how the surface was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import BOUNDARY, NON_MANIFOLD, is_watertight, twins
from trellis2_server.export.clean import drop_unused
from trellis2_server.export.decimate import decimate
from trellis2_server.export.parts import Parts
from trellis2_server.export.remesh import remesh
from trellis2_server.export.triangle_tree import TriangleTree, count_fans
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.reports import Report

#: Vertices lie on multiples of this, model units: those of a file that is scaled, moved and rounded
#: to float32 do not fall together.
_STEP: Final = 2.0**-22
#: How often the vertices of faces that touch are moved, and after how many times their neighbours
#: are, too.
_MOVES, _PATIENCE = 40, 5
#: Parts of at most so many faces, a few cells, are dropped if they touch something even then.
_SPECK_FACES: Final = 128
#: How often a surface is decimated to the same number of faces, and the first distance from faces
#: that touch up to which vertices are kept, in cells of the remeshing; it doubles each time.
_TRIES, _FIRST_REACH = 3, 2.0
#: Share of the area that may have thin walls, which acute edges have; and share of the area of thin
#: walls that may be thinner than what is called the thinnest.
_NEGLIGIBLE, _IGNORED = 1e-4, 0.1
#: Direction of the rays that tell whether a part lies inside another one.
_RAY: Final = np.array([0.8165, 0.4743, 0.3291])
#: Distance from a face at which such a ray starts, model units.
_CLEARANCE: Final = 1e-7


def make_solid(
    mesh: Mesh, target: int, resolution: int, min_wall: float, report: Report | None = None
) -> tuple[Mesh, list[str]]:
    """Return a solid, and sentences for the client: faults, and walls that are too thin.

    Args:
        mesh: cleaned.
        target: maximum number of faces, see `decimate_solid`.
        resolution: cells along an edge of the unit cube, where it has to be remeshed.
        min_wall: see `find_warnings`.
        report: stages "remesh" and "decimate".
    """
    solid = Mesh(_snapped(mesh.vertices), mesh.faces)
    faults = find_faults(solid)
    if not faults and len(solid.faces) > target:
        solid = decimate_solid(solid, target, resolution, report)
        faults = find_faults(solid)
    if not faults:
        return solid, find_warnings(solid, min_wall, faults)
    solid = decimate_solid(remesh(mesh, resolution, report), target, resolution, report)
    return solid, find_warnings(solid, min_wall)


def decimate_solid(shell: Mesh, target: int, resolution: int, report: Report | None = None) -> Mesh:
    """Return a solid with at most `target` faces, or with more if it cannot be one otherwise.

    Args:
        shell: closed, manifold and wound consistently, as those of `remesh`.
        target: maximum number of faces.
        resolution: cells along an edge of the unit cube, the unit of distances.
        report: see `decimate`.
    """
    whole = best = _without_tangled_specks(_untangled(_outer_parts(shell)))
    is_tangled = len(touching_faces(whole)) > 0
    # Each time with twice as many faces, up to those of the best solid so far.
    while target < len(best.faces):
        is_fixed = np.zeros(len(whole.vertices), bool)
        for reach in _FIRST_REACH / resolution * 2.0 ** np.arange(_TRIES):
            decimated = decimate(whole, target, report, is_fixed=is_fixed)
            mesh = Mesh(_snapped(decimated.vertices), decimated.faces)
            touching = touching_faces(mesh)
            if is_tangled:
                return mesh  # which `find_faults` tells
            if len(touching) == 0:
                best = min(best, mesh, key=lambda each: len(each.faces))
                break
            is_fixed |= _is_near(whole.vertices, _points_of(mesh, touching), reach)
        target *= 2
    return best


def touching_faces(mesh: Mesh) -> NDArray[np.int32]:
    """Return the faces that touch others beside their common corners and edges, int32 [T]."""
    return np.flatnonzero(TriangleTree(mesh).find_touching() >= 0).astype(np.int32)


def find_warnings(mesh: Mesh, min_wall: float, faults: list[str] | None = None) -> list[str]:
    """Return sentences for the client about a solid: faults, and walls that are too thin.

    Args:
        mesh: the solid.
        min_wall: least thickness of its walls, as a share of the longest edge of its box.
        faults: from `find_faults`; None: find them.
    """
    faults = find_faults(mesh) if faults is None else faults
    warnings = [f"solid: the surface {fault}" for fault in faults]
    thin = thin_walls(mesh, min_wall) if min_wall > 0.0 and not faults else None
    if thin is not None:
        thinnest, share = thin
        warnings.append(
            f"min_wall_mm: walls are thinner on {max(0.01, share):.0%} of the surface; the "
            f"thinnest have {thinnest / min_wall:.0%} of it, {100 * thinnest:.2g} mm where the "
            "model's longest edge has 100 mm"
        )
    return warnings


def find_faults(mesh: Mesh) -> list[str]:
    """Return what keeps a mesh from being a solid, as phrases about "the surface"."""
    twin = twins(mesh.faces, len(mesh.vertices))
    if int(twin.min()) < 0:
        open_edges = int((twin == BOUNDARY).sum())
        faults = [f"is not closed: it has {open_edges} open edges"] if open_edges else []
        if bool((twin == NON_MANIFOLD).any()):
            faults.append("is no manifold: it has edges of more than two faces")
        return faults
    faults = []
    if not is_watertight(mesh.faces, twin):
        faults.append("is not wound consistently")
    elif count_fans(twin) != len(mesh.vertices):
        faults.append("is no manifold: some parts of it are joined at single vertices")
    tree = TriangleTree(mesh)
    labels, volumes = _parts(mesh)
    if bool((volumes <= 0.0).any()):
        faults.append(f"has {int((volumes <= 0.0).sum())} parts that are wound inward")
    is_inner = _is_inside_another(mesh, tree, labels, len(volumes))
    if bool(is_inner.any()):
        faults.append(f"has {int(is_inner.sum())} inner shells")
    touching = int((tree.find_touching() >= 0).sum())
    if touching:
        faults.append(f"touches itself: {touching} faces meet others")
    return faults


def thin_walls(mesh: Mesh, least: float) -> tuple[float, float] | None:
    """Return the thickness of the thinnest walls, and the share of the area above too thin ones.

    Args:
        mesh: a solid.
        least: least thickness, as a share of the longest edge of the mesh's box; the returned one
            is such a share, too.

    Returns:
        The thickness that only a tenth of the thin walls is below, so that the acute angles of
        a few edges do not count; None if no wall is thinner than `least`.
    """
    size = float((mesh.vertices.max(axis=0) - mesh.vertices.min(axis=0)).max())
    thickness = TriangleTree(mesh).measure_walls() / size
    is_thin = thickness < least
    area = np.linalg.norm(_area_vectors(mesh), axis=1)
    if area[is_thin].sum() <= _NEGLIGIBLE * area.sum():
        return None
    order = np.flatnonzero(is_thin)[np.argsort(thickness[is_thin], kind="stable")]
    thin_area = np.cumsum(area[order])
    thinnest = thickness[order[np.searchsorted(thin_area, _IGNORED * thin_area[-1])]]
    return float(thinnest), float(thin_area[-1] / area.sum())


def _snapped(vertices: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.multiply(np.round(vertices / np.float32(_STEP)), _STEP, dtype=np.float32)


def _outer_parts(mesh: Mesh) -> Mesh:
    """Drop parts that are wound inward or lie inside others."""
    labels, volumes = _parts(mesh)
    if len(volumes) == 1:
        return mesh
    is_dropped = _is_inside_another(mesh, TriangleTree(mesh), labels, len(volumes))
    is_dropped |= volumes <= 0.0
    if not bool(is_dropped.any()):
        return mesh
    return Mesh(*drop_unused(mesh.vertices, mesh.faces[~is_dropped[labels]]))


def _without_tangled_specks(mesh: Mesh) -> Mesh:
    """Drop small parts that touch themselves or others."""
    touching = touching_faces(mesh)
    if len(touching) == 0:
        return mesh
    labels, volumes = _parts(mesh)
    is_dropped = np.zeros(len(volumes), bool)
    is_dropped[labels[touching]] = True
    is_dropped &= np.bincount(labels) <= _SPECK_FACES
    is_kept = ~is_dropped[labels]
    if not bool(is_kept.any()):
        return mesh
    return Mesh(*drop_unused(mesh.vertices, mesh.faces[is_kept]))


def _parts(mesh: Mesh) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the part of each face, int32 [F], and the volume of each part, float64 [P]."""
    parts = Parts(mesh.vertices, mesh.faces, twins(mesh.faces, len(mesh.vertices)))
    middle = mesh.vertices[mesh.faces].mean(axis=1, dtype=np.float64)
    sixth = (_area_vectors(mesh) * middle).sum(axis=1) / 6.0
    return parts.labels, np.bincount(parts.labels, sixth, parts.count).astype(np.float64)


def _area_vectors(mesh: Mesh) -> NDArray[np.float64]:
    """Return normals of the faces, twice their area long, float64 [F, 3]."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return np.cross(b - a, c - a)


def _is_inside_another(
    mesh: Mesh, tree: TriangleTree, labels: NDArray[np.int32], count: int
) -> NDArray[np.bool_]:
    """Return which parts lie inside others, bool [P].

    A ray starts outside the largest face of each part. It leaves the part itself as often as it
    enters it; what it leaves more often encloses the part.
    """
    if count == 1:
        return np.zeros(1, bool)
    normals = _area_vectors(mesh)
    area = np.linalg.norm(normals, axis=1)
    by_area = np.argsort(area, kind="stable")
    largest = np.empty(count, np.int64)
    largest[labels[by_area]] = by_area  # the last one of a part counts
    start = mesh.vertices[mesh.faces[largest]].mean(axis=1, dtype=np.float64)
    start += _CLEARANCE * normals[largest] / np.maximum(area[largest], 1e-300)[:, None]
    return tree.count_crossings(start, _RAY) % 2 == 1


def _untangled(mesh: Mesh) -> Mesh:
    """Move the vertices of faces that touch to the middle of their neighbours, until none does."""
    vertices, faces = _snapped(mesh.vertices), mesh.faces
    tree = TriangleTree(Mesh(vertices, faces))
    wanted = np.arange(len(faces), dtype=np.int32)
    is_moved = np.zeros(len(vertices), bool)
    for step in range(_MOVES):
        partner = tree.find_touching(wanted)
        touching = wanted[partner >= 0]
        if len(touching) == 0:
            break
        is_moved[:] = False
        is_moved[faces[touching]] = True
        for _ in range(step // _PATIENCE):
            is_moved[faces[is_moved[faces].any(axis=1)]] = True
        vertices = _relaxed(vertices, faces, is_moved)
        tree.move(vertices)
        wanted = np.flatnonzero(is_moved[faces].any(axis=1)).astype(np.int32)
    return Mesh(vertices, faces)


def _relaxed(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], is_moved: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the vertices of a closed mesh, some of them in the middle of their neighbours."""
    near = faces[is_moved[faces].any(axis=1)]
    # Around a vertex of a closed mesh, each neighbour follows it in one face.
    start, stop = near.reshape(-1), near[:, [1, 2, 0]].reshape(-1)
    start, stop = start[is_moved[start]], stop[is_moved[start]]
    sums = np.zeros((len(vertices), 3))
    for axis in range(3):
        sums[:, axis] = np.bincount(start, vertices[stop, axis], len(vertices))
    counts = np.bincount(start, minlength=len(vertices))
    moved = vertices.copy()
    moved[is_moved] = sums[is_moved] / counts[is_moved, None]
    return _snapped(moved)


def _points_of(mesh: Mesh, faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the corners, the middles of the edges and the middle of faces, float32 [7 T, 3]."""
    corners = mesh.vertices[mesh.faces[faces]]
    middles = (corners + corners[:, [1, 2, 0]]) / 2
    middle = corners.mean(axis=1, keepdims=True, dtype=np.float32)
    return np.concatenate([corners, middles, middle], 1, dtype=np.float32).reshape(-1, 3)


def _is_near(
    vertices: NDArray[np.float32], points: NDArray[np.float32], reach: float
) -> NDArray[np.bool_]:
    """Return which vertices are in the cells of width `reach` around those of the points."""
    places = np.floor(np.concatenate([vertices, points]) / reach).astype(np.int64)
    places -= places.min(axis=0) - 1
    side = places.max(axis=0) + 2

    def numbered(place: NDArray[np.int64]) -> NDArray[np.int64]:
        return (place[:, 0] * side[1] + place[:, 1]) * side[2] + place[:, 2]

    around = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3)
    cells = np.unique(places[len(vertices) :], axis=0)
    marked = np.unique(numbered((cells[:, None] + around).reshape(-1, 3)))
    return np.isin(numbered(places[: len(vertices)]), marked)
