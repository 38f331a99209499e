"""Remeshing small meshes, against volumes of single corners and one face at a time."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh

from tests.export.kernels.test_bake import closest as closest_of_face
from tests.export.kernels.test_bake import loose
from tests.support import shapes
from tests.support.remeshing import (
    HALF,
    MESHES,
    UNIT,
    Gridded,
    crossings,
    expected_corners,
    gridded,
    normals,
    shifted,
    volume,
)
from trellis2_server.export import remesh
from trellis2_server.export.kernels import remesh as remesh_kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.support.remeshing import Volume


@pytest.mark.parametrize("name", MESHES)
def test_corners_are_classified_as_one_by_one(name: str) -> None:
    mesh = gridded(name)
    found = mesh.corners()
    outside, shells = expected_corners(mesh)
    np.testing.assert_array_equal(volume(found.sheets, mesh.box, found.sheets_absent), outside)
    np.testing.assert_array_equal(volume(found.shells, mesh.box, found.shells_absent), shells)
    assert not shells.all()


def near_bricks(mesh: Gridded, face: int, reach: float) -> set[tuple[int, ...]]:
    """Bricks whose corners 0 to 8 may be within reach of a face; of large ones, of its plane."""
    points = mesh.points[mesh.faces[face]]
    places = np.stack(np.meshgrid(*map(np.arange, mesh.box.shape), indexing="ij"), -1)
    is_near = (
        (8 * places + 8 >= points.min(axis=0) - reach) & (8 * places <= points.max(axis=0) + reach)
    ).all(axis=-1)
    if np.prod(np.ptp(places[is_near], axis=0)) > 8:
        distance = np.abs((8 * places + 4 - points[0]) @ normals(mesh)[face])
        is_near &= distance <= 7 + reach
    return {*map(tuple, places[is_near].tolist())}


def large() -> Gridded:
    """A triangle through many bricks, and a small one."""
    points = np.array(
        [[6, 6, 6], [40, 8, 9], [7, 41, 35], [20, 20, 20], [21, 20, 20], [20, 21, 22]]
    )
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    box, place = remesh._bricks(points + 0.25, faces, np.array([6, 6, 6]))
    first, members = remesh._members(points + 0.25, faces, box, len(place))
    return Gridded(points + 0.25, faces, np.zeros(3), 1, box, place, first, members)


@pytest.mark.parametrize("name", ["large", *MESHES])
def test_bricks_list_the_faces_near_them(name: str) -> None:
    mesh = large() if name == "large" else gridded(name)
    faces = range(len(mesh.faces))
    marked = set[tuple[int, ...]]().union(*(near_bricks(mesh, face, 5) for face in faces))
    assert [tuple(at) for at in mesh.place.tolist()] == sorted(marked)
    assert {tuple(at) for at in np.argwhere(mesh.box >= 0).tolist()} == marked
    near = [near_bricks(mesh, face, 1.5) for face in faces]
    for brick, at in enumerate(mesh.place.tolist()):
        assert mesh.box[tuple(at)] == brick
        listed = mesh.members[mesh.first[brick] : mesh.first[brick + 1]].tolist()
        assert listed == [face for face in faces if tuple(at) in near[face]]


def hit_edges(
    mesh: Gridded, sheets: Volume, shells: Volume
) -> dict[tuple[int, ...], tuple[float, NDArray[np.float64]]]:
    """Place and normal at which the boundary crosses an edge, by axis and lower corner."""
    unit = normals(mesh)
    hits: dict[tuple[int, ...], tuple[float, NDArray[np.float64]]] = {}
    for axis in range(3):
        for at, depth, face in crossings(mesh, axis):
            upper = tuple((np.array(at) + UNIT[axis]).tolist())
            if shells[at] == shells[upper]:
                continue
            known = hits.get((axis, *at))
            # The crossing nearest to the end outside.
            if known is None or (depth < known[0]) == bool(shells[at]):
                hits[(axis, *at)] = depth, unit[face]
        for at in np.argwhere(shells != shifted(shells, axis, 1)).tolist():
            upper = (np.array(at) + UNIT[axis]).tolist()
            if max(upper[axis], 0) >= shells.shape[axis]:
                continue
            inner, outer = (upper, at) if shells[tuple(at)] else (at, upper)
            if sheets[tuple(inner)]:  # inside only by the thickness of a sheet
                t, normal = leave_shell(mesh, np.array(inner), np.array(outer), axis)
                hits[(axis, *at)] = (t if inner == at else 1 - t), normal
    return hits


def closest(mesh: Gridded, corner: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """The closest point of the faces whose boxes are at most 1.5 cells away."""
    triangles = mesh.points[mesh.faces]
    is_near = (
        (triangles.min(axis=1) - 1.5 <= corner) & (corner <= triangles.max(axis=1) + 1.5)
    ).all(axis=1)
    if not is_near.any():
        return None
    near = triangles[is_near]
    points = trimesh.triangles.closest_point(near, np.tile(corner, (len(near), 1)))
    return points[np.linalg.norm(points - corner, axis=1).argmin()]


def leave_shell(
    mesh: Gridded, inner: NDArray[np.int64], outer: NDArray[np.int64], axis: int
) -> tuple[float, NDArray[np.float64]]:
    """Where an edge is half a thickness from a sheet, from its inner end on, and the normal."""
    near_inner, near_outer = closest(mesh, inner), closest(mesh, outer)
    if near_inner is None or near_outer is None:
        return 0.5, UNIT[axis].astype(float)
    to_inner, to_outer = inner - near_inner, outer - near_outer
    depth, height = np.linalg.norm(to_inner), np.linalg.norm(to_outer)
    if to_inner @ to_outer < 0:
        depth = -depth
    t = (HALF - depth) / (height - depth) if height - depth > 1e-3 else 0.5
    return float(np.clip(t, 0.02, 0.98)), to_outer / height


def cell_edges() -> list[tuple[int, NDArray[np.int64]]]:
    """Axis and lower corner of each of the twelve edges of a cell, in the order of `_sheets`."""
    return [
        (axis, s * UNIT[(axis + 1) % 3] + t * UNIT[(axis + 2) % 3])
        for axis in range(3)
        for s, t in product(range(2), repeat=2)
    ]


def solved(
    planes: list[tuple[NDArray[np.float64], NDArray[np.float64] | None]],
) -> NDArray[np.float64]:
    """The point with the least squared distance to planes, pulled towards their mean."""
    mean = np.mean([point for point, _ in planes], axis=0)
    known = [(point, normal) for point, normal in planes if normal is not None]
    matrix = np.array([normal for _, normal in known]).reshape(-1, 3)
    right = np.array([normal @ (point - mean) for point, normal in known])
    pull = np.sqrt(0.01 * (matrix**2).sum() + 1e-9)
    matrix = np.vstack([matrix, pull * np.eye(3)])
    return np.linalg.lstsq(matrix, np.append(right, np.zeros(3)), rcond=None)[0]


@pytest.mark.costly
@pytest.mark.parametrize("name", MESHES)
def test_each_vertex_is_where_the_planes_at_its_cell_meet(name: str) -> None:
    mesh = gridded(name)
    corners = mesh.corners()
    vertices, _ = remesh._contour(
        mesh.points, mesh.faces, mesh.box, mesh.place, mesh.first, mesh.members, corners,
        mesh.low, mesh.resolution, lambda _: None,
    )  # fmt: skip
    sheets = volume(corners.sheets, mesh.box, corners.sheets_absent)
    shells = volume(corners.shells, mesh.box, corners.shells_absent)
    hits, table, edges = hit_edges(mesh, sheets, shells), remesh._sheets(), cell_edges()
    row = 0
    for brick in mesh.place.tolist():
        for offset in product(range(8), repeat=3):
            cell = 8 * np.array(brick) + offset
            if (cell + 1 >= shells.shape).any():
                continue
            inside = [not shells[tuple(cell + at)] for at in product(range(2), repeat=3)]
            code = sum(1 << bit for bit, is_in in enumerate(inside) if is_in)
            for number in range(table[code, 12]):
                planes: list[tuple[NDArray[np.float64], NDArray[np.float64] | None]] = []
                for slot, (axis, start) in enumerate(edges):
                    if table[code, slot] != number:
                        continue
                    t, normal = hits.get((axis, *(cell + start).tolist()), (0.5, None))
                    planes.append((cell + start + t * UNIT[axis], normal))
                mean = np.mean([point for point, _ in planes], axis=0)
                moved = solved(planes)
                with np.errstate(divide="ignore", invalid="ignore"):
                    room = np.where(moved > 0, cell + 1 - mean, cell - mean) / moved
                share = min([1.0, *np.maximum(room[moved != 0], 0)])
                got = (vertices[row] - mesh.low) * mesh.resolution
                np.testing.assert_allclose(got, mean + share * moved, atol=2e-4)
                row += 1
    doubled = (vertices[row:] - mesh.low) * mesh.resolution
    assert len(doubled) % 2 == 0
    # Those lie in faces of cells.
    assert (np.abs(doubled - np.rint(doubled)).min(axis=1) < 1e-4).all() if len(doubled) else True


@pytest.mark.parametrize("name", MESHES)
def test_each_edge_between_outside_and_inside_has_faces_around_it(name: str) -> None:
    make, resolution = MESHES[name]
    shell = remesh.remesh(make(), resolution)
    assert shapes.is_closed(shell)
    mesh = gridded(name)
    corners = mesh.corners()
    shells = volume(corners.shells, mesh.box, corners.shells_absent)
    edges = [
        (axis, *at)
        for axis in range(3)
        for at in np.argwhere(shells != shifted(shells, axis, 1)).tolist()
        if at[axis] + 1 < shells.shape[axis]
    ]
    places = (shell.vertices - mesh.low) * mesh.resolution
    middles = np.array([at for _, *at in edges]) + 0.5 * UNIT[[axis for axis, *_ in edges]]
    distance = np.linalg.norm(places[shell.faces].mean(axis=1)[:, None] - middles, axis=2)
    assert distance.min(axis=1).max() < 1.5
    assert len(shell.faces) >= 2 * len(edges)
    assert len(np.unique(shell.faces)) == len(shell.vertices)
    # Of each pair of faces, the normals differ less than with the other diagonal.
    if len(shell.faces) == 2 * len(edges):
        for p, q in zip(shell.faces[::2], shell.faces[1::2], strict=True):
            shared = [v for v in p.tolist() if v in q.tolist()]
            one = next(v for v in p.tolist() if v not in shared)
            two = next(v for v in q.tolist() if v not in shared)
            chosen = alike(places, p, q)
            other = alike(places, np.array([one, two, shared[0]]), np.array([two, one, shared[1]]))
            assert chosen >= other - 1e-4


def alike(places: NDArray[np.float64], p: NDArray[np.int32], q: NDArray[np.int32]) -> float:
    """The cosine between the normals of two triangles."""
    units = []
    for face in (p, q):
        a, b, c = places[face]
        normal = np.cross(b - a, c - a)
        units.append(normal / (np.linalg.norm(normal) + 1e-30))
    return float(units[0] @ units[1])


def test_the_sheets_of_a_cell_separate_its_corners() -> None:
    """Every edge between inside and outside has one; sheets that touch share no edge."""
    table = remesh._sheets()
    edges = cell_edges()
    corners = [*product(range(2), repeat=3)]
    for code in range(256):
        inside = {at for bit, at in enumerate(corners) if code >> bit & 1}
        for slot, (axis, start) in enumerate(edges):
            ends = tuple(start.tolist()), tuple((start + UNIT[axis]).tolist())
            is_crossed = (ends[0] in inside) != (ends[1] in inside)
            assert (table[code, slot] != 255) == is_crossed
        # Outside corners that alternate on a face are apart: sheets go around each of them, so
        # there is one for each pair of an outside part and an inside part that touch.
        outside = [*{*corners} - inside]
        parts = joined([*inside], is_diagonal=True), joined(outside, is_diagonal=False)
        touching = {
            (which(parts[0], a), which(parts[1], b))
            for a in inside
            for b in outside
            if sum(abs(x - y) for x, y in zip(a, b, strict=True)) == 1
        }
        assert table[code, 12] >= len(touching) if inside and outside else table[code, 12] == 0
        numbers = sorted({*table[code, :12].tolist()} - {255})
        assert numbers == [*range(table[code, 12])]


def joined(corners: list[tuple[int, ...]], *, is_diagonal: bool) -> list[set[tuple[int, ...]]]:
    """Parts of corners that touch along edges, or also across faces."""
    parts: list[set[tuple[int, ...]]] = []
    for corner in corners:
        near = [
            part
            for part in parts
            if any(
                sum(abs(x - y) for x, y in zip(corner, other, strict=True)) <= 1 + is_diagonal
                for other in part
            )
        ]
        parts = [part for part in parts if part not in near] + [{corner}.union(*near)]
    return parts


def which(parts: list[set[tuple[int, ...]]], corner: tuple[int, ...]) -> int:
    return next(at for at, part in enumerate(parts) if corner in part)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_the_closest_point_of_a_face_is_that_of_its_edges_or_above_it(size: float) -> None:
    function = remesh_kernels.closest_on_face
    python = getattr(function, "py_func", function)
    random = np.random.default_rng(4)
    mesh = loose(random, 60, size)
    grid = mesh.vertices.astype(np.float64)
    for a, b, c in mesh.faces.tolist():
        point = grid[[a, b, c]].mean(axis=0) + random.uniform(-2, 2, 3) * size
        found = np.empty(3)
        square = python(grid, a, b, c, *point, found)
        wanted = closest_of_face(grid[[a, b, c]], point)
        assert found == pytest.approx(wanted, abs=1e-6 * size)
        assert square == pytest.approx(((wanted - point) ** 2).sum(), rel=1e-6)
