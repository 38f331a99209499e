from __future__ import annotations

from typing import Any

import pytest

from tests.support.preview import ignore
from tests.support.recorded import Recorded
from trellis2_server.engines.preview import PreviewEngine


@pytest.fixture(scope="session")
def engine() -> PreviewEngine:
    made = PreviewEngine()
    made.load(ignore)
    return made


@pytest.fixture
def recorded(ndarrays_regression: Any) -> Recorded:
    return Recorded(ndarrays_regression, atol=1e-5)
