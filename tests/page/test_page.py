"""The page in a real browser, against a real server."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import DESKTOP, PHONE, ROOT, Tab, chromium, toy
from tests.support.engines import GatedEngine
from tests.support.server import Server, serving, settings, until
from trellis2_server.api.routes import page
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from playwright.sync_api import Browser

    OpenTab = Callable[..., Tab]

SMALL = {"export": {"glb_texture_size": 256, "glb_decimation_target": 2000}}
TOY = ("toy.png", toy())


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    if not (ROOT / "node_modules/@google/model-viewer").is_dir():
        pytest.skip("model-viewer is not installed: run `npm install`")
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Generator[OpenTab]:
    """Opens tabs, each of a browser of its own; none may have complained at the end."""
    opened: list[Tab] = []

    def open_tab(url: str, **how: Any) -> Tab:
        beside: Tab | None = how.pop("beside", None)
        in_3d = how.pop("in_3d", False)
        how.setdefault("viewport", DESKTOP)
        context = beside.page.context if beside else browser.new_context(**how)
        opened.append(Tab(context, in_3d=in_3d))
        return opened[-1].open(url)

    yield open_tab
    complaints = [each for one in opened for each in one.complaints]
    for one in opened:
        one.page.context.close()
    assert complaints == []


@contextmanager
def gated(*closed: str, port: int = 0, **sections: Any) -> Generator[tuple[Server, GatedEngine]]:
    """A server whose stages the test lets pass."""
    engine = GatedEngine(*closed)
    with serving(engine, settings(**{**SMALL, **sections}), port=port) as server:
        if "load" not in closed:
            server.wait_until_loaded()
        yield server, engine


# ---- from a picture to a model -------------------------------------------------------------


def test_a_dropped_picture_becomes_a_textured_model(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        one = tab(server.url, in_3d=True)
        one.see("#banner", "The preview engine is serving")
        one.see("#banner", "What the server notes")
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#line", "Done")
        one.see("#caption", "What the model sees")
        pixels = np.asarray(one.looks("#viewer"), np.int16)
        reddish = (pixels[..., 0] - pixels[..., 2] > 70).mean()
        assert 0.05 < reddish < 0.8, "the ball is to be seen, and not only the ball"
        with one.page.expect_download() as saved:
            one.see("#files a", "GLB").click()
        uid = one.page.url.split("#")[1]
        model = server.client.get(f"/jobs/{uid}/textured.glb").content
        assert saved.value.suggested_filename == "toy.glb"
        assert saved.value.path().read_bytes() == model
        assert one.violations() == []


def test_the_shape_comes_first_and_the_texture_takes_its_place_in_the_same_view(
    tab: OpenTab,
) -> None:
    with gated("texture") as (server, engine):
        one = tab(server.url, in_3d=True)
        one.drop(TOY)
        one.wait_for_model("shape")
        one.see("#steps [aria-current=step]", "Texture")
        one.see("#said", "")
        before = one.camera()
        one.turn()
        one.page.wait_for_function(
            "([theta]) => Math.abs(document.querySelector('model-viewer')"
            ".getCameraOrbit().theta - theta) > 0.1",
            arg=before,
        )
        # Its camera glides, a step a frame, however long a frame takes.
        one.page.wait_for_function(
            """() => {
                const theta = document.querySelector("model-viewer").getCameraOrbit().theta;
                window.restful = window.lastTheta === theta ? window.restful + 1 : 0;
                window.lastTheta = theta;
                return window.restful > 10;
            }""",
            polling="raf",
        )
        turned = one.camera()
        engine.open_all()
        one.wait_for_model("textured")
        assert one.camera() == pytest.approx(turned, abs=1e-3)
        assert turned != pytest.approx(before, abs=0.1)
        one.see("#views button", "Clay").click()
        one.wait_for_model("shape")
        assert one.camera() == pytest.approx(turned, abs=1e-3)
        assert one.page.locator("#views [aria-pressed=true]").inner_text() == "Clay"


def test_progress_says_stage_place_in_the_queue_and_cut_out(tab: OpenTab) -> None:
    with gated("shape", worker={"limit_model_concurrency": 1}) as (server, engine):
        one = tab(server.url)
        one.drop(TOY, ("other.png", toy(200, (40, 90, 200))))
        one.see("#line", "Making the shape")
        one.see("#steps [aria-current=step]", "Shape")
        one.see("#job-title", "toy.png")
        one.see("#caption", "What the model sees")
        assert one.page.locator("#bar").get_attribute("value") is not None
        assert "%" in one.page.title()
        one.see("#history li:nth-child(2)")
        one.see("#history [data-state=waiting] button").click()
        one.see("#job-title", "other.png")
        one.see("#line", "queue")
        assert one.violations() == []
        engine.open_all()
        one.wait_for_model("textured")
        one.page.go_back()
        one.see("#job-title", "toy.png")
        one.wait_for_model("textured")


def test_pictures_are_pasted_and_picked_too_with_the_keyboard_alone(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.page.on("filechooser", lambda _: None)  # Playwright listens from now on
        one.page.keyboard.press("Tab")
        one.page.keyboard.press("Tab")
        with one.page.expect_file_chooser() as chooser:
            one.page.keyboard.press("Enter")
        assert chooser.value.is_multiple()
        chooser.value.set_files([{"name": "picked.png", "mimeType": "image/png", "buffer": TOY[1]}])
        one.see("#job-title", "picked.png")
        one.wait_for_model("textured")
        one.paste("pasted.png", toy(200))
        one.see("#job-title", "pasted.png")
        one.wait_for_model("textured")
        one.see("#history li:nth-child(2)")


def test_settings_come_from_the_server_and_go_into_the_job(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        seed = one.page.get_by_label("Seed", exact=True)
        assert (seed.get_attribute("min"), seed.get_attribute("max")) == ("-1", str(2**32 - 1))
        assert seed.get_attribute("placeholder") == "42"
        one.page.locator("#field-texture_size").select_option("512")
        one.page.get_by_text("Sampler: shape").click()
        one.page.locator("#field-shape_guidance_interval").fill("0.1, 0.8")
        one.page.locator("#field-shape_sampling_steps").fill("500")
        one.drop(TOY)  # out of bounds: said by the browser, not sent
        assert not one.page.evaluate("document.getElementById('settings').checkValidity()")
        assert server.client.get("/jobs").json()["jobs"] == []
        one.page.locator("#field-shape_sampling_steps").fill("20")
        seed.fill("7")
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#line", "seed 7")
        (job,) = server.client.get("/jobs").json()["jobs"]
        sent = job["parameters"]
        assert (sent["texture_size"], sent["shape_sampling_steps"]) == (512, 20)
        assert sent["shape_guidance_interval"] == [0.1, 0.8]


def test_the_command_that_it_shows_makes_the_same_model(tab: OpenTab, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    with gated() as (server, _):
        one = tab(server.url, permissions=["clipboard-read", "clipboard-write"])
        name = "it's a toy.png"
        one.page.locator("#field-texture_size").select_option("512")
        one.drop((name, TOY[1]))
        one.wait_for_model("textured")
        one.page.get_by_text("The same with curl").click()
        one.see("#copy").click()
        one.see("#copied", "Copied.")
        command = one.page.evaluate("navigator.clipboard.readText()")
        (tmp_path / name).write_bytes(TOY[1])
        subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, capture_output=True)
        uid = one.page.url.split("#")[1]
        model = server.client.get(f"/jobs/{uid}/textured.glb").content
        assert (tmp_path / "it's a toy.glb").read_bytes() == model
        assert len(server.client.get("/jobs").json()["jobs"]) == 1


# ---- cancelling, again, otherwise ----------------------------------------------------------


def test_a_job_is_cancelled_and_made_again_with_another_seed(tab: OpenTab) -> None:
    with gated("shape") as (server, engine):
        one = tab(server.url)
        one.drop(TOY)
        engine.wait_for("shape")
        one.see("#cancel").click()
        engine.open_all()
        one.see("#line", "Cancelled.")
        assert not one.page.locator("#job-error").is_visible()
        one.see("#again").click()
        one.wait_for_model("textured")
        seeds = {job["seed"] for job in server.client.get("/jobs").json()["jobs"]}
        assert len(seeds) == 2


def test_a_job_of_the_history_is_made_again_from_its_cut_out(tab: OpenTab) -> None:
    with gated() as (server, _):
        assert server.client.post("/generate", files={"image": TOY}).is_success
        one = tab(server.url)
        one.see("#history button").click()
        one.see("#again").click()  # with the same seed it would be found to be the same job
        until(lambda: len(server.client.get("/jobs").json()["jobs"]) == 2, "a second job")
        one.wait_for_model("textured")


def test_a_model_is_exported_again_at_another_size(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("textured")
        one.page.get_by_text("Export it again").click()
        one.page.locator("#export-decimation_target").fill("1000")
        one.page.locator("#export-type").select_option("stl")
        with one.page.expect_download() as saved:
            one.page.get_by_text("Export and download").click()
        assert saved.value.suggested_filename == "toy-export.stl"
        content = saved.value.path().read_bytes()
        assert 100 < int.from_bytes(content[80:84], "little") <= 1000  # faces of a binary STL
        one.see("#export-line", "toy-export.stl")


# ---- what comes between --------------------------------------------------------------------


def test_a_reload_in_the_middle_finds_the_job_where_it_is(tab: OpenTab) -> None:
    with gated("texture") as (server, engine):
        one = tab(server.url, in_3d=True)
        one.drop(TOY)
        one.wait_for_model("shape")
        one.page.reload()
        one.wait_for_model("shape")
        one.see("#steps [aria-current=step]", "Texture")
        engine.open_all()
        one.wait_for_model("textured")


def test_two_tabs_see_the_same_job(tab: OpenTab) -> None:
    with gated("texture") as (server, engine):
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("shape")
        other = tab(server.url, beside=one)
        other.see("#history img[src]")
        other.see("#history button").click()
        other.wait_for_model("shape")
        engine.open_all()
        for each in (one, other):
            each.wait_for_model("textured")
        assert len(server.client.get("/jobs").json()["jobs"]) == 1


def test_a_restart_in_the_middle_is_said_and_the_picture_sent_again(tab: OpenTab) -> None:
    with gated("texture") as (server, _):
        port = server.address[1]
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("shape")
        one.page.route("**/*", lambda route: route.abort())  # nothing gets through any more
    with gated(port=port) as (server, _):
        one.page.unroute_all()
        one.see("#alert", "no such job").get_by_role("button", name="Send it again").click()
        until(lambda: server.client.get("/jobs").json()["jobs"], "sent again")
        one.wait_for_model("textured")
        assert len(server.client.get("/jobs").json()["jobs"]) == 1
        one.forgive("ERR_|status of 404")


def test_a_lost_connection_is_said_and_found_again(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("textured")
        one.page.route("**/events/**", lambda route: route.abort())
        one.page.route("**/jobs/**", lambda route: route.abort())
        one.page.reload()
        one.see("#line", "The connection is lost. Trying again.")
        one.page.unroute_all()
        one.see("#line", "Done")
        one.wait_for_model("textured")
        one.forgive("ERR_FAILED")


def test_where_streams_do_not_come_through_the_job_is_asked_for(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.page.route("**/events/**", lambda route: route.fulfill(body=": nothing\n\n"))
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#line", "Done")


def test_while_the_model_loads_that_is_said_and_a_picture_waits(tab: OpenTab) -> None:
    with gated("load") as (server, engine):
        one = tab(server.url)
        one.see("#banner", "The model is loading")
        one.drop(TOY)
        one.see("#alert", "the model is loading")
        engine.open_all()
        one.see("#health[data-status=ok]")
        assert not one.page.locator("#banner").is_visible()
        one.see("#alert button", "Send it again").click()
        one.wait_for_model("textured")
        one.forgive("status of 503")


# ---- errors --------------------------------------------------------------------------------


def test_what_is_no_picture_is_refused_in_a_sentence(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.drop(("notes.txt", b"not a picture"))
        one.see("#alert", "notes.txt is not a picture.")
        one.drop(("broken.png", b"not a picture"))
        uid = one.page.url.partition("#")[2]
        said = server.client.get(f"/jobs/{uid}").json()["error"] if uid else ""
        one.see(".alert", said or "image")
        assert one.violations() == []
        one.forgive("status of 400")


def test_an_error_of_the_engine_is_said_in_its_words(tab: OpenTab) -> None:
    with gated() as (server, engine):
        engine.failures["texture"] = EngineError("the decoder gave no faces; try another seed")
        one = tab(server.url)
        one.drop(TOY)
        one.see("#job-error", "the decoder gave no faces; try another seed")
        one.see("#steps [data-state=failed]", "Texture")
        one.wait_for_model("shape")
        one.see("#files", "Untextured")
        assert one.violations() == []
        one.see("#again").click()
        one.wait_for_model("textured")
        assert not one.page.locator("#job-error").is_visible()


def test_a_key_is_asked_for_and_kept_for_the_session_alone(tab: OpenTab) -> None:
    with gated(server={"api_keys": ["schlüssel"]}) as (server, _):
        one = tab(server.url)
        one.see("#key[open]", "an API key is needed")
        assert one.violations() == []
        one.page.get_by_label("API key").fill("another one")
        one.page.keyboard.press("Enter")
        one.see("#key[open]", "not one of this server's")
        one.page.get_by_label("API key").fill("schlüssel")
        one.page.keyboard.press("Enter")
        one.see("#history-empty")
        one.drop(TOY)
        one.wait_for_model("textured")
        with one.page.expect_download() as saved:
            one.see("#files a", "GLB").click()
        assert saved.value.path().read_bytes()[:4] == b"glTF"
        one.page.get_by_text("The same with curl").click()
        assert "schlüssel" not in one.page.locator("#command").inner_text()
        one.page.reload()
        one.wait_for_model("textured")
        kept = one.page.evaluate(
            "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
        )
        assert kept == [["schlüssel"], [], ""]
        assert not one.page.locator("#key").is_visible()
        one.forgive("status of 401")


# ---- the viewer's ways ---------------------------------------------------------------------


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The viewer is not installed beside the server; the file is where it really is."""
    file = page.VIEWER_FILE
    monkeypatch.setattr(page, "VIEWER_FILE", tmp_path / "nowhere.js")
    return file


