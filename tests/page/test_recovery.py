"""Reloads, restarts, lost connections and errors, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GATE_S
from tests.support.page import TOY, gated
from tests.support.server import until
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from tests.support.page import OpenTab


@pytest.mark.costly
def test_a_reload_during_a_job_shows_its_current_state(tab: OpenTab) -> None:
    with gated("texture") as (server, engine):
        one = tab(server.url, in_3d=True)
        one.drop(TOY)
        one.wait_for_model("shape")
        one.page.reload()
        one.wait_for_model("shape")
        one.see("#steps [aria-current=step]", "Texture")
        engine.open_all()
        one.wait_for_model("textured")


@pytest.mark.costly
def test_two_tabs_show_the_same_job(tab: OpenTab) -> None:
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


def test_after_a_restart_during_a_job_the_picture_can_be_sent_again(tab: OpenTab) -> None:
    with gated("texture") as (server, _):
        port = server.address[1]
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("shape")
        one.page.route("**/*", lambda route: route.abort())  # blocks all requests
    with gated(port=port) as (server, _):
        one.page.unroute_all()
        one.see("#alert", "no such job").get_by_role("button", name="Send it again").click()
        until(lambda: server.client.get("/jobs").json()["jobs"], "sent again")
        one.wait_for_model("textured")
        assert len(server.client.get("/jobs").json()["jobs"]) == 1
        one.ignore_errors("ERR_|status of 404")


def test_a_lost_connection_is_reported_and_restored(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.drop(TOY)
        one.wait_for_model("textured")
        one.page.route("**/events/**", lambda route: route.abort())
        one.page.route("**/jobs/**", lambda route: route.abort())
        one.page.reload()
        one.see("#job-status", "The connection is lost. Trying again.")
        one.page.unroute_all()
        one.see("#job-status", "Done")
        one.wait_for_model("textured")
        one.ignore_errors("ERR_FAILED")


def test_if_event_streams_do_not_work_the_job_is_polled(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.page.route("**/events/**", lambda route: route.fulfill(body=": nothing\n\n"))
        one.drop(TOY)
        one.wait_for_model("textured")
        one.see("#job-status", "Done")


def test_while_the_model_loads_the_page_says_so_and_the_picture_can_be_sent_later(
    tab: OpenTab,
) -> None:
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
        one.ignore_errors("status of 503")


def test_a_file_that_is_not_a_picture_is_rejected_with_a_message(tab: OpenTab) -> None:
    with gated() as (server, _):
        one = tab(server.url)
        one.drop(("notes.txt", b"not a picture"))
        one.see("#alert", "notes.txt is not a picture.")
        one.drop(("broken.png", b"not a picture"))
        uid = one.page.url.partition("#")[2]
        error = server.client.get(f"/jobs/{uid}").json()["error"] if uid else ""
        one.see(".alert", error or "image")
        assert one.violations() == []
        one.ignore_errors("status of 400")


def test_an_error_of_the_engine_is_shown(tab: OpenTab) -> None:
    with gated() as (server, engine):
        engine.failures["texture"] = EngineError("the decoder gave no faces; try another seed")
        one = tab(server.url)
        one.drop(TOY)
        one.see("#job-error", "the decoder gave no faces; try another seed")
        one.see("#steps [data-state=failed]", "Texture")
        one.wait_for_model("shape")
        one.see("#files", "Untextured")
        assert one.violations() == []
        one.see("#new-seed").click()
        one.wait_for_model("textured")
        assert not one.page.locator("#job-error").is_visible()


def test_the_api_key_is_prompted_for_and_stored_only_in_the_session(tab: OpenTab) -> None:
    with gated(server={"api_keys": ["schlüssel"]}) as (server, _):
        one = tab(server.url)
        one.see("#key[open]", "an API key is needed")
        assert one.violations() == []
        one.page.get_by_label("API key").fill("another one")
        one.page.keyboard.press("Enter")
        one.see("#key[open]", "This key is not valid")
        one.page.get_by_label("API key").fill("schlüssel")
        one.page.keyboard.press("Enter")
        one.see("#history-empty")
        one.drop(TOY)
        one.wait_for_model("textured")
        with one.page.expect_download(timeout=1000 * GATE_S) as saved:
            one.see("#files a", "GLB").click()
        assert saved.value.path().read_bytes()[:4] == b"glTF"
        one.page.get_by_text("Command for curl").click()
        assert "schlüssel" not in one.page.locator("#command").inner_text()
        one.page.reload()
        one.wait_for_model("textured")
        stored = one.page.evaluate(
            "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
        )
        assert stored == [["schlüssel"], [], ""]
        assert not one.page.locator("#key").is_visible()
        one.ignore_errors("status of 401")
