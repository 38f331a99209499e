"""The embedded engine, on pictures drawn here."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import EngineError, JobCancelledError
from trellis2_server.inputs.images import Cutout
from trellis2_server.mesh import ALPHA, BASE_COLOR, METALLIC, ROUGHNESS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh, Shape, VoxelField

    Array = NDArray[Any]

RED, GREEN, BLUE, WHITE = (220, 20, 30), (10, 200, 40), (20, 30, 210), (240, 240, 240)


@dataclass(frozen=True)
class Asked:
    """What the engine reads of `Options`."""

    decimation_target: int = 20_000
    texture_size: int = 512
    seed: int = 0


@pytest.fixture(scope="module")
def engine() -> PreviewEngine:
    made = PreviewEngine()
    made.load(ignore)
    return made


def ignore(_stage: str, _step: int, _of: int) -> None:
    pass


def cutout(mask: Array, color: Array | tuple[int, int, int] = WHITE) -> Cutout:
    """A picture from a mask (0 to 1, or bool) and a colour, per pixel or one."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[..., :3] = color
    rgba[..., 3] = np.rint(np.asarray(mask, np.float64) * 255)
    return Cutout(rgba=rgba, background="alpha")


def grid(size: int) -> tuple[Array, Array]:
    y, x = np.mgrid[:size, :size] + 0.5
    return x, y


def disc(size: int, x: float, y: float, radius: float, *, soft: bool = True) -> Array:
    px, py = grid(size)
    inside = radius - np.hypot(px - x, py - y)
    return np.clip(inside + 0.5, 0, 1) if soft else (inside > 0).astype(float)


def measure(mesh: Mesh) -> tuple[float, int]:
    """Volume and Euler characteristic of a mesh; fails unless it is closed and oriented."""
    faces = mesh.faces.astype(np.int64)
    count = len(mesh.vertices)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = directed[:, 0] * count + directed[:, 1]
    back = directed[:, 1] * count + directed[:, 0]
    assert len(np.unique(there)) == len(there), "an edge is used twice in one direction"
    assert (np.sort(there) == np.sort(back)).all(), "an edge has no opposite"
    assert len(np.unique(faces)) == count, "a vertex is unused"
    corners = mesh.vertices.astype(np.float64)[faces]
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    return volume, count - len(there) // 2 + len(faces)


def front_faces(shape: Shape) -> Array:
    return shape.mesh.faces[: len(shape.mesh.faces) // 2]


def flat_areas(mesh: Mesh, faces: Array) -> Array:
    """Signed areas seen from the front, -Y."""
    p = mesh.vertices.astype(np.float64)[faces][..., [0, 2]]
    u, v = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def parts_and_holes(mask: Array, smallest: int = 4) -> tuple[int, int]:
    labels, count = ndimage.label(mask)
    parts = int((np.bincount(labels.ravel())[1:] >= smallest).sum()) if count else 0
    labels, _ = ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[[0, labels[0, 0]]] = 0
    return parts, int((sizes >= smallest).sum())


blob = st.tuples(
    st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 0.4), st.floats(0.02, 0.4), st.booleans()
)


@st.composite
def masks(draw: st.DrawFn) -> Array:
    """Ellipses and boxes laid over and cut out of each other."""
    size = draw(st.integers(16, 96))
    x, y = grid(size)
    mask = np.zeros((size, size), bool)
    for i, (cx, cy, rx, ry, is_box) in enumerate(draw(st.lists(blob, min_size=1, max_size=8))):
        u, v = (x / size - cx) / rx, (y / size - cy) / ry
        inside = np.maximum(abs(u), abs(v)) < 1 if is_box else u * u + v * v < 1
        mask = mask & ~inside if i % 3 == 2 else mask | inside
    if draw(st.booleans()):
        mask ^= np.random.default_rng(draw(st.integers(0, 9))).random(mask.shape) < 0.03
    return mask


