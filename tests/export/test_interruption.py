"""No loop of the exporter or of the preview engine runs long without looking at its flag."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import hostile_shapes, shapes
from tests.support.loops import replace_calls
from trellis2_server import export
from trellis2_server.engines.preview import kernels as preview_kernels
from trellis2_server.engines.preview.engine import PreviewEngine
from trellis2_server.engines.preview.projection import project
from trellis2_server.errors import ExportError
from trellis2_server.export import cancellation, kernels
from trellis2_server.export.given_uv import check_uv
from trellis2_server.export.levels import create_levels
from trellis2_server.export.normals import full_surface
from trellis2_server.export.occlusion import measure_occlusion
from trellis2_server.export.pictures import draw_picture
from trellis2_server.export.unwrap import unwrap
from trellis2_server.inputs.meshes import Scene, to_model_frame
from trellis2_server.inputs.meshes.scene import Part
from trellis2_server.mesh import Mesh
from trellis2_server.parameters import PictureForm, read_options
from trellis2_server.reports import no_report
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from typing_extensions import Self

#: CPU time that a loop may take between two looks at its flag, seconds.
LIMIT_S = 0.05


def _loops() -> dict[str, Any]:
    """Return all compiled loops, by module and name."""
    found: dict[str, Any] = {}
    for package in (kernels, preview_kernels):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            found |= {
                f"{module.__name__}.{name}": value
                for name, value in vars(module).items()
                if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__
            }
    return found


def _parameters(loop: Any) -> list[str]:
    return list(inspect.signature(loop.py_func).parameters)


class Observer:
    """Watches the threads of an export: how long each computes without a sign of life.

    Attributes:
        worst: of each loop, the longest CPU time between two looks at its flag, seconds.
    """

    def __init__(self) -> None:
        self.worst: dict[str, float] = {}
        self.called: set[str] = set()
        self._flags: dict[int, NDArray[np.int64]] = {}
        self._running: dict[int, str] = {}
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def flag(self) -> NDArray[np.int64]:
        """Return a flag for this thread, on which loops count their looks."""
        own = np.array([cancellation.OBSERVED, 0], np.int64)
        return self._flags.setdefault(threading.get_ident(), own)

    def call(self, loop: Any, *arguments: Any) -> Any:
        """Call a loop and note that it runs."""
        thread, name = threading.get_ident(), f"{loop.py_func.__module__}.{loop.__name__}"
        flag = self.flag()
        self.called.add(name)
        self._running[thread] = name
        flag[1] += 1
        try:
            return loop(*arguments, flag)
        finally:
            flag[1] += 1
            del self._running[thread]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._thread.join()

    def _watch(self) -> None:
        since: dict[int, tuple[int, float]] = {}
        while not self._has_ended.wait(0.002):
            for thread, name in list(self._running.items()):
                count = int(self._flags[thread][1])
                spent = time.clock_gettime(time.pthread_getcpuclockid(thread))
                if since.get(thread, (-1, 0.0))[0] != count:
                    since[thread] = count, spent
                if self._running.get(thread) == name and int(self._flags[thread][1]) == count:
                    quiet = spent - since[thread][1]
                    self.worst[name] = max(self.worst.get(name, 0.0), quiet)


@contextmanager
def observing() -> Iterator[Observer]:
    """Observe all loops; each runs on the thread that calls it."""
    if not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip("this system has no CPU clock of a thread")
    export.warm_up(everything=True)
    preview_kernels.load_all()
    with Observer() as watching, pytest.MonkeyPatch.context() as patch:
        replace_calls(patch, watching.call)
        yield watching


@pytest.fixture(scope="module")
def ordinary() -> Observer:
    """What was observed of exports at usual sizes."""
    with observing() as observer:
        _ordinary()
    return observer


def _picture() -> Any:
    rgba = np.zeros((1024, 1024, 4), np.uint8)
    rows, columns = np.mgrid[-512:512, -512:512]
    rgba[rows**2 + columns**2 < 450**2] = (200, 120, 40, 255)
    rgba[::37, ::41, 3] = 0
    return SimpleNamespace(rgba=rgba, background="alpha", views=())


def _ordinary() -> None:
    fields = {"texture_size": 2048, "decimation_target": 200_000, "back": "fill"}
    options = read_options(fields, Settings())
    engine, cutout = PreviewEngine(), _picture()
    shape = engine.shape(cutout, options, no_report)
    field = engine.texture(shape, cutout, options, no_report)
    mesh = export.prepare(shape.mesh, decimation_target=20_000)
    export.textured_glb(
        mesh, field, original=shape.mesh, texture_size=2048, occlusion=True, normal_map=True,
        lods=(5000, 1000),
    )  # fmt: skip
    large = shapes.torus(1000, 400)
    export.prepare(large, decimation_target=100_000)
    export.prepare(large, decimation_target=100_000, remesh_resolution=256)
    export.prepare(shapes.moebius(), decimation_target=100)
    export.prepare(
        shapes.links(), decimation_target=500, remesh_resolution=100, solid=True, min_wall=0.1
    )
    unwrap(large, 512)


def _hostile(name: str) -> None:
    mesh = hostile_shapes.HOSTILE[name]()
    project(mesh, _picture(), 256, "mirror", 0.7, no_report)
    with suppress(ExportError):  # too many charts
        unwrap(mesh, 512)
    measure_occlusion(mesh)
    full_surface(mesh)
    if len(mesh.faces) < 30_000:
        with suppress(ExportError):
            atlas = unwrap(mesh, 512)
            list(create_levels(mesh, atlas, (len(mesh.faces) // 8,)))
    with suppress(ExportError):  # nothing remains
        export.prepare(mesh, decimation_target=500)


def long_runs(observer: Observer) -> dict[str, float]:
    return {loop: worst for loop, worst in observer.worst.items() if worst > LIMIT_S}


@pytest.mark.costly("ordinary")
def test_no_loop_computes_for_long_without_a_look_at_its_flag(ordinary: Observer) -> None:
    assert long_runs(ordinary) == {}


@pytest.mark.costly
@pytest.mark.parametrize("name", hostile_shapes.HOSTILE)
def test_no_loop_computes_for_long_on_a_hostile_shape(name: str) -> None:
    with observing() as observer:
        _hostile(name)
    assert long_runs(observer) == {}


def _check_layers() -> None:
    """Check texture coordinates with as many layers over the whole square as there may be."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    faces = np.tile(np.array([[0, 1, 2], [0, 2, 3]], np.int32), (7, 1))
    part = Part(0, corners, None, corners[:, :2], faces, np.eye(4))
    scene = Scene((part,), ({"mesh": 0},), (0,), (None,))
    check_uv(scene, to_model_frame(scene), no_report)