@pytest.mark.parametrize("added", [b"", b"\n// another file"])
def test_a_cdn_brings_the_viewer_and_nothing_else(
    browser: Browser, uninstalled: Path, added: bytes
) -> None:
    content = uninstalled.read_bytes() + added
    with gated() as (server, _):
        context = browser.new_context(viewport=DESKTOP)
        context.route(
            page.VIEWER_CDN,
            lambda route: route.fulfill(
                body=content,
                content_type="text/javascript",
                headers={"Access-Control-Allow-Origin": "*"},
            ),
        )
        one = Tab(context, in_3d=True).open(server.url)
        one.drop(TOY)
        if added:
            one.see("#viewer-trouble", "could not be loaded")
            assert any("integrity" in each for each in one.complaints)
        else:
            one.wait_for_model("textured")
            assert one.complaints == []
        context.close()


@pytest.mark.usefixtures("uninstalled")
def test_without_a_viewer_it_says_so_and_offers_the_downloads(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)  # where no CDN is reached
        one.drop(TOY)
        one.see("#viewer-trouble", "could not be loaded")
        with one.page.expect_download() as saved:
            one.see("#files a", "GLB").click()
        assert saved.value.path().read_bytes()[:4] == b"glTF"
        assert one.violations() == []


# ---- where it is looked at -----------------------------------------------------------------


def test_it_fits_a_narrow_screen_and_a_finger(tab: OpenTab) -> None:
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


def test_it_works_under_a_prefix(tab: OpenTab) -> None:
    with gated(server={"root_path": "/models"}) as (server, _):
        one = tab(f"{server.url}/models/")
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#history img[src]")


def test_an_empty_page_is_accessible_and_still(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.see("#history-empty", "Nothing yet")
        assert one.violations() == []
        moving = one.page.evaluate("document.getAnimations().length")
        assert moving == 0


def test_axe_finds_what_is_wrong(tab: OpenTab) -> None:
    """The other tests would pass with a checker that checks nothing."""
    with gated() as (server, _):
        one = tab(server.url)
        one.page.evaluate("document.getElementById('field-seed').previousSibling.remove()")
        one.page.evaluate("document.getElementById('field-seed').placeholder = ''")
        assert any("label" in each for each in one.violations())


def test_the_picture_of_the_readme_is_small() -> None:
    picture = ROOT / "docs" / "page.png"
    assert picture.stat().st_size < 300_000
    with Image.open(picture) as opened:
        assert opened.size == (1280, 800)
