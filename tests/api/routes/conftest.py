from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import Server, fields, serving, until
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="module")
def default_preview() -> Generator[Server]:
    """A server with the preview engine and the default settings."""
    with serving(PreviewEngine()) as server:
        server.wait_until_loaded()
        yield server


@pytest.fixture
def job(server: Server) -> dict[str, Any]:
    """A finished job: its JSON, and the content of its models."""
    textured = server.generate(fields(texture=True))
    uid = textured.headers["X-Job-Id"]
    until(lambda: server.is_idle, "everything is stored")
    details: dict[str, Any] = server.client.get(f"/jobs/{uid}").json()
    return details | {"shape.glb": server.generate().content, "textured.glb": textured.content}
