from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.server import Server, serving, settings
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="module")
def small() -> Generator[Server]:
    """A server with the preview engine and small models."""
    configured = settings(export={"glb_texture_size": 256, "glb_decimation_target": 2000})
    with serving(PreviewEngine(), configured) as server:
        server.wait_until_loaded()
        yield server
