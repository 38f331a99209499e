"""From a picture to a model, in a browser."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.browser import toy
from tests.support.engines import GATE_S
from tests.support.page import SMALL, TOY, gated
from tests.support.server import serving, settings, until
from trellis2_server import pipeline
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.page import OpenTab


def test_a_dropped_picture_becomes_a_textured_model(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        one = tab(server.url, in_3d=True)
        one.see("#banner", "The preview engine is running")
        one.see("#banner", "Server notes")
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#job-status", "Done")
        one.see("#job-status", "back mirror")
        one.see("#caption", "Cut-out picture")
        pixels = np.asarray(one.screenshot("#viewer"), np.int16)
        reddish = (pixels[..., 0] - pixels[..., 2] > 70).mean()
        assert 0.05 < reddish < 0.8, "the ball and the background are visible"
        with one.page.expect_download(timeout=1000 * GATE_S) as saved:
            one.see("#files a", "GLB").click()
        uid = one.page.url.split("#")[1]
        model = server.client.get(f"/jobs/{uid}/textured.glb").content
        assert saved.value.suggested_filename == "toy.glb"
        assert saved.value.path().read_bytes() == model
        assert one.violations() == []


@pytest.mark.costly
def test_the_textured_model_replaces_the_shape_with_the_same_camera(
    tab: OpenTab,
) -> None:
    with gated("texture") as (server, engine):
        one = tab(server.url, in_3d=True)
        one.drop(TOY)
        one.wait_for_model("shape")
        one.see("#steps [aria-current=step]", "Texture")
        one.see("#announcement", "")
        before = one.camera()
        one.drag_model()
        one.page.wait_for_function(
            "([theta]) => Math.abs(document.querySelector('model-viewer')"
            ".getCameraOrbit().theta - theta) > 0.1",
            arg=before,
        )
        # The camera keeps moving for some frames.
        one.page.wait_for_function(
            """() => {
                const theta = document.querySelector("model-viewer").getCameraOrbit().theta;
                window.stillFrames = window.lastTheta === theta ? window.stillFrames + 1 : 0;
                window.lastTheta = theta;
                return window.stillFrames > 10;
            }""",
            polling="raf",
        )
        turned = one.camera()
        engine.open_all()
        one.wait_for_model("textured")
        assert one.camera() == pytest.approx(turned, abs=1e-3)
        assert turned != pytest.approx(before, abs=0.1)
        one.see("#views button", "Untextured").click()
        one.wait_for_model("shape")
        assert one.camera() == pytest.approx(turned, abs=1e-3)
        assert one.page.locator("#views [aria-pressed=true]").inner_text() == "Untextured"


@pytest.mark.costly
def test_a_model_without_its_untextured_file_is_shown_and_offered(
    tab: OpenTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("no space left")

    with gated() as (server, _):
        monkeypatch.setattr(pipeline, "export_shape", fail)
        one = tab(server.url, in_3d=True)
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#files a", "GLB")
        assert one.page.locator("#files li[data-model]").count() == 1
        one.see("#job-status", "Done")


def test_the_progress_shows_stage_queue_position_and_cut_out(tab: OpenTab) -> None:
    with gated("shape", worker={"limit_model_concurrency": 1}) as (server, engine):
        one = tab(server.url)
        one.drop(TOY, ("other.png", toy(200, (40, 90, 200))))
        one.see("#job-status", "Generating the shape")
        one.see("#steps [aria-current=step]", "Shape")
        one.see("#job-title", "toy.png")
        one.see("#caption", "Cut-out picture")
        assert one.page.locator("#bar").get_attribute("value") is not None
        assert "%" in one.page.title()
        one.see("#history li:nth-child(2)")
        one.see("#history [data-state=waiting] button").click()
        one.see("#job-title", "other.png")
        one.see("#job-status", "queue")
        assert one.violations() == []
        engine.open_all()
        one.wait_for_model("textured")
        one.page.go_back()
        one.see("#job-title", "toy.png")
        one.wait_for_model("textured")


def test_pictures_can_be_pasted_and_picked_with_the_keyboard_alone(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.page.on("filechooser", lambda _: None)  # makes Playwright intercept the dialog
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


def test_the_settings_come_from_the_server_and_are_sent_with_the_job(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        seed = one.page.get_by_label("Seed", exact=True)
        assert (seed.get_attribute("min"), seed.get_attribute("max")) == ("-1", str(2**32 - 1))
        assert seed.get_attribute("placeholder") == "42"
        one.page.locator("#field-texture_size").select_option("512")
        one.page.get_by_text("Sampler: shape").click()
        one.page.locator("#field-shape_guidance_interval").fill("0.1, 0.8")
        one.page.locator("#field-shape_sampling_steps").fill("500")
        one.drop(TOY)  # out of bounds: rejected by the browser, not sent
        assert not one.page.evaluate("document.getElementById('settings').checkValidity()")
        assert server.client.get("/jobs").json()["jobs"] == []
        one.page.locator("#field-shape_sampling_steps").fill("20")
        seed.fill("7")
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#job-status", "seed 7")
        (job,) = server.client.get("/jobs").json()["jobs"]
        sent = job["parameters"]
        assert (sent["texture_size"], sent["shape_sampling_steps"]) == (512, 20)
        assert sent["shape_guidance_interval"] == [0.1, 0.8]


def test_the_curl_command_generates_the_same_model(tab: OpenTab, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    with gated() as (server, _):
        one = tab(server.url, permissions=["clipboard-read", "clipboard-write"])
        name = "it's a toy.png"
        one.page.locator("#field-texture_size").select_option("512")
        one.drop((name, TOY[1]))
        one.wait_for_model("textured")
        one.page.get_by_text("Command for curl").click()
        one.see("#copy").click()
        one.see("#copy-result", "Copied.")
        command = one.page.evaluate("navigator.clipboard.readText()")
        (tmp_path / name).write_bytes(TOY[1])
        subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, capture_output=True)
        uid = one.page.url.split("#")[1]
        model = server.client.get(f"/jobs/{uid}/textured.glb").content
        assert (tmp_path / "it's a toy.glb").read_bytes() == model
        assert len(server.client.get("/jobs").json()["jobs"]) == 1


def test_a_job_can_be_cancelled_and_run_again_with_another_seed(tab: OpenTab) -> None:
    with gated("shape") as (server, engine):
        one = tab(server.url)
        one.drop(TOY)
        engine.wait_for("shape")
        one.see("#cancel").click()
        engine.open_all()
        one.see("#job-status", "Cancelled.")
        assert not one.page.locator("#job-error").is_visible()
        one.see("#new-seed").click()
        one.wait_for_model("textured")
        seeds = {job["seed"] for job in server.client.get("/jobs").json()["jobs"]}
        assert len(seeds) == 2


def test_a_job_of_the_history_can_be_run_again_from_its_cut_out(tab: OpenTab) -> None:
    with gated() as (server, _):
        assert server.client.post("/generate", files={"image": TOY}).is_success
        one = tab(server.url)
        one.see("#history button").click()
        one.see("#new-seed").click()  # with the same seed, it would match the existing job
        until(lambda: len(server.client.get("/jobs").json()["jobs"]) == 2, "a second job")
        one.wait_for_model("textured")


@pytest.mark.costly
def test_a_model_can_be_exported_again_with_fewer_faces(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("textured")
        one.page.get_by_text("Export again").click()
        one.page.locator("#export-decimation_target").fill("1000")
        one.page.locator("#export-type").select_option("stl")
        with one.page.expect_download(timeout=1000 * GATE_S) as saved:
            one.page.get_by_text("Export and download").click()
        assert saved.value.suggested_filename == "toy-export.stl"
        content = saved.value.path().read_bytes()
        assert 100 < int.from_bytes(content[80:84], "little") <= 1000  # faces of a binary STL
        one.see("#export-status", "toy-export.stl")
        one.page.locator("#export-solid").select_option("true")
        one.page.locator("#export-min_wall_mm").fill("1000")
        with one.page.expect_download(timeout=1000 * GATE_S):
            one.page.get_by_text("Export and download").click()
        one.see("#export-status", "min_wall_mm: walls are thinner")
