"""What a model is for, pictures of results and AR, in a browser."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.support.engines import GATE_S
from tests.support.page import SMALL, TOY, gated
from tests.support.server import serving, settings, until
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.purposes import PURPOSES

if TYPE_CHECKING:
    from tests.support.page import OpenTab

#: A browser that knows Quick Look, and notes the links that are followed.
QUICK_LOOK = """
    DOMTokenList.prototype.supports = (token) => token === "ar";
    window.followed = [];
    HTMLAnchorElement.prototype.click = function () {
        followed.push([this.rel, this.href, this.firstElementChild?.tagName, this.children.length]);
    };
"""


@pytest.mark.costly
def test_a_model_is_exported_for_what_it_is_for(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("textured")
        names = one.page.locator("#purposes button").all_inner_texts()
        assert names == [purpose.label for purpose in PURPOSES.values()]
        one.page.get_by_role("button", name="Game").click()
        one.page.get_by_role("button", name="Print").click()
        one.see("#purpose-fields", "Size in millimetres: 100")
        assert one.page.locator("#export-type").input_value() == "3mf"
        assert one.page.locator("#export-decimation_target").input_value() == "200000"
        assert one.page.locator("#purposes [aria-pressed=true]").all_inner_texts() == ["Print"]
        assert one.violations() == []
        with one.page.expect_download(timeout=1000 * GATE_S) as saved:  # compiles the remesher
            one.page.get_by_role("button", name="Export for Print").click()
        assert saved.value.suggested_filename == "toy-export.3mf"
        assert saved.value.path().read_bytes()[:2] == b"PK"
        one.see("#export-status", "toy-export.3mf")
        one.page.get_by_text("Export again").click()
        one.page.locator("#export-size_mm").fill("90")
        assert not one.page.locator("#purpose").is_visible()
        assert one.page.locator("#purposes [aria-pressed=true]").count() == 0


@pytest.mark.costly
def test_the_history_shows_results_and_a_phone_shows_them_in_ar(tab: OpenTab) -> None:
    with gated("texture") as (server, engine):
        one = tab(server.url)
        one.page.add_init_script(QUICK_LOOK)
        one.page.reload()
        one.drop(TOY)
        one.wait_for_model("shape")
        one.see("#history img[src]")
        assert one.page.locator("#history li").get_attribute("data-shown").endswith("input.png")
        engine.open_all()
        one.wait_for_model("textured")
        one.see("#history li[data-shown*=thumbnail]")
        uid = server.client.get("/jobs").json()["jobs"][0]["uid"]
        drawn = server.client.get(f"/jobs/{uid}/thumbnail.png?size=208").content
        shown = one.page.evaluate(
            """async () => {
                const blob = await (await fetch(document.querySelector("#history img").src)).blob();
                return [...new Uint8Array(await blob.arrayBuffer())];
            }"""
        )
        assert bytes(shown) == drawn
        with Image.open(io.BytesIO(drawn)) as opened:
            assert np.asarray(opened)[..., 3].max() == 255

        one.see("#ar button", "View in AR").click()
        until(lambda: bool(one.page.evaluate("followed")), "Quick Look is opened")
        ((rel, url, child, children),) = one.page.evaluate("followed")
        assert (rel, child, children) == ("ar", "IMG", 1)
        assert urlsplit(url).path == f"/jobs/{uid}/textured.usdz"
        assert parse_qs(urlsplit(url).query) == {"size_m": ["0.5"], "origin": ["floor"]}
        assert server.client.get(url).content[:2] == b"PK"
        intent = one.page.evaluate(
            """async () => (await import("/page/ar.js")).sceneViewerUrl(
                "https://host/jobs/a/textured.glb?size_m=0.5&origin=floor", "a & b",
                "https://host/#a",
            )"""
        )
        address, _, rest = intent.partition("#Intent;")
        assert address.startswith("intent://arvr.google.com/scene-viewer/1.0?")
        asked = parse_qs(urlsplit(address).query)
        assert asked["file"] == ["https://host/jobs/a/textured.glb?size_m=0.5&origin=floor"]
        assert asked["title"] == ["a & b"]
        assert rest.split(";")[0] == "scheme=https"
        assert "S.browser_fallback_url=https%3A%2F%2Fhost%2F%23a;end;" in rest
