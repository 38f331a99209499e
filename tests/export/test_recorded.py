"""What is computed for a few small meshes is what was computed when it was recorded.

Other tests say what is right of it; this one notices every other change, in a loop as in the order
of two faces. If a change is meant, `pytest tests/export/test_recorded.py --force-regen` records
again, and the changelog says that files differ.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import shapes
from tests.support.loops import traced
from tests.support.recorded import Recorded
from trellis2_server.drawing import DrawnModel, draw_model
from trellis2_server.export import bake, levels, normals, occlusion
from trellis2_server.export.adjacency import twins
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.charts import build_charts, face_normals
from trellis2_server.export.clean import clean
from trellis2_server.export.decimate import decimate
from trellis2_server.export.geometry import smooth_normals
from trellis2_server.export.pictures import COMPILED_LOOPS
from trellis2_server.export.remesh import remesh
from trellis2_server.export.solids import make_solid
from trellis2_server.export.triangle_tree import TriangleTree, count_fans
from trellis2_server.export.unwrap import unwrap
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Check = Callable[..., None]


def bumpy_torus(rows: int = 9, columns: int = 6) -> Mesh:
    mesh = shapes.torus(rows, columns)
    moved = np.random.default_rng(5).normal(0, 0.006, mesh.vertices.shape)
    return Mesh((mesh.vertices + moved).astype(np.float32), mesh.faces)


def wavy_sheet(rows: int = 7, columns: int = 6) -> Mesh:
    def place(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([0.7 * u - 0.3, 0.1 * np.sin(5 * u) * np.cos(4 * v), 0.6 * v - 0.3], -1)

    return shapes.grid(rows, columns, place, wraps=(False, False))


def scene() -> Mesh:
    """Return a torus through a sheet with flipped, repeated and missing faces, and specks."""
    sheet, ball = wavy_sheet(), shapes.sphere(2, 0.13)
    faces = np.delete(sheet.faces, [17, 18, 31], axis=0)
    faces[4:9] = faces[4:9, ::-1]
    repeated = np.concatenate([faces, faces[11:13], faces[20:21, [1, 2, 0]], [[3, 3, 5]]])
    speck = Mesh(shapes.sphere(1, 0.002).vertices + np.float32(0.41), shapes.sphere(1).faces)
    ball = Mesh(ball.vertices + np.array([0.3, 0.05, 0.2], np.float32), ball.faces[1:, ::-1])
    return shapes.joined(
        bumpy_torus(), Mesh(sheet.vertices, repeated.astype(np.int32)), ball, speck
    )


def junctions() -> Mesh:
    """Return cubes that meet at edges and corners, with flipped faces."""
    random = np.random.default_rng(11)
    mesh = shapes.blocks(random.random((3, 3, 3)) < 0.45)
    faces, turned = mesh.faces.copy(), random.random(len(mesh.faces)) < 0.3
    faces[turned] = faces[turned, ::-1]
    moved = mesh.vertices + random.normal(0, 0.02, mesh.vertices.shape)
    return Mesh(moved.astype(np.float32), faces)


def pierced() -> Mesh:
    """Return a ball of two millimetres with holes of one to four faces, and a loose triangle."""
    ball = shapes.sphere(6, 0.002)
    faces = np.delete(ball.faces, [3, 40, 41, 80, 81, 82, 83, 130, 131, 132], axis=0)
    loose = np.array([[0.0005, 0, 0], [0, 0.0004, 0], [0, 0, 0.0006]], np.float32)
    return shapes.joined(Mesh(ball.vertices, faces), Mesh(loose, np.array([[0, 1, 2]], np.int32)))


def shells() -> Mesh:
    """Return three balls, each close inside another, so that edges of a grid cross two of them."""
    balls = (shapes.sphere(3, radius) for radius in (0.29, 0.3, 0.285))
    return shapes.joined(*balls)


MESHES: dict[str, Callable[[], Mesh]] = {
    "torus": bumpy_torus,
    "sheet": wavy_sheet,
    "scene": scene,
    "junctions": junctions,
    "pierced": pierced,
    "shells": shells,
    "ball": functools.partial(shapes.sphere, 3),
    "round": functools.partial(shapes.sphere, 7),
    "wide": functools.partial(wavy_sheet, 16, 14),
}


def of_mesh(mesh: Mesh) -> dict[str, Any]:
    return {"vertices": mesh.vertices, "faces": mesh.faces}


def flat_atlas(mesh: Mesh, size_px: int = 48) -> Atlas:
    """Return an atlas of a cell of its own for each face, in four charts."""
    count = len(mesh.faces)
    across = int(np.ceil(np.sqrt(count)))
    cell = size_px / across
    corners = np.array([[0.1, 0.15], [0.85, 0.2], [0.3, 0.9]])
    place = np.stack([np.arange(count) % across, np.arange(count) // across], 1)
    uv = ((place[:, None] + corners) * cell).reshape(-1, 2).astype(np.float32)
    return Atlas(
        uv,
        np.ascontiguousarray(mesh.faces.reshape(-1)),
        np.arange(3 * count, dtype=np.int32).reshape(-1, 3),
        (np.arange(count) * 4 // count).astype(np.int32),
        size_px,
    )


@pytest.fixture
def check(ndarrays_regression: Any) -> Iterator[Check]:
    """Compare with what is recorded; whole numbers exactly, others to rounding.

    What each loop has made of its arguments is compared, too: results of a few faces do not show
    all of it.
    """
    recorded = Recorded(ndarrays_regression, atol=1e-6)
    with traced() as trace:
        yield lambda **found: recorded.check(**found, **trace())


@pytest.mark.parametrize("name", ["scene", "sheet", "junctions", "pierced"])
def test_cleaning(check: Check, name: str) -> None:
    check(**of_mesh(clean(MESHES[name]())))


@pytest.mark.parametrize(
    ("name", "target"), [("torus", 40), ("sheet", 20), ("round", 60), ("wide", 60)]
)
def test_decimation(check: Check, name: str, target: int) -> None:
    check(**of_mesh(decimate(MESHES[name](), target)))


def test_decimation_of_blocks(check: Check) -> None:
    check(**of_mesh(decimate(bumpy_torus(12, 8), 90, min_split_faces=0)))


@pytest.mark.parametrize(
    ("name", "resolution"), [("torus", 14), ("scene", 14), ("sheet", 11), ("shells", 12)]
)
def test_remeshing(check: Check, name: str, resolution: int) -> None:
    check(**of_mesh(remesh(clean(MESHES[name]()), resolution)))


def test_a_solid(check: Check) -> None:
    mesh, warnings = make_solid(clean(scene()), 400, 12, 0.3)
    check(**of_mesh(mesh), warnings=len(warnings))


@pytest.mark.parametrize(
    ("name", "size_px"), [("torus", 64), ("sheet", 32), ("ball", 32), ("scene", 64)]
)
def test_unwrapping(check: Check, name: str, size_px: int) -> None:
    atlas = unwrap(clean(MESHES[name]()), size_px)
    check(uv=atlas.uv, source=atlas.source, faces=atlas.faces, chart=atlas.chart)


def test_charts_of_groups_that_overlap(check: Check) -> None:
    mesh = bumpy_torus()
    group = (mesh.vertices[mesh.faces[:, 0], 1] > 0.1).astype(np.int32)
    twin = twins(mesh.faces, len(mesh.vertices))
    found = build_charts(mesh, twin, face_normals(mesh), group, 60.0, 48)
    check(chart=found.chart, flat=found.flat, uv_faces=found.uv_faces, source=found.source)


@pytest.mark.parametrize("name", ["ball", "sheet"])
def test_baking(check: Check, name: str) -> None:
    mesh = MESHES[name]()
    maps = bake.bake(mesh, flat_atlas(mesh), bake.build_index(shapes.field(12), bumpy_torus()))
    check(base_color=maps.base_color, metal_rough=maps.metal_rough, covered=maps.covered)


@pytest.mark.parametrize("name", ["ball", "sheet"])
def test_normals(check: Check, name: str) -> None:
    mesh, original = MESHES[name](), scene()
    atlas, own = flat_atlas(mesh), smooth_normals(mesh)
    along = normals.tangents(mesh, own, atlas)
    owner = bake.rasterize(atlas)
    surface = normals.full_surface(original)
    drawn = normals.bake_normal_map(mesh, own, atlas, along, owner, surface)
    check(own=own, smoothed=surface.normals, along=along, owner=owner, drawn=drawn)


@pytest.mark.parametrize("name", ["torus", "sheet"])
def test_occlusion(check: Check, name: str) -> None:
    mesh = MESHES[name]()
    measured = occlusion.measure_occlusion(mesh)
    some = {name: getattr(measured, name)[::40] for name in ("whole", "shares", "values")}
    check(**some, drawn=occlusion.draw_occlusion(measured, flat_atlas(mesh)))


@pytest.mark.parametrize("name", ["torus", "sheet"])
def test_levels(check: Check, name: str) -> None:
    mesh = MESHES[name]()
    found = {}
    for number, level in enumerate(levels.create_levels(mesh, flat_atlas(mesh), (50, 24))):
        found |= {f"vertices_{number}": level.vertices, f"faces_{number}": level.faces}
        found |= {f"sources_{number}": level.sources, f"uv_faces_{number}": level.uv_faces}
    check(**found)


def test_trees(check: Check) -> None:
    mesh = clean(scene())
    tree = TriangleTree(mesh)
    points = np.random.default_rng(3).uniform(-0.4, 0.4, (40, 3))
    check(
        touching=tree.find_touching(),
        walls=tree.measure_walls(),
        crossings=tree.count_crossings(points, np.array([0.3, 0.5, 0.8])),
        fans=[count_fans(twins(each().faces, 200)) for each in (bumpy_torus, junctions)],
    )


def test_openness(check: Check) -> None:
    mesh, some = bumpy_torus(), slice(None, None, 6)
    points, own = mesh.vertices[some], smooth_normals(mesh)[some]
    tree = TriangleTree(mesh)
    front = occlusion.openness(tree, points, own, 12)
    back = occlusion.openness(tree, points, own, 12, (np.arange(0, len(points), 2), front))
    check(front=front, back=back)


@pytest.mark.parametrize("alpha_mode", ["OPAQUE", "MASK", "BLEND"])
def test_a_picture(check: Check, alpha_mode: str) -> None:
    mesh = scene()
    random = np.random.default_rng(2)
    atlas = flat_atlas(mesh)
    model = DrawnModel(
        positions=mesh.vertices,
        faces=mesh.faces,
        normals=smooth_normals(mesh),
        normal_faces=mesh.faces,
        uvs=atlas.uv / np.float32(atlas.size_px),
        uv_faces=atlas.faces,
        texture=random.integers(0, 256, (9, 7, 7)).astype(np.uint8),
        is_textured=True,
        alpha_mode=alpha_mode,
        alpha_cutoff=0.4,
        double_sided=alpha_mode != "OPAQUE",
    )
    check(picture=draw_model(model, size_px=24, loops=COMPILED_LOOPS))
