from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from tests.support.interpreter import run_python
from trellis2_server import export
from trellis2_server.errors import MissingPackageError
from trellis2_server.export import xatlas_unwrap

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.mesh import Mesh, VoxelField


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, trellis2_server.export\n"
        "heavy = {'numba', 'scipy', 'torch', 'PIL', 'fast_simplification', 'trimesh', 'xatlas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run_python(code).stdout.strip() == "[]"


def test_the_error_without_numba_names_the_install_line() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from trellis2_server import errors, export\n"
        "try: export.warm_up()\n"
        "except errors.MissingPackageError as error: print(error)"
    )
    assert "pip install numba" in run_python(code).stdout


def test_the_error_without_pillow_names_the_install_line() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from trellis2_server import errors, export\n"
        "try: export.warm_up()\n"
        "except errors.MissingPackageError as error: print(error)"
    )
    assert "pip install pillow" in run_python(code).stdout


@pytest.mark.costly
@pytest.mark.parametrize("compress", ["meshopt", "draco"])
def test_the_error_without_an_encoder_names_the_install_line(compress: str, tmp_path: Path) -> None:
    for package in ("meshopt", "DracoPy"):
        (tmp_path / f"{package}.py").write_text("raise ImportError")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from trellis2_server import errors, export\n"
        "from tests.support import shapes\n"
        f"try: export.untextured_glb(shapes.sphere(4), compress={compress!r})\n"
        "except errors.MissingPackageError as error: print(error)"
    )
    assert "pip install" in run_python(code).stdout


@pytest.mark.costly
def test_warming_up_compiles_all_loops_of_an_export() -> None:
    code = """
import sys
import numba
from tests.support import shapes
from trellis2_server import export
export.warm_up(everything=True)
modules = [m for n, m in sys.modules.items() if n.startswith('trellis2_server.export.kernels.')]
kernels = {k for m in modules for k in vars(m).values() if hasattr(k, 'signatures')}
def kinds(k): return {tuple(map(str, map(numba.types.unliteral, s))) for s in k.signatures}
before = {k: kinds(k) for k in kernels}
assert len(kernels) > 50
assert max(map(len, before.values())) == 1
large = shapes.torus(250, 200)
assert len(export.prepare(large, decimation_target=40_000).faces) < 0.5 * len(large.faces)
for shape in ('torus', 'soup', 'moebius', 'sheet'):
    original = shapes.ALL[shape]()
    mesh = export.prepare(original, decimation_target=900)
    export.prepare(original, decimation_target=900, remesh_resolution=32)
    export.untextured_glb(mesh)
    export.textured_glb(mesh, shapes.field(16), original=original, texture_size=128)
print({k.__name__: k.signatures for k in kernels if kinds(k) != before[k]})
"""
    done = run_python(code)
    assert done.stdout.strip() == "{}", done.stderr


def model(mesh: Mesh, field: VoxelField) -> bytes:
    small = export.prepare(mesh, decimation_target=1500)
    return export.textured_glb(small, field, original=mesh, texture_size=256)


@pytest.mark.costly
def test_concurrent_exports_give_the_same_bytes_as_successive_ones() -> None:
    field = shapes.field(32)
    meshes = [shapes.noisy_blob(), shapes.links(), shapes.sheet(), shapes.soup()]
    alone = [model(mesh, field) for mesh in meshes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model, meshes * 3, [field] * 12))
    assert together == alone * 3


def test_an_exception_of_the_report_ends_the_export() -> None:
    class StopError(Exception):
        pass

    stages: list[str] = []

    def report(stage: str, step: int, steps: int) -> None:
        assert 0 <= step <= steps
        stages.append(stage)
        if stage == "encode":
            raise StopError

    with pytest.raises(StopError):
        export.textured_glb(shapes.torus(), shapes.field(8), texture_size=64, report=report)
    assert list(dict.fromkeys(stages)) == ["unwrap", "bake", "encode"]


def test_other_threads_run_during_an_export() -> None:
    export.warm_up()
    mesh, field = shapes.torus(500, 300), shapes.field(64)
    end, gaps = threading.Event(), []

    def beat() -> None:
        from time import perf_counter

        last = perf_counter()
        while not end.wait(0.001):
            now = perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=beat)
    thread.start()
    small = export.prepare(mesh, decimation_target=100_000)
    export.textured_glb(small, field, original=mesh, texture_size=1024)
    end.set()
    thread.join()
    # The other thread would not run at all if the interpreter lock were held.
    assert len(gaps) > 50
    assert np.median(gaps) < 0.05


def test_the_charts_can_be_those_of_xatlas() -> None:
    try:
        content = export.textured_glb(
            shapes.torus(), shapes.field(16), texture_size=128, unwrap="xatlas"
        )
    except MissingPackageError as error:
        pytest.skip(str(error))
    assert content[:4] == b"glTF"
    assert xatlas_unwrap.XATLAS_DEADLINE_S > 0