@pytest.mark.costly
def test_a_check_of_texture_coordinates_looks_at_its_flag() -> None:
    _check_layers()  # compiles
    with observing() as observer:
        _check_layers()
    assert any(name.endswith(".find_overlap") for name in observer.called)
    assert long_runs(observer) == {}


@pytest.mark.costly("ordinary")
def test_all_loops_are_observed(ordinary: Observer) -> None:
    with observing() as observer:
        _hostile("slivers")
        _check_layers()
        sphere = shapes.sphere()
        mixed = np.where(
            np.arange(len(sphere.faces))[:, None] % 3 == 0, sphere.faces[:, ::-1], sphere.faces
        )
        export.prepare(Mesh(sphere.vertices, mixed), decimation_target=10_000)
        glb = export.textured_glb(shapes.sphere(), shapes.field(8), texture_size=32)
        draw_picture(glb, PictureForm("thumbnail", 32))
    called = ordinary.called | observer.called
    inner = {name for name, loop in _loops().items() if "flag" not in _parameters(loop)}
    never = {name.rpartition(".")[2] for name in _loops().keys() - inner - called}
    # Loops that other loops call with their flag, and those of measurements and uploaded scenes.
    assert never <= {
        "rasterize_face", "relax_step", "prevent_flips", "count_overlaps", "intersect_edges",
        "measure_distances", "sample_points", "pair_corners", "_mark_columns", "_mark_thin",
        "meet_ray", "count_open", "_sweep", "_transform",
    }  # fmt: skip


def test_loops_are_called_with_the_flag_only() -> None:
    """`call` and `parallel_for` add the flag: a loop that does not take it fails."""
    direct = re.compile(r"(?<![\w.])(kernels|drawing|grouping|loops|inflation)\.(?!load)[a-z_]+\(")
    for name, module in list(sys.modules.items()):
        if (
            name.startswith(("trellis2_server.export.", "trellis2_server.engines.preview."))
            and ".kernels" not in name
            and not name.endswith(".compilation")
        ):
            assert not direct.search(inspect.getsource(module)), name


class StopError(Exception):
    """Raised by the reports of these tests."""


def _export(mesh: Mesh, report: Callable[[str, int, int], None]) -> None:
    field = project(mesh, _picture(), 64, "mirror", 0.7, no_report)
    small = export.prepare(mesh, decimation_target=500, report=report)
    export.textured_glb(small, field, original=mesh, texture_size=256, report=report)


@pytest.mark.costly
@pytest.mark.parametrize("name", ["stair", "hub", "needles", "torus"])
def test_an_export_can_be_stopped_at_any_moment(name: str) -> None:
    """The flag is set after some calls of loops; the next call that ends raises."""
    mesh = shapes.torus(200, 100) if name == "torus" else hostile_shapes.HOSTILE[name]()
    calls = 0
    stop_at = -1
    real = cancellation.flag

    def flag() -> NDArray[np.int64]:
        nonlocal calls
        calls += 1
        watch = cancellation._current.get()
        if calls == stop_at and watch is not None:
            watch.error = StopError()
            watch.flag[0] = cancellation.CANCELLED
        return real()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cancellation, "flag", flag)
        with suppress(ExportError):
            _export(mesh, no_report)
        count, threads = calls, threading.active_count()
        assert count > 20
        for stop_at in np.random.default_rng(4).integers(12, count - 1, 6).tolist():
            calls = 0
            with pytest.raises(StopError):
                _export(mesh, lambda *_: None)
            # Nothing was started after that, but for what ran beside it.
            assert calls <= stop_at + 3
    assert threading.active_count() <= threads + 1
