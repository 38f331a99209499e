"""A server for tests of the web page, whose stages a test steers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.browser import Tab, toy
from tests.support.engines import GatedEngine
from tests.support.server import Server, serving, settings

if TYPE_CHECKING:
    from collections.abc import Generator

OpenTab = Callable[..., Tab]

SMALL = {"export": {"glb_texture_size": 256, "glb_decimation_target": 2000}}
TOY = ("toy.png", toy())


@contextmanager
def gated(*closed: str, port: int = 0, **sections: Any) -> Generator[tuple[Server, GatedEngine]]:
    """Run a server whose stages the test holds and releases."""
    engine = GatedEngine(*closed)
    with serving(engine, settings(**{**SMALL, **sections}), port=port) as server:
        if "load" not in closed:
            server.wait_until_loaded()
        yield server, engine
