from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from tests.engines import GatedEngine
from tests.server import Server, serving, settings
from trellis2_server.engine_preview import PreviewEngine

if TYPE_CHECKING:
    from collections.abc import Generator

pytest_plugins = ["tests.no_skips"]

# The first example of a test may compile what it tests.
hypothesis_settings.register_profile("here", deadline=None, print_blob=True)
hypothesis_settings.load_profile("here")


@pytest.fixture(scope="session")
def preview() -> Generator[Server]:
    """A server with the embedded engine; its jobs stay until the end of the session."""
    configured = settings(server={"max_body_bytes": 1_000_000}, worker={"max_queue_length": 50})
    with serving(PreviewEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture
def server(engine: GatedEngine) -> Generator[Server]:
    """A server with the gated engine, loaded."""
    with serving(engine) as running:
        running.wait_until_loaded()
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged becomes text that can be sent to another process (pytest-xdist)."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
