from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.exports import gate_exports

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine


@pytest.fixture
def gated(engine: GatedEngine, monkeypatch: pytest.MonkeyPatch) -> GatedEngine:
    """The engine with gates for exports, too; see `gate_exports`."""
    gate_exports(engine, monkeypatch)
    return engine
