"""Accessibility and layout of the page, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.browser import PHONE, ROOT
from tests.support.page import TOY, gated

if TYPE_CHECKING:
    from tests.support.page import OpenTab


@pytest.mark.costly
def test_the_page_fits_a_narrow_touch_screen(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url, in_3d=True, viewport=PHONE, has_touch=True, is_mobile=True)
        one.drop(TOY)
        one.wait_for_model("textured")
        one.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = 1")
        width, over = one.page.evaluate(
            "[document.documentElement.clientWidth, document.documentElement.scrollWidth]"
        )
        assert over <= width == PHONE["width"]
        small = one.page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, select, summary")]
                .filter((each) => each.checkVisibility() && !each.closest(".skip"))
                .filter((each) => each.getBoundingClientRect().height < 24)
                .map((each) => each.outerHTML)"""
        )
        assert small == []
        assert one.violations() == []


@pytest.mark.costly
def test_the_page_works_under_a_prefix(tab: OpenTab) -> None:
    with gated(server={"root_path": "/models"}) as (server, _):
        one = tab(f"{server.url}/models/")
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#history img[src]")


def test_an_empty_page_is_accessible_and_has_no_animation(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.see("#history-empty", "No jobs yet")
        assert one.page.locator("#describe, #describe-hint").filter(visible=True).count() == 0
        assert one.violations() == []
        moving = one.page.evaluate("document.getAnimations().length")
        assert moving == 0


def test_axe_finds_violations(tab: OpenTab) -> None:
    """The other accessibility tests would pass if the checker found nothing at all."""
    with gated() as (server, _):
        one = tab(server.url)
        one.page.evaluate("document.getElementById('field-seed').previousSibling.remove()")
        one.page.evaluate("document.getElementById('field-seed').placeholder = ''")
        assert any("label" in each for each in one.violations())


def test_the_screenshot_in_the_documentation_is_small() -> None:
    picture = ROOT / "docs" / "page.png"
    assert picture.stat().st_size < 300_000
    with Image.open(picture) as opened:
        assert opened.size == (1280, 800)
