"""The exporter on meshes like TRELLIS.2's: open, with inner walls, wound by the grid's axes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import dual_grid, khronos, shapes
from trellis2_server import export
from trellis2_server.export.adjacency import twins
from trellis2_server.export.deviation import deviation
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESOLUTION = 48


@pytest.fixture(scope="module", params=dual_grid.REAL)
def grid(request: pytest.FixtureRequest) -> Mesh:
    return dual_grid.voxelised(dual_grid.REAL[request.param](), RESOLUTION)


def test_the_meshes_have_open_crowded_and_inconsistent_edges() -> None:
    open_edges, crowded_edges, unlike = 0, 0, 0
    for shape in dual_grid.REAL.values():
        mesh = dual_grid.voxelised(shape(), RESOLUTION)
        uses, balance = shapes.edge_uses(mesh.faces)
        open_edges += int((uses == 1).sum())
        crowded_edges += int((uses > 2).sum())
        unlike += int((balance[uses == 2] != 0).sum())
    assert min(open_edges, crowded_edges, unlike) > 100


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_target_is_met_within_two_percent(grid: Mesh, share: float) -> None:
    target = int(share * len(grid.faces))
    assert 0.98 * target <= len(export.prepare(grid, decimation_target=target).faces) <= target


def test_no_face_is_lost_or_repeated(grid: Mesh) -> None:
    cleaned = export.prepare(grid, decimation_target=10**7)
    corners = np.sort(cleaned.faces, axis=1)
    assert (np.diff(corners, axis=1) > 0).all()
    assert len(np.unique(corners, axis=0)) == len(corners)
    # Floaters are dropped, the rest does not move.
    assert len(cleaned.faces) > 0.9 * len(grid.faces)
    assert deviation(cleaned, grid, RESOLUTION).p99 < 0.02


def test_adjacent_faces_are_wound_consistently(grid: Mesh) -> None:
    def share(mesh: Mesh) -> float:
        uses, balance = shapes.edge_uses(mesh.faces)
        return float((balance[uses == 2] == 0).mean())

    before, after = share(grid), share(export.prepare(grid, decimation_target=10**7))
    assert after > 0.99 > before


@pytest.mark.costly
@pytest.mark.parametrize(("shape", "share"), [("bolt", 0.999), ("hair", 0.98), ("crowded", 0.96)])
def test_faces_of_intersecting_parts_are_wound_outward(shape: str, share: float) -> None:
    # The wall in `crowded` has no outside; the rest is 0.97 of the whole.
    real = dual_grid.REAL[shape]()
    mesh = export.prepare(dual_grid.voxelised(real, 128), decimation_target=10**7)
    middle, normal = middles_and_normals(mesh)
    real_middle, real_normal = middles_and_normals(subdivided(real, 2e-3))
    along = np.array(
        [
            normal[i] @ real_normal[np.square(real_middle - middle[i]).sum(axis=1).argmin()]
            for i in range(0, len(mesh.faces), 151)
        ]
    )
    is_clear = abs(along) > 0.7
    assert is_clear.mean() > 0.8
    assert (along[is_clear] > 0).mean() > share


def middles_and_normals(mesh: Mesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    normal = np.cross(b - a, c - a)
    return (a + b + c) / 3, normal / np.linalg.norm(normal, axis=1, keepdims=True)


def subdivided(mesh: Mesh, area: float) -> Mesh:
    """The same surface in faces of no more than that area."""
    corner = mesh.vertices[mesh.faces]
    while True:
        twice = np.linalg.norm(
            np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
        )
        large = corner[twice > 2 * area]
        if len(large) == 0:
            break
        a, b, c = large.transpose(1, 0, 2)
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        quarters = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        corner = np.concatenate(
            [corner[twice <= 2 * area], *(np.stack(quarter, axis=1) for quarter in quarters)]
        )
    return Mesh(corner.reshape(-1, 3), np.arange(3 * len(corner), dtype=np.int32).reshape(-1, 3))


@pytest.mark.parametrize("shape", ["cloth", "crowded"])
def test_faces_at_smooth_edges_are_wound_consistently(shape: str) -> None:
    made = dual_grid.voxelised(dual_grid.REAL[shape](), 128)
    mesh = export.prepare(made, decimation_target=10**7)
    half = np.flatnonzero((twin := twins(mesh.faces, len(mesh.vertices))) >= 0)
    normal = middles_and_normals(mesh)[1]
    along = (normal[half // 3] * normal[twin[half] // 3]).sum(axis=1)
    # Consistently wound faces traverse their edge in opposite directions.
    is_odd = mesh.faces.reshape(-1)[half] == mesh.faces.reshape(-1)[twin[half]]
    is_smooth = np.where(is_odd, -along, along) > 0.9
    assert is_smooth.mean() > 0.7
    assert not is_odd[is_smooth].any()


@pytest.mark.costly
@pytest.mark.parametrize("remesh", [False, True])
def test_the_file_is_valid_and_every_face_has_a_colour(grid: Mesh, *, remesh: bool) -> None:
    trimesh = pytest.importorskip("trimesh")
    field = shapes.field(RESOLUTION)
    mesh = export.prepare(
        grid, decimation_target=4000, remesh_resolution=RESOLUTION if remesh else None
    )
    content = export.textured_glb(mesh, field, original=grid, texture_size=512)
    assert khronos.messages(content) == []
    assert (b'"doubleSided":true' in content) != remesh
    (loaded,) = trimesh.load(io.BytesIO(content), file_type="glb", process=False).geometry.values()
    uv = np.asarray(loaded.visual.uv)[loaded.faces]
    u, v = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    assert (np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) > 0).mean() > 0.999
    middle = uv.mean(1)
    picture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"))
    row = ((1 - middle[:, 1]) * 512).astype(int).clip(0, 511)
    have = picture[row, (middle[:, 0] * 512).astype(int).clip(0, 511)] / 255
    place = loaded.vertices[loaded.faces].mean(1)
    wanted = shapes.colors(np.stack([place[:, 0], -place[:, 2], place[:, 1]], 1))[:, :3]
    assert np.quantile(np.abs(have - wanted), 0.95) < 0.12


def test_remeshing_gives_a_watertight_surface_at_the_same_place(grid: Mesh) -> None:
    shell = export.prepare(grid, decimation_target=10**7, remesh_resolution=RESOLUTION)
    assert shapes.is_closed(shell)
    assert shapes.volume(shell) > 0
    assert deviation(shell, grid, RESOLUTION).p99 < 1.0


def test_an_almost_closed_part_is_wound_outward() -> None:
    ball = shapes.sphere(24, radius=0.3)
    for seed in range(4):
        torn = dual_grid.voxelised(ball, 32, seed=seed)
        # A hole that is too large to be closed.
        middle = torn.vertices[torn.faces].mean(1)
        torn = Mesh(torn.vertices, torn.faces[middle[:, 2] < 0.27])
        cleaned = export.prepare(torn, decimation_target=10**6)
        a, b, c = (cleaned.vertices[cleaned.faces[:, k]] for k in range(3))
        assert ((np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0).mean() > 0.99
