"""Compile all loops of the exporter before the first export, in several processes.

numba compiles on one core and holds the interpreter lock meanwhile, so only other processes can
share the work. `python -m trellis2_server.export.compilation PART NICENESS` compiles one part
into numba's cache on disk. Without a cache, no other process is started.

Does not know: engines, whose loading may run at the same time.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export import subprocess_call
from trellis2_server.mesh import Mesh, VoxelField
from trellis2_server.reports import no_report
from trellis2_server.thread_priority import EXPORT_NICENESS, lower_priority

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.export.bake import Index
    from trellis2_server.reports import Check, Report

logger = logging.getLogger(__name__)

#: What can be compiled separately, longest first, and the modules of `kernels` of each part.
PARTS: Final = {
    "remesh": ("rays", "remesh", "triangles"),
    "prepare": ("adjacency", "clean", "decimate", "parts"),
    "unwrap": ("charts", "grouping", "packing"),
    "bake": ("bake", "encode", "gaps", "geometry"),
    "draw": ("drawing",),
    "maps": ("footpoints", "levels", "maps", "normals", "occlusion", "trees"),
}
#: Parts that every export needs. Others are compiled after the start, see `compile_rest`.
COMMON: Final = ("prepare", "unwrap", "bake")
#: Loops that no export needs: only measurements sample a field at points.
_OPTIONAL: Final = {"bake.sample_points"}
#: How often a compilation that waits for other processes reports, seconds.
_REPORT_S: Final = 0.5


class Compilation:
    """A context in which other processes compile, one for each core but one.

        with Compilation() as compilation:
            ...  # something else that takes long
            compilation.finish(report)

    Leaving the context stops the processes.

    Args:
        parts: of `PARTS`.

    Raises:
        MissingPackageError: numba is not installed.
    """

    def __init__(self, parts: Iterable[str] = COMMON) -> None:
        self._parts = tuple(parts)
        self._queue: deque[str] = deque()
        #: Parts that no process has compiled yet; of those, some are taken by `finish`.
        self._unfinished: set[str] = set()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_closed = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._queue += [part for part in self._parts if not is_compiled(part)]
        self._unfinished.update(self._queue)
        if self._queue:
            logger.info(
                "Compiling loops; the first start takes up to a few minutes",
                extra={"parts": list(self._queue)},
            )
        for _ in range(min(len(self._queue), (os.cpu_count() or 1) - 1)):
            thread = threading.Thread(target=self._run, name="compilation", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
            self._queue.clear()
            for process in self._running:
                process.kill()
        for thread in self._threads:
            thread.join()

    def finish(self, report: Report = no_report) -> None:
        """Compile the parts that no process has started, wait for the others, and load all.

        Args:
            report: stage "exporter", whose steps are the loaded parts. While this waits for another
                process, it is called at intervals.

        Raises:
            MissingPackageError: Pillow is not installed.
        """
        loaded: list[str] = []

        def progress() -> None:
            report("exporter", len(loaded), len(self._parts))

        progress()
        while left := [part for part in self._parts if part not in loaded]:
            part = self._take_any(left, progress)
            _compile(part)
            loaded.append(part)
            progress()

    def _take_any(self, parts: Iterable[str], check: Check) -> str:
        """Return the next part to load.

        That is one that no process works on: it is loaded from the cache, or compiled if its
        process failed. If there is none, one that no process has started; if there is none either,
        wait for a process.
        """
        while True:
            with self._changed:
                for part in parts:
                    if part not in self._unfinished:
                        return part
                if self._queue:
                    return self._queue.popleft()
                self._changed.wait(_REPORT_S)
            check()

    def _next_part(self) -> str | None:
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def _run(self) -> None:
        while (part := self._next_part()) is not None:
            process = _start(part)
            if process is not None:
                with self._lock:
                    self._running.add(process)
                    if self._is_closed:
                        process.kill()
                process.wait()
            with self._changed:
                if process is not None:
                    self._running.remove(process)
                self._unfinished.discard(part)
                self._changed.notify_all()
            if process is None:
                return


@functools.cache
def compile_rest() -> threading.Thread:
    """Compile the parts that are not compiled yet, one after the other, with a low priority.

    Only the processes have it: this thread holds the interpreter's lock from time to time, for
    which a thread that waits for a processor would keep all others waiting.

    A request that needs one sooner compiles it itself. Further calls do nothing.

    Returns:
        The thread, which ends when all are compiled. Its process ends with this one, unless that is
        killed.
    """

    def run() -> None:
        for part in PARTS:
            process = None if is_compiled(part) else _start(part, EXPORT_NICENESS)
            if process is not None:
                atexit.register(process.kill)
                process.wait()
                atexit.unregister(process.kill)

    thread = threading.Thread(target=run, name="compile-rest", daemon=True)
    thread.start()
    return thread


def is_compiled(part: str) -> bool:
    """Return whether numba's cache has all loops of the part, or whether there is no cache."""
    return all(_is_cached(loop) for loops in _loops(part) for loop in loops)


