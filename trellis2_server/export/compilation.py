"""Every loop of the exporter compiled before the first export, its parts side by side.

numba compiles on one core and holds the interpreter's lock meanwhile: only other processes can
take a share. `python -m trellis2_server.export.compilation PART` compiles one part into numba's
cache on disk. Where nothing can be kept there, nobody else is asked.

What this module does not know: engines, whose loading it may go along with.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server import export
from trellis2_server.export import subprocess_call
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from typing_extensions import Self

#: What can be compiled by itself, the longest first, and whose loops each part has.
PARTS: Final = {
    "remesh": ("remesh",),
    "prepare": ("adjacency", "clean", "decimate"),
    "unwrap": ("unwrap",),
    "paint": ("bake", "encode", "glb"),
}
#: Only who judges a model reads a field at points.
_SPARE: Final = {"bake.read"}


class Compilation:
    """Other processes compile, as many as there are cores to spare, until it is left.

        with Compilation() as compilation:
            ...  # something else that takes long
            compilation.finish()

    Args:
        remesh: also what only a `remesh_resolution` needs, nearly as much again.

    Raises:
        MissingPackageError: numba is not installed.
    """

    def __init__(self, *, remesh: bool = False) -> None:
        self._remesh = remesh
        self._parts: deque[str] = deque()
        self._lock = threading.Lock()
        self._is_over = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._helpers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._parts += [
            part for part in PARTS if (self._remesh or part != "remesh") and not is_compiled(part)
        ]
        for _ in range(min(len(self._parts), (os.cpu_count() or 1) - 1)):
            helper = threading.Thread(target=self._help, name="compilation", daemon=True)
            helper.start()
            self._helpers.append(helper)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_over = True
            self._parts.clear()
            for process in self._running:
                process.kill()
        for helper in self._helpers:
            helper.join()

    def finish(self) -> None:
        """Compile what nobody has begun, wait for the others, and load what they made.

        Raises:
            MissingPackageError: Pillow is not installed.
        """
        while (part := self._take()) is not None:
            _compile(part)
        for helper in self._helpers:
            helper.join()
        # What a process failed at is compiled here.
        _export(remesh=self._remesh)

    def _take(self) -> str | None:
        with self._lock:
            return self._parts.popleft() if self._parts else None

    def _help(self) -> None:
        while (part := self._take()) is not None:
            process = _begin(part)
            if process is None:
                return
            with self._lock:
                self._running.add(process)
                if self._is_over:
                    process.kill()
            process.wait()
            with self._lock:
                self._running.remove(process)


def is_compiled(part: str) -> bool:
    """Whether numba's cache has every loop of the part, or there is no cache to help with."""
    for name in PARTS[part]:
        module = importlib.import_module(f"trellis2_server.export.kernels.{name}")
        loops: dict[str, Any] = {
            f"{name}.{key}": value
            for key, value in vars(module).items()
            if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__
        }
        folder = next(iter(loops.values())).stats.cache_path
        if folder is None:
            continue
        changed = Path(str(module.__file__)).stat().st_mtime
        kept = {
            index.name.split("-")[0]
            for index in Path(folder).glob(f"{name}.*.nbi")
            if index.stat().st_mtime >= changed
        }
        if not kept >= loops.keys() - _SPARE:
            return False
    return True


def _begin(part: str) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "trellis2_server.export.compilation", part],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=subprocess_call.environment(),
        )
    except OSError:
        return None


# ---- a small shape that needs everything ---------------------------------------------


def _mesh() -> Mesh:
    """An octahedron with a hole to close, a face to turn, and a speck to drop: a Moebius band."""
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
    band = [[6 + i % 5, 6 + (i + 1) % 5, 6 + (i + 2) % 5] for i in range(5)]
    both = np.concatenate([corners * 0.004, corners[:5] * 1e-6 + 0.004]).astype(np.float32)
    return Mesh(both, np.array(faces[:-1] + band, np.int32))


def _field() -> VoxelField:
    return VoxelField(
        np.array([[i, j, k] for i in (1, 2) for j in (1, 2) for k in (1, 2)], np.int32),
        np.linspace(0, 1, 48, dtype=np.float32).reshape(8, 6),
        4,
    )


def _export(*, remesh: bool) -> None:
    mesh = _mesh()
    small = _prepare(mesh)
    if remesh:
        export.prepare(mesh, decimation_target=6, remesh_resolution=512)
    export.untextured_glb(small)
    export.textured_glb(small, _field(), original=mesh, texture_size=32)


def _compile(part: str) -> None:
    """What `_export` does in that part, without the others' loops."""
    mesh = _mesh()
    if part == "remesh":
        from trellis2_server.export.remesh import remesh

        remesh(mesh, 512)
    elif part == "prepare":
        _prepare(mesh)
    elif part == "unwrap":
        from trellis2_server.export.unwrap import unwrap

        unwrap(mesh, 32)
    else:
        _paint(mesh, _field())


def _prepare(mesh: Mesh) -> Mesh:
    from trellis2_server.export.clean import clean
    from trellis2_server.export.decimate import decimate

    return decimate(clean(mesh), 6, cut_from=0)


def _paint(mesh: Mesh, field: VoxelField) -> None:
    from trellis2_server.export import bake, deviation, encode, glb
    from trellis2_server.export.unwrap import Atlas

    count = len(mesh.faces)
    uv = np.tile(np.array([[2, 2], [30, 2], [2, 30]], np.float32), (count, 1))
    atlas = Atlas(
        uv,
        np.ascontiguousarray(mesh.faces.reshape(-1)),
        np.arange(3 * count, dtype=np.int32).reshape(count, 3),
        np.arange(count, dtype=np.int32),
        32,
    )
    deviation.deviation(mesh, mesh, field.resolution)
    maps = bake.bake(mesh, atlas, bake.index(field, mesh))
    encode.encode_maps(maps, "auto", "auto")
    glb.geometry(mesh, uv, atlas.source, atlas.faces)


if __name__ == "__main__":
    _compile(sys.argv[1])
