from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.kernels.compiled import kernel
from trellis2_server.export.cancellation import call


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_importing_the_engine_imports_nothing_heavy() -> None:
    heavy = "{'numba', 'scipy', 'torch', 'cv2', 'onnxruntime'}"
    code = f"import sys, trellis2_server.engines.preview; print({heavy} & set(sys.modules))"
    assert run(code) == "set()"


def test_without_numba_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from trellis2_server.engines.preview import PreviewEngine\n"
        "from trellis2_server.errors import MissingPackageError\n"
        "try: PreviewEngine().load(lambda *step: None)\n"
        "except MissingPackageError as error: print(error)"
    )
    assert "pip install" in run(code)


def test_a_kernel_compiles_without_a_folder_for_a_cache() -> None:
    namespace = {}
    exec("def double(x): return 2 * x", namespace)  # noqa: S102 (a function without a file)
    assert kernel("i8(i8)")(namespace["double"])(21) == 42


def test_every_module_of_loops_is_loaded_with_the_engine() -> None:
    folder = Path(kernels.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "compiled"}
    assert modules == set(kernels.MODULES)


def test_loops_are_cached_on_disk() -> None:
    for name in kernels.MODULES:
        functions = [f for f in vars(kernels.load(name)).values() if hasattr(f, "signatures")]
        # Those with a signature of their own; the others are compiled into them.
        loops = [f for f in functions if not f._can_compile]
        assert loops
        assert all(f.stats.cache_path for f in loops)


def test_chamfer_distances_are_at_most_9_percent_too_large() -> None:
    distance = np.full((64, 64), 1e6, np.float32)
    distance[20, 30] = 0
    call(kernels.load("distance").chamfer, distance)
    y, x = np.mgrid[:64, :64]
    exact = np.hypot(y - 20, x - 30)
    away = exact > 0
    assert (distance[away] >= exact[away] * (1 - 1e-6)).all()
    assert (distance[away] / exact[away]).max() < 1.09
    assert distance[20, 30] == 0
