from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import HOME, ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("packages")

VARIABLES = ("ATTN_BACKEND", "SPARSE_ATTN_BACKEND", "SPARSE_CONV_BACKEND")
XFORMERS = {
    "xformers/__init__.py": "",
    "xformers/ops.py": (
        "def memory_efficient_attention(): ...\n"
        "class fmha:\n    class BlockDiagonalMask:\n        def from_seqlens(): ...\n"
    ),
}
FLASH_ATTN_3 = {
    "flash_attn_interface.py": "flash_attn_func = flash_attn_qkvpacked_func = 1\n",
}
SPCONV = {"spconv/__init__.py": "", "spconv/pytorch.py": "SubMConv3d = SparseConvTensor = 1\n"}

CODE = """
import json, sys
sys.path[:0] = [{packages!r}]
from trellis2_server.engines.trellis2 import backends, inspection, upstream
from trellis2_server.errors import EngineError
from trellis2_server.settings import ModelSettings
settings = ModelSettings(device="cpu", trellis2_path={home!r}, model_path="x", offline=True)
answer = {{"problems": backends.problems({device!r}), "replaced": backends.replaced_extensions()}}
if {imports!r}:
    found = inspection.inspect_trellis2(settings)
    answer["inspection"] = [f.text for f in found if (f.what, f.level) == ("extensions", "error")]
    try:
        upstream.import_upstream(settings)
        answer["error"] = ""
    except EngineError as error:
        answer["error"] = str(error)
print(json.dumps(answer))
"""


def run(
    folder: Path,
    files: dict[str, str],
    device: str = "cuda",
    *,
    imports: bool = False,
    **variables: str,
) -> Any:
    """What a process with these packages and variables finds."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    environ = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    code = CODE.format(packages=str(folder), home=str(HOME), device=device, imports=imports)
    found = subprocess.run(
        [sys.executable, "-B", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environ, **variables},
    )
    return json.loads(found.stdout.splitlines()[-1])


def test_without_a_choice_there_is_no_problem(tmp_path: Path) -> None:
    found = run(tmp_path, {}, ATTN_BACKEND="", SPARSE_CONV_BACKEND="")
    assert found == {"problems": [], "replaced": {}}
    assert run(tmp_path, {}, ATTN_BACKEND="sdpa")["problems"] == []


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ATTN_BACKEND", "xformers", "xformers is not installed: pip install xformers"),
        ("ATTN_BACKEND", "flash_attn", "flash_attn is not installed"),
        ("ATTN_BACKEND", "flash_attn_3", "flash_attn_interface is not installed: compile it"),
        ("SPARSE_ATTN_BACKEND", "xformers", "xformers is not installed"),
        ("SPARSE_ATTN_BACKEND", "flash_attn", "flash_attn is not installed"),
        ("SPARSE_CONV_BACKEND", "spconv", "spconv is not installed"),
        ("SPARSE_CONV_BACKEND", "torchsparse", "torchsparse is not installed"),
        ("SPARSE_CONV_BACKEND", "flex_gemm", "flex_gemm is not installed"),
        ("SPARSE_CONV_BACKEND", "none", "no such backend; use flex_gemm, spconv, torchsparse"),
        ("ATTN_BACKEND", "flash-attn", "no such backend; use xformers, flash_attn"),
    ],
)
def test_a_chosen_backend_that_is_absent_or_unknown_is_named(
    tmp_path: Path, variable: str, value: str, says: str
) -> None:
    problems = run(tmp_path, {}, **{variable: value})["problems"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{variable}={value}: ")
    assert says in problems[0]
    assert problems[0].endswith(f"or unset {variable}")


def test_a_chosen_backend_that_lacks_a_function_is_named(tmp_path: Path) -> None:
    found = run(tmp_path, FLASH_ATTN_3, ATTN_BACKEND="flash_attn_3")
    assert len(found["problems"]) == 1
    assert "flash_attn_interface.flash_attn_varlen_func" in found["problems"][0]
    cute = {"flash_attn/cute/__init__.py": ""}
    found = run(tmp_path, cute, SPARSE_ATTN_BACKEND="flash_attn")
    assert "without the package itself" in found["problems"][0]


def test_a_chosen_backend_that_is_complete_is_no_problem(tmp_path: Path) -> None:
    found = run(tmp_path, XFORMERS | SPCONV, ATTN_BACKEND="xformers", SPARSE_CONV_BACKEND="spconv")
    assert found == {"problems": [], "replaced": {"flash_attn": "xformers"}}
    found = run(tmp_path, FLASH_ATTN_3, ATTN_BACKEND="xformers", SPARSE_ATTN_BACKEND="flash_attn")
    assert found["replaced"] == {}
    assert [p.split(":")[0] for p in found["problems"]] == ["SPARSE_ATTN_BACKEND=flash_attn"]


def test_a_backend_of_cuda_is_named_on_another_device(tmp_path: Path) -> None:
    found = run(tmp_path, FLASH_ATTN_3, "mps", ATTN_BACKEND="flash_attn_3")
    assert len(found["problems"]) == 1
    assert (
        "flash_attn_interface runs on CUDA only, and model.device is mps" in (found["problems"][0])
    )


def test_an_unusable_choice_is_an_error_of_the_load_and_of_the_check(tmp_path: Path) -> None:
    found = run(tmp_path, {}, imports=True, SPARSE_CONV_BACKEND="spconv")
    assert found["inspection"] == found["problems"]
    assert found["error"].startswith("SPARSE_CONV_BACKEND=spconv: spconv is not installed")
