from __future__ import annotations

import json
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


#: File → content, of packages that import but are not the extensions of their names.
IMPOSTORS = {
    "flash_attn/cute/__init__.py": "",
    "flex_gemm/__init__.py": "",
    "flex_gemm/ops/__init__.py": "",
    "flex_gemm/ops/spconv/__init__.py": "def sparse_submanifold_conv3d(): ...",
    "flex_gemm/ops/grid_sample.py": "def grid_sample_3d(): ...",
    "o_voxel.py": "",
    "cumesh/__init__.py": "class CuMesh:\n    def init(self): ...\n    def read(self): ...\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def write_extension(folder: Path, name: str) -> None:
    """Write a package with all modules of an extension and the names that TRELLIS.2 uses."""
    for path in portable._SURFACES[name]:
        names = portable._USED[name].get(path, ())
        classes = {n.partition(".")[0] for n in names if "." in n}
        lines = [f"{n} = 'real'" for n in names if "." not in n]
        lines += [f"class {c}: ..." for c in sorted(classes)]
        lines += [f"{n} = 'real'" for n in names if "." in n]
        write(folder, {f"{path.replace('.', '/')}/__init__.py": "\n".join([*lines, ""])})


def test_a_package_that_cannot_be_used_is_named_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        {
            "usable_pkg/__init__.py": "class Mesh: area = 1",
            "usable_pkg/more.py": "",
            "failing_pkg/__init__.py": "from failing_pkg import part, absent",
            "failing_pkg/part.py": "",
            "parts_pkg/more.py": "",
        },
    )
    monkeypatch.syspath_prepend(tmp_path)
    why = portable.why_unusable
    assert why("absent_pkg", {"absent_pkg": ["a"]}) == portable.NOT_INSTALLED
    assert why("usable_pkg", {"usable_pkg": ["Mesh.area"], "usable_pkg.more": []}) == ""
    assert why("usable_pkg", {"usable_pkg": ["Mesh.area", "Mesh.a", "b"]}) == (
        "installed, but without usable_pkg.Mesh.a, usable_pkg.b: another version, or another "
        "package of this name"
    )
    assert why("parts_pkg", {"parts_pkg": []}).startswith("installed in parts")
    reason = why("failing_pkg", {"failing_pkg": []})
    assert reason.startswith("installed, but its import fails: ImportError: cannot import name")
    assert not [name for name in sys.modules if name.startswith("failing_pkg")]


@needs_torch
def test_a_broken_extension_is_named_with_its_cause(tmp_path: Path) -> None:
    write(tmp_path, {"flash_attn/__init__.py": "from flash_attn import _C\n"})
    write_extension(tmp_path, "cumesh")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines import portable
found = {{e.name: e for e in portable.install("cuda")}}
assert found["flash_attn"].kind == "broken" and "_C" in found["flash_attn"].why, found
assert found["cumesh"].kind == "real"
import flash_attn, cumesh
assert portable.is_standin("flash_attn") and cumesh.CuMesh.init == "real"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_torch
def test_a_package_without_the_names_that_trellis2_uses_is_broken(tmp_path: Path) -> None:
    write(tmp_path, IMPOSTORS)
    code = f"""
import json, sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines import portable
found = portable.install("cuda")
assert all(portable.is_standin(e.name) for e in found), found
from flash_attn import flash_attn_varlen_func
from cumesh import CuMesh
print(json.dumps({{e.name: [e.kind, e.why] for e in found}}))
"""
    run = subprocess.run([sys.executable, "-B", "-c", code], check=True, capture_output=True)
    found = json.loads(run.stdout)
    assert {kind for kind, _ in found.values()} == {"broken"}
    assert "without the package itself" in found["flash_attn"][1]
    assert (
        "flex_gemm.ops.spconv.set_algorithm, flex_gemm.ops.spconv.set_hashmap_ratio"
        in (found["flex_gemm"][1])
    )
    assert "No module named 'o_voxel.convert'" in found["o_voxel"][1]
    assert "cumesh.CuMesh.get_edges" in found["cumesh"][1]
    assert "and 10 more" in found["cumesh"][1]


@needs_torch
@pytest.mark.parametrize("name", portable.EXTENSIONS)
def test_an_installed_package_is_used_instead_of_a_stand_in(tmp_path: Path, name: str) -> None:
    write_extension(tmp_path, name)
    code = f"""
import importlib, sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines import portable
found = {{e.name: e.kind for e in portable.install("cuda")}}
assert found.pop({name!r}) == "real"
assert set(found.values()) == {{"standin"}}, found
assert importlib.import_module({name!r}).__file__.startswith({str(tmp_path)!r})
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
