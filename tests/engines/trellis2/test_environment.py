from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import HOME, ROOT, settings, silent
from trellis2_server.engines.trellis2 import Trellis2Engine, environment, reason_unavailable
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_reason_names_the_first_thing_that_is_missing(tmp_path: Path) -> None:
    def why(**changes: Any) -> str:
        return reason_unavailable(settings("x").model_copy(update=changes)) or ""

    assert 'is "cpu"' in why()
    assert "model.trellis2_path: no checkout" in why(device="cuda", trellis2_path=str(tmp_path))


def test_a_missing_device_is_named(torch: Any) -> None:
    if not torch.cuda.is_available():
        missing = settings("x").model_copy(update={"device": "cuda"})
        assert "finds no cuda device" in (reason_unavailable(missing) or "")
    with pytest.raises(EngineError, match=r"model\.device"):
        import_upstream(settings("x").model_copy(update={"device": "cuda:99"}))


@pytest.mark.usefixtures("packages")
def test_a_missing_gpu_is_found_without_importing_pytorch() -> None:
    code = f"""
import sys
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import environment, reason_unavailable
import importlib.util
why = reason_unavailable(ModelSettings(device="cuda:97", trellis2_path={str(HOME)!r}))
assert "cuda" in why, why
assert "torch" not in sys.modules
import torch
assert torch.cuda.is_available() or "finds no cuda device" in why, why
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\n", "built without CUDA"),
        (
            "__version__ = '2.9.0'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n",
            "driver",
        ),
        ("__version__ = '2.9.0'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", ""),
    ],
)
def test_the_build_of_pytorch_is_read_from_its_files(
    tmp_path: Path, version: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('too slow')")
    (tmp_path / "torch" / "version.py").write_text(version)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    counts = {"": 0} if says else {"": 2}
    monkeypatch.setattr(environment, "_count_cuda", lambda: counts[""])
    monkeypatch.setattr(environment, "_count_rocm", lambda: counts[""])
    why = environment.missing_build("cuda") or ""
    assert says in why
    assert bool(why) is bool(says)


def test_a_missing_checkout_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    made = Trellis2Engine(settings("x").model_copy(update={"trellis2_path": str(tmp_path)}))
    with pytest.raises(MissingPackageError, match="git clone"):
        made.load(silent)


def test_finding_the_reason_imports_nothing_heavy() -> None:
    code = """
import sys
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import Trellis2Engine, reason_unavailable
assert "git clone" in reason_unavailable(ModelSettings(device="cuda", trellis2_path="nowhere"))
assert reason_unavailable(ModelSettings(device="cpu"))
Trellis2Engine(ModelSettings())
heavy = {"torch", "transformers", "trellis2", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
