"""How rembg is imported; what is done with its models: `test_images.py`."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

from trellis2_server.inputs.background_model import _put_off

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    (tmp_path / "slow_one" / "inner").mkdir(parents=True)
    (tmp_path / "slow_one" / "__init__.py").write_text("")
    (tmp_path / "slow_one" / "inner" / "__init__.py").write_text(
        "def twice(number, *, more=0):\n    return 2 * number + more\n"
    )
    (tmp_path / "user_of_it.py").write_text("from slow_one.inner import twice\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("folder")
def test_a_package_that_is_put_off_is_imported_when_it_is_called() -> None:
    finders = list(sys.meta_path)
    with _put_off("slow_one"):
        user = importlib.import_module("user_of_it")
    assert sys.meta_path == finders
    assert not any(name.startswith("slow_one") for name in sys.modules)
    assert user.twice(3, more=1) == 7
    assert sys.modules["slow_one.inner"].__file__


@pytest.mark.usefixtures("folder")
def test_a_package_that_is_imported_already_stays() -> None:
    inner = importlib.import_module("slow_one.inner")
    with _put_off("slow_one"):
        user = importlib.import_module("user_of_it")
    assert user.twice is inner.twice
    assert sys.modules["slow_one.inner"] is inner