def _forget_other_versions(part: str) -> None:
    """Take loops of a module out of numba's cache where it has not all of them.

    A loop that others call has no entry of its own once they are loaded from the cache: after the
    module was replaced by another version and came back, it would be missing for good.
    """
    for loops in _loops(part):
        if not all(map(_is_cached, loops)):
            for loop in loops:
                loop._cache.flush()  # noqa: SLF001 - there is no other way


def _loops(part: str) -> list[list[Any]]:
    """Return the loops of each module that are compiled."""
    modules = {
        name: vars(importlib.import_module(f"trellis2_server.export.kernels.{name}"))
        for name in PARTS[part]
    }
    return [
        [
            value
            for key, value in content.items()
            if hasattr(value, "py_func")
            and value.py_func.__module__ == content["__name__"]
            and f"{name}.{key}" not in _OPTIONAL
        ]
        for name, content in modules.items()
    ]


def _is_cached(loop: Any) -> bool:
    """Return whether numba would load a loop from its cache, or whether it has none.

    Asked of numba itself: it may compare the source's text, so that dates say nothing.
    """
    file: Any = getattr(loop._cache, "_cache_file", None)  # noqa: SLF001 - there is no other way
    try:
        return file is None or bool(file._load_index())  # noqa: SLF001
    except OSError:
        return False


def _start(part: str, niceness: int = 0) -> subprocess.Popen[bytes] | None:
    """Start a process that compiles the part; None: it could not be started."""
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "trellis2_server.export.compilation", part, str(niceness)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=subprocess_call.environment(),
        )
    except OSError:
        return None


# ---- a small model that needs all loops ----------------------------------------------


