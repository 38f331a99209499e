from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export import subprocess_call, unwrap

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh, VoxelField

ROOT = Path(export.__file__).resolve().parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, trellis2_server.export\n"
        "heavy = {'numba', 'scipy', 'torch', 'PIL', 'fast_simplification', 'trimesh', 'xatlas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(code).stdout.strip() == "[]"


def test_without_numba_the_sentence_names_the_install_line() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from trellis2_server import errors, export\n"
        "try: export.warm_up()\n"
        "except errors.MissingPackageError as error: print(error)"
    )
    assert "pip install numba" in python(code).stdout


def test_without_pillow_the_sentence_names_the_install_line() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from trellis2_server import errors, export\n"
        "try: export.warm_up()\n"
        "except errors.MissingPackageError as error: print(error)"
    )
    assert "pip install pillow" in python(code).stdout


@pytest.mark.parametrize("compress", ["meshopt", "draco"])
def test_without_the_encoder_the_sentence_names_the_install_line(
    compress: str, tmp_path: Path
) -> None:
    for package in ("meshopt", "DracoPy"):
        (tmp_path / f"{package}.py").write_text("raise ImportError")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from trellis2_server import errors, export\n"
        "from tests.export import shapes\n"
        f"try: export.untextured_glb(shapes.sphere(4), compress={compress!r})\n"
        "except errors.MissingPackageError as error: print(error)"
    )
    assert "pip install" in python(code).stdout


def test_warming_up_compiles_everything_that_an_export_needs() -> None:
    code = """
import sys
import numba
from tests.support import shapes
from trellis2_server import export
export.warm_up(remesh=True)
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
    done = python(code)
    assert done.stdout.strip() == "{}", done.stderr


def test_a_package_without_a_writable_cache_directory_still_works(tmp_path: Path) -> None:
    package = tmp_path / "trellis2_server"
    shutil.copytree(ROOT / "trellis2_server", package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from trellis2_server.export.adjacency import twins\n"
        "import numpy as np\n"
        "print(twins(np.array([[0, 1, 2], [2, 1, 3]], np.int32), 4).tolist())"
    )
    done = python(code, PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == "[-1, 3, -1, 1, -1, -1]", done.stderr


def test_where_nothing_can_be_written_kernels_are_compiled_in_memory(tmp_path: Path) -> None:
    package, blocked = tmp_path / "trellis2_server", tmp_path / "file"
    shutil.copytree(ROOT / "trellis2_server", package, ignore=shutil.ignore_patterns("__pycache__"))
    blocked.write_text("no folder")
    # Not even root writes into a folder under a file.
    (package / "export" / "kernels" / "__pycache__").write_text("no folder")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(blocked / "under"))
    code = (
        "import os; os.environ.pop('NUMBA_CACHE_DIR', None)\n"
        "from trellis2_server.export.adjacency import twins\n"
        "import numpy as np\n"
        "print(twins(np.array([[0, 1, 2], [2, 1, 3]], np.int32), 4).tolist())"
    )
    done = python(code, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1", **places)
    assert done.stdout.strip() == "[-1, 3, -1, 1, -1, -1]", done.stderr
    assert not list(tmp_path.rglob("*.nb?"))


def model(mesh: Mesh, field: VoxelField) -> bytes:
    small = export.prepare(mesh, decimation_target=1500)
    return export.textured_glb(small, field, original=mesh, texture_size=256)


def test_exports_at_the_same_time_give_the_same_bytes_as_one_after_the_other() -> None:
    field = shapes.field(32)
    meshes = [shapes.noisy_blob(), shapes.links(), shapes.sheet(), shapes.soup()]
    alone = [model(mesh, field) for mesh in meshes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model, meshes * 3, [field] * 12))
    assert together == alone * 3


def test_how_a_range_is_cut_among_threads_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from trellis2_server.export import kernel

    field, mesh = shapes.field(32), shapes.noisy_blob()
    results = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(kernel, "_THREADS", threads)
        results.append(model(mesh, field))
    assert results[0] == results[1] == results[2]


def test_what_report_raises_ends_the_export() -> None:
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


def test_a_library_in_another_process_is_stopped_at_its_deadline() -> None:
    mesh = shapes.noisy_blob()
    arrays = {
        "vertices": mesh.vertices, "faces": mesh.faces,
        "size_px": np.array(64), "gap_px": np.array(1),
    }  # fmt: skip
    with pytest.raises((ExportError, MissingPackageError)):
        subprocess_call.call("xatlas", arrays, 0.01)
    with pytest.raises((ExportError, MissingPackageError)):
        subprocess_call.call("xatlas", {"nothing": np.zeros(1)}, 60)


def test_other_threads_run_while_an_export_works() -> None:
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
    # A lock held throughout would give the other thread no turn at all.
    assert len(gaps) > 50
    assert np.median(gaps) < 0.05


def test_xatlas_charts_can_be_asked_for() -> None:
    try:
        content = export.textured_glb(
            shapes.torus(), shapes.field(16), texture_size=128, unwrap="xatlas"
        )
    except MissingPackageError as error:
        pytest.skip(str(error))
    assert content[:4] == b"glTF"
    assert unwrap.XATLAS_DEADLINE_S > 0