@given(mask=masks(), target=st.sampled_from([100, 2_000, 50_000]), blur_px=st.sampled_from([1, 2]))
@settings(max_examples=100, deadline=None)
def test_any_mask_becomes_a_closed_solid_inside_the_cube(
    mask: Array, target: int, blur_px: int
) -> None:
    alpha = ndimage.uniform_filter(mask.astype(float), blur_px)
    picture = cutout(alpha)
    if not (picture.rgba[..., 3] > 127).any():
        return
    shape = PreviewEngine().shape(picture, Asked(decimation_target=target), ignore)
    volume, _ = measure(shape.mesh)
    assert volume > 0
    assert abs(shape.mesh.vertices).max() <= 0.5
    assert flat_areas(shape.mesh, front_faces(shape)).min() > 0


@given(mask=masks())
@settings(max_examples=100, deadline=None)
def test_parts_and_holes_of_the_mask_are_those_of_the_solid(mask: Array) -> None:
    parts, holes = parts_and_holes(mask)
    if not parts:
        return
    shape = PreviewEngine().shape(cutout(mask), Asked(), ignore)
    assert measure(shape.mesh)[1] == 2 * (parts - holes)


@pytest.mark.parametrize("target", [1_000, 5_000, 50_000])
def test_topology_does_not_depend_on_the_number_of_faces(
    engine: PreviewEngine, target: int
) -> None:
    mask = disc(300, 100, 100, 90)
    mask = np.maximum(mask - disc(300, 100, 100, 40), disc(300, 240, 240, 50))
    mask = np.clip(mask - disc(300, 230, 240, 9) - disc(300, 255, 240, 9), 0, 1)
    shape = engine.shape(cutout(mask), Asked(decimation_target=target), ignore)
    assert measure(shape.mesh)[1] == 2 * (2 - 3)


def test_the_picture_stands_upright_and_is_seen_from_minus_y(engine: PreviewEngine) -> None:
    mask = np.zeros((200, 200))
    mask[10:190, 20:60] = 1  # an L: its stem at the left ...
    mask[150:190, 20:180] = 1  # ... and its foot at the bottom
    shape = engine.shape(cutout(mask), Asked(), ignore)
    vertices = shape.mesh.vertices
    right = vertices[vertices[:, 0] > 0]
    assert right[:, 2].max() < -0.2
    assert vertices[:, 2].max() > 0.4
    corners = vertices[front_faces(shape)]
    assert corners[..., 1].max() <= 0
    assert flat_areas(shape.mesh, front_faces(shape)).min() > 0


def test_the_front_and_the_back_are_mirror_images(engine: PreviewEngine) -> None:
    mesh = engine.shape(cutout(disc(128, 64, 64, 60)), Asked(), ignore).mesh
    mirrored = mesh.vertices * np.array([1, -1, 1], np.float32)
    assert {tuple(v) for v in mirrored + 0.0} == {tuple(v) for v in mesh.vertices + 0.0}


def test_the_square_of_the_picture_fills_the_cube_but_for_two_voxels(engine: PreviewEngine) -> None:
    shape = engine.shape(cutout(np.ones((100, 100))), Asked(), ignore)
    edge = 0.5 - 2 / shape.resolution
    assert abs(shape.mesh.vertices[:, [0, 2]]).max() == pytest.approx(edge, abs=0.006)


def test_a_disc_is_lens_shaped_and_a_thin_rod_nearly_round(engine: PreviewEngine) -> None:
    lens = engine.shape(cutout(disc(256, 128, 128, 120)), Asked(), ignore).mesh.vertices
    assert 0.3 < np.ptp(lens[:, 1]) / np.ptp(lens[:, 0]) < 0.6
    x, y = grid(256)
    rod = engine.shape(cutout((abs(x - 128) < 5) & (abs(y - 128) < 120)), Asked(), ignore)
    assert 0.7 < np.ptp(rod.mesh.vertices[:, 1]) / np.ptp(rod.mesh.vertices[:, 0]) < 1.1


