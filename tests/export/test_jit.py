from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.interpreter import ROOT, run_python

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.costly
def test_the_package_works_without_a_cache_directory(tmp_path: Path) -> None:
    package = tmp_path / "trellis2_server"
    shutil.copytree(ROOT / "trellis2_server", package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from trellis2_server.export.adjacency import twins\n"
        "import numpy as np\n"
        "print(twins(np.array([[0, 1, 2], [2, 1, 3]], np.int32), 4).tolist())"
    )
    done = run_python(code, PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == "[-1, 3, -1, 1, -1, -1]", done.stderr
    assert done.stderr.count("Compiled code cannot be cached") == 1


@pytest.mark.costly
@pytest.mark.parametrize("method", ["save", "load"])
def test_a_disk_that_is_full_or_unreadable_fails_no_export(tmp_path: Path, method: str) -> None:
    code = (
        "import errno, logging, numba.core.caching as caching\n"
        "logging.basicConfig(format='%(message)s %(cause)s')\n"
        "def fail(*_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        f"caching.IndexDataCacheFile.{method} = fail\n"
        "from trellis2_server.export.adjacency import twins\n"
        "import numpy as np\n"
        "print(twins(np.array([[0, 1, 2], [2, 1, 3]], np.int32), 4).tolist())"
    )
    done = run_python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout.strip() == "[-1, 3, -1, 1, -1, -1]", done.stderr
    assert done.stderr.count("Compiled code cannot be cached") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.costly
def test_kernels_are_compiled_in_memory_if_no_directory_is_writable(tmp_path: Path) -> None:
    package, blocked = tmp_path / "trellis2_server", tmp_path / "file"
    shutil.copytree(ROOT / "trellis2_server", package, ignore=shutil.ignore_patterns("__pycache__"))
    blocked.write_text("no folder")
    # Not even root can create a folder below a file.
    (package / "export" / "kernels" / "__pycache__").write_text("no folder")
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(blocked / "under"))
    code = (
        "import os, sys; os.environ.pop('NUMBA_CACHE_DIR', None)\n"
        "sys.path[:] = [each for each in sys.path if each]\n"  # the copy, not the current folder
        "from trellis2_server.export.adjacency import twins\n"
        "import numpy as np\n"
        "print(twins(np.array([[0, 1, 2], [2, 1, 3]], np.int32), 4).tolist())"
    )
    done = run_python(code, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1", **folders)
    assert done.stdout.strip() == "[-1, 3, -1, 1, -1, -1]", done.stderr
    assert not list(tmp_path.rglob("*.nb?"))
    assert done.stderr.count("Compiled code cannot be cached") == 1


def test_loops_run_in_the_interpreter_if_numba_is_told_not_to_compile() -> None:
    code = (
        "from trellis2_server.export.adjacency import twins\n"
        "from trellis2_server.export.cancellation import CANCELLED, OBSERVED, new_flag\n"
        "from trellis2_server.export.jit import is_cancelled\n"
        "import numpy as np\n"
        "flag = new_flag()\n"
        "print(is_cancelled(flag), flag[1])\n"
        "flag[0] = OBSERVED\n"
        "print(is_cancelled(flag), is_cancelled(flag), flag[1])\n"
        "flag[0] = CANCELLED\n"
        "print(is_cancelled(flag), flag[1])\n"
        "print(twins(np.array([[0, 1, 2], [2, 1, 3]], np.int32), 4).tolist())"
    )
    done = run_python(code, NUMBA_DISABLE_JIT="1")
    assert done.stdout.splitlines() == [
        "False 0",
        "False False 2",
        "True 2",
        "[-1, 3, -1, 1, -1, -1]",
    ], done.stderr
