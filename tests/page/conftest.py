from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import DESKTOP, ROOT, Tab, chromium

if TYPE_CHECKING:
    from collections.abc import Generator

    from playwright.sync_api import Browser

    from tests.support.page import OpenTab


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    if not (ROOT / "node_modules/@google/model-viewer").is_dir():
        pytest.skip("model-viewer is not installed: run `npm install`")
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Generator[OpenTab]:
    """Opens tabs, each in its own browser context; checks that their consoles have no errors."""
    opened: list[Tab] = []

    def open_tab(url: str, **options: Any) -> Tab:
        beside: Tab | None = options.pop("beside", None)
        in_3d = options.pop("in_3d", False)
        options.setdefault("viewport", DESKTOP)
        options.setdefault("reduced_motion", "reduce")  # an animation takes a processor
        context = beside.page.context if beside else browser.new_context(**options)
        opened.append(Tab(context, in_3d=in_3d))
        return opened[-1].open(url)

    yield open_tab
    console_errors = [each for one in opened for each in one.console_errors]
    for one in opened:
        one.page.context.close()
    assert console_errors == []