def _mesh() -> Mesh:
    """Return an octahedron with a hole and a flipped face, and a floater, a Moebius strip."""
    corners = np.array(
        [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32
    )
    faces = [
        [a, b, c] if (a == 0) == ((b == 2) == (c == 4)) else [a, c, b]  # noqa: PLR2004
        for a in (0, 1)
        for b in (2, 3)
        for c in (4, 5)
    ]
    faces[0].reverse()
    strip = [[6 + i % 5, 6 + (i + 1) % 5, 6 + (i + 2) % 5] for i in range(5)]
    vertices = np.concatenate([corners * 0.004, corners[:5] * 1e-6 + 0.004]).astype(np.float32)
    return Mesh(vertices, np.array(faces[:-1] + strip, np.int32))


def _field() -> VoxelField:
    return VoxelField(
        np.array([[i, j, k] for i in (1, 2) for j in (1, 2) for k in (1, 2)], np.int32),
        np.linspace(0, 1, 48, dtype=np.float32).reshape(8, 6),
        4,
    )


def _compile(part: str) -> None:
    """Call the loops of one part, and only those."""
    mesh = _mesh()
    if part == "remesh":
        from trellis2_server.export.remesh import remesh
        from trellis2_server.export.triangle_tree import TriangleTree, count_fans

        remesh(mesh, 512)
        tree = TriangleTree(mesh)
        tree.find_touching()
        tree.measure_walls()
        tree.count_crossings(np.zeros((1, 3)), np.ones(3))
        count_fans(np.zeros(3, np.int32))
    elif part == "prepare":
        from trellis2_server.export.clean import clean
        from trellis2_server.export.decimate import decimate

        decimate(clean(mesh), 6, min_split_faces=0)
    elif part == "unwrap":
        from trellis2_server.export.unwrap import unwrap

        unwrap(mesh, 32)
    elif part == "draw":
        _draw(mesh)
    elif part == "maps":
        _bake_maps(mesh)
    else:
        _bake(mesh, _field())


def _draw(mesh: Mesh) -> None:
    from trellis2_server.drawing import DrawnModel, draw_model
    from trellis2_server.export.pictures import COMPILED_LOOPS

    zeros = np.zeros_like(mesh.faces)
    model = DrawnModel(
        positions=mesh.vertices,
        faces=mesh.faces,
        normals=mesh.vertices,
        normal_faces=mesh.faces,
        uvs=np.zeros((1, 2), np.float32),
        uv_faces=zeros,
        texture=np.zeros((2, 2, 7), np.uint8),
        is_textured=True,
        alpha_mode="BLEND",  # of which several layers are drawn
        alpha_cutoff=0.5,
        double_sided=True,
    )
    draw_model(model, size_px=8, loops=COMPILED_LOOPS)


def _atlas(mesh: Mesh) -> Atlas:
    """Return an atlas in which all faces lie on top of each other."""
    from trellis2_server.export.atlas import Atlas

    count = len(mesh.faces)
    return Atlas(
        np.tile(np.array([[2, 2], [30, 2], [2, 30]], np.float32), (count, 1)),
        np.ascontiguousarray(mesh.faces.reshape(-1)),
        np.arange(3 * count, dtype=np.int32).reshape(count, 3),
        np.arange(count, dtype=np.int32),
        32,
    )


def _bake_maps(mesh: Mesh) -> None:
    """Call the loops of occlusion, normals and levels, except those of `kernels.bake`."""
    from trellis2_server.export import levels, normals, occlusion

    atlas, along = _atlas(mesh), np.zeros_like(mesh.vertices)
    normals.smoothed_normals(mesh)
    normals.tangents(mesh, along, atlas)
    list(levels.create_levels(mesh, atlas, (4,)))
    occlusion.draw_occlusion(occlusion.measure_occlusion(mesh), atlas)


def _bake_normals(mesh: Mesh, atlas: Atlas, index: Index) -> None:
    """Call the loops of `kernels.bake` that bake normals."""
    from trellis2_server.export.kernels import bake as kernels
    from trellis2_server.export.parallel import parallel_for

    along = np.zeros((len(atlas.uv), 4), np.float32)
    owner, samples = np.full((1, 1), -1, np.int32), np.zeros((1, 1, 3), np.float32)
    drawn, covered = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
    layout = owner, atlas.chart, atlas.uv, atlas.faces, atlas.source
    parallel_for(
        kernels.sample_normals, 1, 1, *layout, mesh.vertices, mesh.vertices, *index.surface,
        mesh.faces, mesh.vertices, owner.copy(), samples,
    )  # fmt: skip
    parallel_for(
        kernels.turn_normals, 1, 1, *layout, mesh.vertices, along,
        owner.copy(), samples, drawn, covered,
    )  # fmt: skip


def _bake(mesh: Mesh, field: VoxelField) -> None:
    from trellis2_server.export import bake, deviation, encode
    from trellis2_server.export.geometry import geometry, pair_rows

    atlas = _atlas(mesh)
    deviation.deviation(mesh, mesh, field.resolution)
    deviation.normal_deviation(mesh, mesh)
    index = bake.build_index(field, mesh)
    maps = bake.bake(mesh, atlas, index)
    _bake_normals(mesh, atlas, index)
    encode.encode_maps(maps, "auto", "auto")
    geometry(mesh, atlas.uv, atlas.source, atlas.faces)
    pair_rows(mesh.faces, atlas.faces, len(mesh.vertices))


if __name__ == "__main__":
    lower_priority(int(sys.argv[2]))
    _forget_other_versions(sys.argv[1])
    _compile(sys.argv[1])
