"""Where the 3D viewer is loaded from, in a browser."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Literal

import pytest
from PIL import Image

from tests.support.browser import DESKTOP, PHONE, Tab
from tests.support.engines import GATE_S
from tests.support.page import TOY, gated
from trellis2_server.api.routes import page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.support.page import OpenTab


@pytest.fixture
def hidden_viewer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hides the installed viewer from the server; returns the path of its file."""
    file = page.VIEWER.file
    monkeypatch.setattr(page, "VIEWER", dataclasses.replace(page.VIEWER, folder=tmp_path))
    return file


@pytest.mark.parametrize("added", [b"", b"\n// another file"])
def test_the_viewer_is_loaded_from_the_cdn_only_with_the_expected_hash(
    browser: Browser, hidden_viewer: Path, added: bytes
) -> None:
    content = hidden_viewer.read_bytes() + added
    with gated() as (server, _):
        context = browser.new_context(viewport=DESKTOP)
        context.route(
            page.VIEWER.cdn_url,
            lambda route: route.fulfill(
                body=content,
                content_type="text/javascript",
                headers={"Access-Control-Allow-Origin": "*"},
            ),
        )
        one = Tab(context, in_3d=True).open(server.url)
        one.drop(TOY)
        if added:
            one.see("#viewer-error", "could not be loaded")
            assert any("integrity" in each for each in one.console_errors)
        else:
            one.wait_for_model("textured")
            assert one.console_errors == []
        context.close()


@pytest.mark.costly
@pytest.mark.usefixtures("hidden_viewer")
def test_without_a_viewer_the_page_says_so_and_offers_the_downloads(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)  # no CDN can be reached
        one.drop(TOY)
        message = one.see("#viewer-error", "Run npm install --omit=dev in the repository's folder")
        assert message.locator("code").inner_text() == "npm install --omit=dev"
        with one.page.expect_download(timeout=1000 * GATE_S) as saved:
            one.see("#files a", "GLB").click()
        assert saved.value.path().read_bytes()[:4] == b"glTF"
        assert one.violations() == []


@pytest.mark.costly
@pytest.mark.usefixtures("hidden_viewer")
@pytest.mark.parametrize(
    ("motion", "form"), [("reduce", "PNG"), ("no-preference", "WEBP")], ids=["still", "turning"]
)
def test_without_a_viewer_the_page_shows_a_picture_of_the_model_below_the_message(
    browser: Browser, motion: Literal["reduce", "no-preference"], form: str
) -> None:
    with gated("texture") as (server, engine):
        context = browser.new_context(viewport=PHONE, reduced_motion=motion)
        context.route(page.VIEWER.cdn_url, lambda route: route.abort())
        one = Tab(context, in_3d=True).open(server.url)
        one.drop(TOY)
        for model, alt in (("shape", "The untextured model"), ("textured", "The textured model")):
            picture = one.see(f'#display[data-model="{model}"] #viewer img[alt^="{alt}"]')
            assert (
                picture.evaluate("async (each) => (await each.decode(), each.naturalWidth)") == 320
            )
            shown = one.page.evaluate(
                """async () => {
                    const url = document.querySelector("#viewer img").src;
                    return [...new Uint8Array(await (await fetch(url)).arrayBuffer())];
                }"""
            )
            with Image.open(io.BytesIO(bytes(shown))) as opened:
                assert (opened.format, opened.size) == (form, (320, 320))
            message = one.see("#viewer-error").bounding_box()
            below = picture.bounding_box()
            assert message["y"] + message["height"] <= below["y"]
            assert below["height"] > 100
            assert not one.page.locator("#views").is_visible()  # there is one picture
            engine.open_all()
        if form == "PNG":
            assert one.violations() == []
        one.ignore_errors("ERR_FAILED")
        assert one.console_errors == []
        context.close()