@pytest.mark.parametrize("edge_px", [1, 1e-9])
@pytest.mark.parametrize("angle", [0.0, 0.3, 0.785, 1.2, 1.571])
def test_a_wire_of_two_pixels_survives_in_one_piece(
    engine: PreviewEngine, edge_px: float, angle: float
) -> None:
    x, y = grid(1024)
    along = (x - 512.3) * np.cos(angle) + (y - 511.6) * np.sin(angle)
    across = abs((y - 511.6) * np.cos(angle) - (x - 512.3) * np.sin(angle))
    wire = np.clip((1 - across) / edge_px + 0.5, 0, 1)
    mask = np.where(abs(along) < 450, wire, 0)
    for sign in (-1, 1):
        x0, y0 = 512 + sign * 400 * np.cos(angle), 512 + sign * 400 * np.sin(angle)
        mask = np.maximum(mask, disc(1024, x0, y0, 50))
    shape = engine.shape(cutout(mask), Asked(decimation_target=5_000), ignore)
    assert measure(shape.mesh)[1] == 2


def test_specks_are_dropped_and_small_parts_are_kept(engine: PreviewEngine) -> None:
    mask = disc(512, 200, 200, 190)
    mask[480:482, 480:482] = 1  # 4 px beside 113 000
    mask[450:460, 300:310] = 1
    shape = engine.shape(cutout(mask), Asked(), ignore)
    assert measure(shape.mesh)[1] == 2 * 2


def test_a_window_pane_is_part_of_the_object_and_a_clear_hole_is_not(engine: PreviewEngine) -> None:
    mask = disc(200, 100, 100, 95)
    mask[60:90, 60:140] = 0.3
    mask[120:150, 60:140] = 0
    shape = engine.shape(cutout(mask), Asked(), ignore)
    assert measure(shape.mesh)[1] == 0


def test_a_few_lone_pixels_are_an_object_too(engine: PreviewEngine) -> None:
    mask = np.zeros((64, 64))
    mask[8:56:4, 8:56:4] = 1
    volume, euler = measure(engine.shape(cutout(mask), Asked(), ignore).mesh)
    assert volume > 0
    assert euler == 2 * 144


def test_the_outline_of_a_hard_edged_disc_has_no_stair_steps(engine: PreviewEngine) -> None:
    mesh = engine.shape(cutout(disc(512, 256.2, 255.7, 240, soft=False)), Asked(), ignore).mesh
    rim = mesh.vertices[mesh.vertices[:, 1] == 0][:, [0, 2]].astype(np.float64)
    rim = rim[np.argsort(np.arctan2(rim[:, 1], rim[:, 0]))]
    step = np.roll(rim, -1, 0) - rim
    turn = np.angle(np.exp(1j * np.diff(np.arctan2(step[:, 1], step[:, 0]), append=0)))[:-1]
    assert np.sqrt((turn**2).mean()) < np.radians(8)
    assert np.degrees(abs(turn)).max() < 25
    radius = np.hypot(*(rim - rim.mean(0)).T) * 512 / (1 - 4 / 320)
    assert radius.std() < 0.4


@pytest.mark.parametrize("target", [5_000, 20_000, 100_000])
def test_the_number_of_faces_is_what_was_asked_for(engine: PreviewEngine, target: int) -> None:
    shape = engine.shape(cutout(disc(600, 300, 300, 280)), Asked(decimation_target=target), ignore)
    assert 0.75 * target <= len(shape.mesh.faces) <= target


def test_a_small_picture_gives_no_more_faces_than_it_has_detail(engine: PreviewEngine) -> None:
    shape = engine.shape(cutout(np.ones((16, 16))), Asked(decimation_target=500_000), ignore)
    assert len(shape.mesh.faces) < 2_000


@pytest.mark.parametrize(
    ("texture_size", "resolution"),
    [(256, 256), (512, 320), (1024, 640), (2048, 1024), (8192, 1024)],
)
def test_the_field_is_as_fine_as_the_texture_can_show(
    engine: PreviewEngine, texture_size: int, resolution: int
) -> None:
    asked = Asked(texture_size=texture_size, decimation_target=1_000)
    assert engine.shape(cutout(disc(64, 32, 32, 30)), asked, ignore).resolution == resolution


def made(
    engine: PreviewEngine, picture: Cutout, asked: Asked | None = None
) -> tuple[Shape, VoxelField]:
    asked = asked or Asked()
    shape = engine.shape(picture, asked, ignore)
    return shape, engine.texture(shape, picture, asked, ignore)


