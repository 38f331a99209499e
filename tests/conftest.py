from __future__ import annotations

import functools
import gc
import os
import signal
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings as hypothesis_settings

from tests.support.engines import GatedEngine
from tests.support.server import COMPILING_S, Server, serving, settings, until
from trellis2_server import export, pipeline
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.export import compilation

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.decoders import DecoderPool

pytest_plugins = ["tests.support.no_skips", "tests.support.distribution", "tests.support.costly"]

# The first example of a test may compile what it tests.
hypothesis_settings.register_profile("here", deadline=None, print_blob=True)
hypothesis_settings.load_profile("here")

# Every client of httpx reads all certificates of the machine, 20 ms each time. No test uses TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)

# A shell's background jobs ignore it, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """The first two processes of pytest-xdist compile half of the loops each; all wait for both."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    config: Any = session.config
    # A test may start another pytest, which inherits the variables.
    if not hasattr(config, "workerinput") or os.environ["PYTEST_XDIST_WORKER_COUNT"] == "1":
        return
    halves = {"gw0": _compile_the_exporter, "gw1": _compile_the_rest}
    folder = config._tmp_path_factory.getbasetemp().parent  # theirs in common
    if worker in halves:
        halves[worker]()
        (folder / f"compiled-{worker}").touch()
    until(
        lambda: all((folder / f"compiled-{each}").exists() for each in halves),
        "compiled",
        patience_s=COMPILING_S,
    )


@pytest.fixture(scope="module", autouse=True)
def _leave_out_of_collections() -> None:
    """Leave what is there before a file's first test out of the collections that tests ask for.

    That is what was imported, and the loops that were loaded: up to a million objects.
    """
    gc.collect()
    gc.freeze()


def _compile_the_exporter() -> None:
    export.warm_up()


def _say_nothing(stage: str, step: int, steps: int) -> None:
    del stage, step, steps


def _compile_the_rest() -> None:
    rest = [part for part in compilation.PARTS if part not in compilation.COMMON]
    with compilation.Compilation(rest) as others:
        PreviewEngine().load(_say_nothing)
        others.finish()


@pytest.fixture(scope="session")
def decoders() -> Generator[DecoderPool]:
    """Processes with the usual limits; they start when a test needs them."""
    pool = pipeline.make_decoders(settings())
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def preview() -> Generator[Server]:
    """A server with the preview engine; its jobs stay until the end of the session."""
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
