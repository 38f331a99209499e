from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

from trellis2_server.inputs.background.deferred_import import deferred_import

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    (tmp_path / "slow_package" / "inner").mkdir(parents=True)
    (tmp_path / "slow_package" / "__init__.py").write_text("")
    (tmp_path / "slow_package" / "inner" / "__init__.py").write_text(
        "def twice(number, *, more=0):\n    return 2 * number + more\n"
    )
    (tmp_path / "importing.py").write_text("from slow_package.inner import twice\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("folder")
def test_a_deferred_package_is_imported_when_it_is_called() -> None:
    finders = list(sys.meta_path)
    with deferred_import("slow_package"):
        user = importlib.import_module("importing")
    assert sys.meta_path == finders
    assert not any(name.startswith("slow_package") for name in sys.modules)
    assert user.twice(3, more=1) == 7
    assert sys.modules["slow_package.inner"].__file__


@pytest.mark.usefixtures("folder")
def test_a_package_that_is_already_imported_is_used() -> None:
    inner = importlib.import_module("slow_package.inner")
    with deferred_import("slow_package"):
        user = importlib.import_module("importing")
    assert user.twice is inner.twice
    assert sys.modules["slow_package.inner"] is inner