def samples(mesh: Mesh, faces: Array, count: int = 20_000) -> Array:
    """Random points on some faces, by area."""
    rng = np.random.default_rng(0)
    corners = mesh.vertices.astype(np.float64)[faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    chosen = corners[rng.choice(len(faces), count, p=area / area.sum())]
    weights = rng.dirichlet((1, 1, 1), count)
    return np.einsum("ij,ijk->ik", weights, chosen)


def look_up(field: VoxelField, points: Array) -> Array:
    """Rows of the field's 8 voxels around each point, -1 where there is none."""
    size = field.resolution
    keys = np.ravel_multi_index(field.coords.T, (size,) * 3)
    order = np.argsort(keys)
    low = np.floor((points + 0.5) * size - 0.5).astype(np.int64)
    offsets = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    wanted = np.ravel_multi_index(np.moveaxis(low[:, None] + offsets, -1, 0), (size,) * 3)
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    rows = order[at]
    return np.where(keys[rows] == wanted, rows, -1)


def sample(field: VoxelField, points: Array) -> Array:
    return field.attributes[look_up(field, points)].mean(1)


@given(mask=masks())
@settings(max_examples=25, deadline=None)
def test_every_point_of_the_surface_has_all_its_voxels(mask: Array) -> None:
    if not mask.any():
        return
    asked = Asked(texture_size=256)
    shape, field = made(PreviewEngine(), cutout(mask), asked)
    points = samples(shape.mesh, shape.mesh.faces, 4_000)
    near = points + np.random.default_rng(1).uniform(-0.49, 0.49, points.shape) / field.resolution
    assert (look_up(field, points) >= 0).all()
    assert (look_up(field, near) >= 0).all()


def test_the_field_is_what_the_exporter_expects(engine: PreviewEngine) -> None:
    _, field = made(engine, cutout(disc(200, 100, 100, 95), RED))
    assert field.coords.dtype == np.int32
    assert field.attributes.dtype == np.float32
    assert field.coords.min() >= 0
    assert field.coords.max() < field.resolution
    assert len(np.unique(field.coords, axis=0)) == len(field.coords)
    assert field.attributes.shape == (len(field.coords), 6)
    assert (field.attributes[:, METALLIC] == 0).all()
    assert field.attributes[:, ROUGHNESS] == pytest.approx(0.7)
    assert (field.attributes[:, ALPHA] == 1).all()
    assert field.attributes.min() >= 0
    assert field.attributes.max() <= 1


def test_the_front_has_the_colours_of_the_picture_in_place(engine: PreviewEngine) -> None:
    color = np.zeros((256, 256, 3), np.uint8)
    color[:128, :128], color[:128, 128:] = RED, GREEN
    color[128:, :128], color[128:, 128:] = BLUE, WHITE
    shape, field = made(engine, cutout(disc(256, 128, 128, 120), color))
    points = samples(shape.mesh, front_faces(shape))
    points = points[(abs(points[:, [0, 2]]) > 0.02).all(1)]
    got = sample(field, points)[:, BASE_COLOR] * 255
    pixel = np.floor(np.column_stack([0.5 - points[:, 2], points[:, 0] + 0.5]) * 256).astype(int)
    error = abs(got - color[pixel[:, 0], pixel[:, 1]]).max(1)
    assert error.max() < 10
    assert error[np.hypot(points[:, 0], points[:, 2]) < 0.45].max() < 2


def test_what_was_behind_the_object_does_not_bleed_into_its_outline(engine: PreviewEngine) -> None:
    mask = disc(256, 128, 128, 120)
    color = np.rint(mask[..., None] * RED + (1 - mask[..., None]) * np.array(GREEN))
    shape, field = made(engine, cutout(mask, color.astype(np.uint8)))
    got = sample(field, samples(shape.mesh, shape.mesh.faces))[:, BASE_COLOR] * 255
    assert abs(got - np.array(RED)).max() < 0.04 * 180 + 1


def test_glass_keeps_its_own_colour_and_becomes_opaque(engine: PreviewEngine) -> None:
    mask = disc(256, 128, 128, 120)
    mask = np.where(mask == 1, 0.6, mask * 0.6)
    shape, field = made(engine, cutout(mask, BLUE))
    got = sample(field, samples(shape.mesh, shape.mesh.faces))
    assert abs(got[:, BASE_COLOR] * 255 - np.array(BLUE)).max() < 3
    assert (got[:, ALPHA] == 1).all()


def test_the_back_continues_the_front_at_the_outline_and_loses_detail_behind_it(
    engine: PreviewEngine,
) -> None:
    x, y = grid(512)
    check = ((x // 8 + y // 8) % 2)[..., None] * np.array(WHITE, np.uint8)
    mask = disc(512, 256, 256, 250)
    shape, field = made(engine, cutout(mask, check.astype(np.uint8)), Asked(texture_size=1024))
    front = samples(shape.mesh, front_faces(shape))
    back = front * np.array([1, -1, 1])
    difference = abs(sample(field, front) - sample(field, back))[:, BASE_COLOR].max(1)
    radius = np.hypot(front[:, 0], front[:, 2])
    assert difference[radius > 0.4845].max() < 0.02
    middle = radius < 0.2
    assert sample(field, front)[middle, 0].std() > 0.3
    assert sample(field, back)[middle, 0].std() < 0.05


def test_the_same_picture_gives_the_same_bytes(engine: PreviewEngine) -> None:
    picture = cutout(disc(200, 90, 100, 85, soft=False), RED)
    first, second = made(engine, picture), made(engine, picture, Asked(seed=7))
    for a, b in (
        (first[0].mesh.vertices, second[0].mesh.vertices),
        (first[0].mesh.faces, second[0].mesh.faces),
        (first[1].coords, second[1].coords),
        (first[1].attributes, second[1].attributes),
    ):
        assert a.tobytes() == b.tobytes()


def test_progress_ends_with_all_steps_and_a_report_that_raises_stops_the_stage(
    engine: PreviewEngine,
) -> None:
    picture = cutout(disc(64, 32, 32, 30))
    seen = []
    shape = engine.shape(picture, Asked(), lambda *step: seen.append(step))
    engine.texture(shape, picture, Asked(), lambda *step: seen.append(step))
    assert seen[0][1] == 0
    assert seen[4][1] == seen[4][2]
    assert seen[-1][1] == seen[-1][2]

    def cancel(stage: str, _step: int, _of: int) -> None:
        if stage in {"inflate", "surface"}:
            raise JobCancelledError("cancelled")

    with pytest.raises(JobCancelledError):
        engine.shape(picture, Asked(), cancel)
    with pytest.raises(JobCancelledError):
        engine.texture(shape, picture, Asked(), cancel)


def test_an_empty_picture_is_an_error_that_says_so(engine: PreviewEngine) -> None:
    with pytest.raises(EngineError, match="nothing in the picture"):
        engine.shape(cutout(np.zeros((32, 32))), Asked(), ignore)


def test_an_unloaded_engine_serves_again(engine: PreviewEngine) -> None:
    engine.unload()
    assert engine.name == "preview"
    assert len(engine.shape(cutout(disc(64, 32, 32, 30)), Asked(), ignore).mesh.faces)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_importing_the_engine_imports_nothing_heavy() -> None:
    heavy = "{'numba', 'scipy', 'torch', 'cv2', 'onnxruntime'}"
    code = f"import sys, trellis2_server.engines.preview; print({heavy} & set(sys.modules))"
    assert run(code) == "set()"


def test_without_numba_the_error_names_the_line_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from trellis2_server.engines.preview import PreviewEngine\n"
        "from trellis2_server.errors import MissingPackageError\n"
        "try: PreviewEngine().load(lambda *step: None)\n"
        "except MissingPackageError as error: print(error)"
    )
    assert "pip install" in run(code)


def test_a_kernel_compiles_where_there_is_no_place_for_a_cache() -> None:
    from trellis2_server.engines.preview import _kernels

    namespace = {}
    exec("def double(x): return 2 * x", namespace)  # noqa: S102 (a function without a file)
    assert _kernels.kernel("i8(i8)")(namespace["double"])(21) == 42
