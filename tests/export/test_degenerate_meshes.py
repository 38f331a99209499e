"""No mesh without area, of extreme size or with odd faces makes a loop longer than its input.

Work is counted in looks of the compiled loops at their flag, which are proportional to it.

TRELLIS2_TEST_EXAMPLES sets the number of meshes that are tried (60); thousands take minutes.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import shapes
from trellis2_server.errors import ExportError, InputError, ServerError
from trellis2_server.export import cancellation, parallel
from trellis2_server.export.bake import bake, build_index
from trellis2_server.export.clean import clean
from trellis2_server.export.remesh import remesh
from trellis2_server.export.unwrap import unwrap
from trellis2_server.inputs.meshes import read_scene
from trellis2_server.inputs.meshes.model_frame import to_model_frame
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray

    Corners = NDArray[np.float64]

EXAMPLES = int(os.environ.get("TRELLIS2_TEST_EXAMPLES", "60"))
SIZE_PX = 128
RESOLUTION = 32
#: Looks of all loops of a call; those of the usual meshes below are fewer than a tenth.
LIMIT = 2_000_000


class TooMuchWorkError(Exception):
    pass


@contextmanager
def counted(limit: int = LIMIT) -> Generator[NDArray[np.int64]]:
    """Count the looks of compiled loops, and stop them at a limit."""
    flag = np.array([cancellation.OBSERVED, 0], np.int64)
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.wait(0.02):
            if flag[1] > limit:
                flag[0] = cancellation.CANCELLED
                return

    thread = threading.Thread(target=watch)
    patch = pytest.MonkeyPatch()
    patch.setattr(cancellation, "flag", lambda: flag)
    patch.setattr(parallel, "_THREADS", 1)  # the counter is not atomic
    thread.start()
    try:
        yield flag
    finally:
        has_ended.set()
        thread.join()
        patch.undo()
        if flag[1] > limit:  # what was raised comes from useless results
            raise TooMuchWorkError(f"{flag[1]} looks at the flag")


def triangle(random: np.random.Generator) -> Corners:
    return random.uniform(-1, 1, (1, 3, 3))


def line(random: np.random.Generator) -> Corners:
    return random.uniform(-1, 1, (3, 3, 1)) * random.uniform(-1, 1, 3)


def on_an_axis(random: np.random.Generator) -> Corners:
    return random.uniform(-1, 1, (2, 3, 1)) * np.eye(3)[random.integers(3)]


def point(random: np.random.Generator) -> Corners:
    return np.repeat(random.uniform(-1, 1, (2, 1, 3)), 3, axis=1)


def needle(random: np.random.Generator) -> Corners:
    thin = random.uniform(-1, 1, 3) * 10.0 ** random.integers(-20, -2)
    ends = random.uniform(-1, 1, (2, 3))
    return np.array([[*ends, ends.mean(axis=0) + thin]])


def repeated(random: np.random.Generator) -> Corners:
    return np.repeat(triangle(random), random.integers(2, 40), axis=0)


def plate(random: np.random.Generator) -> Corners:
    x, y = random.uniform(0.01, 1, 2)
    corners = np.array([[0, 0, 0], [x, 0, 0], [x, y, 0], [0, y, 0]], np.float64)
    return corners[[[0, 1, 2], [0, 2, 3]]]


def ball(random: np.random.Generator) -> Corners:
    del random
    mesh = shapes.sphere(8)
    return mesh.vertices[mesh.faces].astype(np.float64)


def fan(random: np.random.Generator) -> Corners:
    rim = random.uniform(-1, 1, (200, 3))
    return np.stack([np.zeros_like(rim), rim, np.roll(rim, 1, axis=0)], axis=1)


PIECES: tuple[Callable[[np.random.Generator], Corners], ...] = (
    triangle, line, on_an_axis, point, needle, repeated, plate, ball, fan,
)  # fmt: skip


@st.composite
def corners(draw: st.DrawFn, largest: int) -> Corners:
    """Draw the corners of faces, float64 [F, 3, 3].

    Args:
        draw: of Hypothesis.
        largest: largest exponent of a size or place, to the base of ten.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    pieces: list[Corners] = []
    exponents = st.one_of(st.just(0), st.integers(-9, 9), st.sampled_from((-largest, largest)))
    for make in draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4)):
        size = 10.0 ** float(draw(exponents))
        place = draw(st.sampled_from(("here", "UTM", "far", "beside")))
        at = {"here": 0.0, "UTM": np.array([5e5, 4.5e6, 120.0]), "beside": 3.0 * size}.get(place)
        if at is None:
            at = random.choice([-1.0, 0.0, 1.0], 3) * 10.0 ** float(draw(exponents))
        pieces.append(make(random) * size + at)
    found = np.concatenate(pieces)
    if draw(st.integers(0, 3)) == 0:
        found = found * draw(st.sampled_from(([1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1e-12, 1])))
    if draw(st.integers(0, 9)) == 0:
        found[random.integers(len(found)), 0, 0] = draw(
            st.sampled_from((np.nan, np.inf, 10.0**largest))
        )
    return found


