from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import (
    HOME,
    NEEDED,
    STANDIN,
    load,
    split_checkpoint,
    write_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trellis2_server.engines.trellis2 import Trellis2Engine

#: Warnings of the checkout's own code.
_OF_THE_CHECKOUT = ("ignore:invalid escape sequence", "ignore:::trellis2", "ignore:::torch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore the warnings of a real checkout."""
    if HOME == STANDIN:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in _OF_THE_CHECKOUT:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def packages() -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"needs torch and what goes with it: {package}")


@pytest.fixture(scope="session")
def torch(packages: None) -> Any:
    del packages
    module = importlib.import_module("torch")
    module.set_num_threads(1)  # spinning threads make small models slower
    return module


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, torch: Any) -> Path:
    """A tiny checkpoint; tests must not change it."""
    del torch
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint that a test may change."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> Iterator[Trellis2Engine]:
    """An engine with the tiny checkpoint; tests must leave it as it was."""
    engine = load(checkpoint)
    yield engine
    engine.unload()


@pytest.fixture
def hub(copy: Path) -> Iterator[Any]:
    """A Hub with the checkpoint as three repositories, see `split_checkpoint`."""
    module = importlib.import_module("tests.support.hub")
    with module.serve(split_checkpoint(copy)) as server:
        yield server
