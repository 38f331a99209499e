from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from trellis2_server.engines import portable

if TYPE_CHECKING:
    from pathlib import Path

RUN = [sys.executable, "-W", "error", "-c"]
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, trellis2_server.engines.portable; assert 'torch' not in sys.modules"
    subprocess.run([*RUN, code], check=True)


@needs_torch
def test_stand_ins_are_found_by_import_and_by_find_spec() -> None:
    code = """
import importlib.util
from trellis2_server.engines import portable
found = {e.name: e.kind for e in portable.install("cpu")}
assert found == {n: "standin" for n in portable.EXTENSIONS}, found
assert portable.install("cpu") == portable.inspect("cpu")
import flash_attn, flex_gemm, cumesh
from flex_gemm.ops.spconv import sparse_submanifold_conv3d
from flex_gemm.ops.grid_sample import grid_sample_3d
from o_voxel.convert import flexible_dual_grid_to_mesh
assert importlib.util.find_spec("flash_attn") is flash_attn.__spec__
assert flex_gemm.ops.spconv.sparse_submanifold_conv3d is sparse_submanifold_conv3d
assert portable.is_standin("cumesh")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_torch
def test_a_broken_extension_is_named_with_its_cause(tmp_path: Path) -> None:
    broken = tmp_path / "flash_attn"
    broken.mkdir()
    (broken / "__init__.py").write_text("from flash_attn import _C\n")
    (tmp_path / "cumesh.py").write_text("CuMesh = 1\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines import portable
found = {{e.name: e for e in portable.install("cuda")}}
assert found["flash_attn"].kind == "broken" and "_C" in found["flash_attn"].why, found
assert found["cumesh"].kind == "real"
import flash_attn, cumesh
assert portable.is_standin("flash_attn") and cumesh.CuMesh == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_torch
@pytest.mark.parametrize("name", portable.EXTENSIONS)
def test_an_installed_package_is_used_instead_of_a_stand_in(tmp_path: Path, name: str) -> None:
    for path in portable._SURFACES[name]:
        folder = tmp_path.joinpath(*path.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("MARK = 'real'\n")
    last = list(portable._SURFACES[name])[-1]
    code = f"""
import importlib, sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines import portable
found = {{e.name: e.kind for e in portable.install("cuda")}}
assert found.pop({name!r}) == "real"
assert set(found.values()) == {{"standin"}}, found
assert importlib.import_module({last!r}).MARK == "real"
assert not portable.is_standin({name!r})
"""
    subprocess.run([sys.executable, "-B", "-c", code], check=True)


@needs_torch
def test_an_alternative_counts_as_real_on_any_device() -> None:
    assert {e.kind for e in portable.inspect("cpu", {"flash_attn": "xformers"})} == {
        "real",
        "standin",
    }


@needs_torch
def test_meshes_are_voxelised_on_the_device_that_was_installed_last() -> None:
    code = """
from trellis2_server.engines import portable
from trellis2_server.engines.portable import voxelization
for device, expected in (("cuda:1", "cuda:1"), ("cuda", "cuda"), ("cpu", "None")):
    portable.install(device)
    assert str(voxelization._place.device) == expected
"""
    subprocess.run([sys.executable, "-c", code], check=True)