def welded(found: Corners) -> tuple[Corners, NDArray[np.int32]]:
    vertices, index = np.unique(found.reshape(-1, 3), axis=0, return_inverse=True)
    return vertices, index.reshape(-1, 3).astype(np.int32)


FIELD = shapes.field(RESOLUTION)


def exported(mesh: Mesh) -> None:
    """Unwrap and bake a mesh; check the coordinates."""
    atlas = unwrap(mesh, SIZE_PX)
    assert bool(np.isfinite(atlas.uv).all())
    assert 0.0 <= float(atlas.uv.min()) <= float(atlas.uv.max()) <= SIZE_PX
    maps = bake(mesh, atlas, build_index(FIELD, mesh))
    assert maps.base_color.shape == (SIZE_PX, SIZE_PX, 4)


def checked(function: Callable[[], Any]) -> Any:
    """Call a function whose only errors are those for clients, within the limit of work."""
    with counted():
        try:
            return function()
        except ServerError as error:
            if not isinstance(error, InputError | ExportError):
                raise
            return None


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(corners(300))
def test_a_file_with_degenerate_faces_is_refused_or_textured_with_bounded_work(
    found: Corners,
) -> None:
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in found.reshape(-1, 3).tolist()]
    lines += [f"f {3 * n + 1} {3 * n + 2} {3 * n + 3}" for n in range(len(found))]
    content = "\n".join(lines).encode()
    mesh = checked(lambda: to_model_frame(read_scene(content)))
    if mesh is not None:
        checked(lambda: exported(mesh))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(corners(15))
def test_an_export_of_degenerate_faces_takes_bounded_work(found: Corners) -> None:
    with np.errstate(all="ignore"):
        vertices, faces = welded(found.astype(np.float32).astype(np.float64))
        mesh = Mesh(vertices.astype(np.float32), faces)
    cleaned = checked(lambda: clean(mesh))
    if cleaned is not None:
        checked(lambda: exported(cleaned))
        # The grid is as large as the mesh; engines make meshes in a cube.
        low, high = cleaned.vertices.min(axis=0), cleaned.vertices.max(axis=0)
        size = max(float((high - low).max()), 1e-30)
        cube = Mesh(((cleaned.vertices - low) / size).astype(np.float32), cleaned.faces)
        checked(lambda: remesh(cube, RESOLUTION))


def test_two_triangles_a_billion_units_apart_get_a_place_in_the_texture_each() -> None:
    content = (
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\nv 1e9 0 0\nv 1000000001 0 0\nv 1e9 1 0\nf 4 5 6\n"
    )
    mesh = to_model_frame(read_scene(content))
    atlas = unwrap(mesh, SIZE_PX)
    one, other = (atlas.uv[atlas.faces[face]] for face in range(2))
    # In single precision each is a point of the scene: a place of its own is all that it needs.
    assert np.abs(one.mean(axis=0) - other.mean(axis=0)).max() >= 1


@pytest.mark.parametrize("content", [
    b"v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n",
    b"v 0 0 0\nv 1 0 0\nv .5 1e-18 0\nf 1 2 3\n",
    b"v 1 2 3\nv 1 2 3\nv 1 2 3\nf 1 2 3\n",
])  # fmt: skip
def test_a_mesh_without_area_is_called_that(content: bytes) -> None:
    with pytest.raises(InputError, match="no area"):
        to_model_frame(read_scene(content))


def test_usual_meshes_take_a_tenth_of_the_limit() -> None:
    for mesh in (shapes.sphere(), shapes.sphere(8)):
        with counted(LIMIT // 10):
            exported(clean(mesh))
            remesh(mesh, RESOLUTION)
