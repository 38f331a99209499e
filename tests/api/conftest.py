from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GatedEngine
from tests.support.hostile import MAX_BODY_BYTES
from tests.support.server import Server, serving, settings

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="module")
def limited() -> Generator[Server]:
    """A server with low limits."""
    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_image_pixels": 1_000_000}
    with serving(GatedEngine(), settings(server=limits)) as server:
        server.wait_until_loaded()
        yield server
