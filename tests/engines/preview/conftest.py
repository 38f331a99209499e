from __future__ import annotations

import pytest

from tests.support.preview import ignore
from trellis2_server.engines.preview import PreviewEngine


@pytest.fixture(scope="session")
def engine() -> PreviewEngine:
    made = PreviewEngine()
    made.load(ignore)
    return made
