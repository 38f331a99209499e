"""Several pictures of one object, each in the slot of its side, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import toy
from tests.support.page import SMALL
from tests.support.server import serving, settings, until
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from tests.support.page import OpenTab
    from tests.support.server import Server


def picked(name: str, colour: tuple[int, int, int]) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": toy(128, colour)}


def check_files(server: Server, uid: str) -> None:
    """Wait until a job has its models, and check that it has two pictures."""

    def files() -> list[str]:
        return list(server.client.get(f"/jobs/{uid}").json()["files"])

    until(lambda: "textured.glb" in files(), "the job ends")
    assert [name for name in files() if name.startswith("input-")] == ["input-1.png", "input-2.png"]


@pytest.mark.costly
def test_pictures_in_slots_become_one_job_which_can_be_sent_again(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        one = tab(server.url)
        page = one.page
        page.click("#sides summary")
        front, left, back, _ = page.query_selector_all("#sides input")
        send = page.locator("#sides [data-send]")
        back.set_input_files(picked("b.png", (30, 60, 200)))
        assert send.is_disabled()
        left.set_input_files(picked("l.png", (30, 200, 60)))
        front.set_input_files(picked("f.png", (214, 60, 40)))
        one.see("#sides .slot", "Back: b.png")
        one.see("#sides [data-send]", "Generate from 3 pictures")
        assert one.violations() == []
        page.get_by_label("Remove the picture of the left").click()
        one.see("#sides [data-send]", "Generate from 2 pictures").click()
        one.see("#job-status", "Done")
        assert page.query_selector("#warnings li") is None
        command = page.text_content("#command") or ""
        assert "-F image_front=@f.png" in command
        assert "-F image_back=@b.png" in command
        first = page.url.split("#")[1]
        files = server.client.get(f"/jobs/{first}").json()["files"]
        assert {"input.png", "input-1.png", "input-2.png"} < set(files)
        page.click("#new-seed")
        until(lambda: page.evaluate("location.hash") not in {"", f"#{first}"}, "another job opens")
        check_files(server, page.url.split("#")[1])


@pytest.mark.costly
def test_another_tab_sends_the_stored_pictures_of_a_job_again(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        files = [("image", (name, toy(128), "image/png")) for name in ("a.png", "b.png")]
        data = {"texture_size": "256", "decimation_target": "2000"}
        reply = server.client.post("/generate", files=files, data=data)
        uid = reply.headers["X-Job-Id"]
        until(lambda: server.is_idle, "the job ends")
        one = tab(f"{server.url}/#{uid}")
        one.see("#new-seed")
        assert "-F images=@input-1.png" in (one.page.text_content("#command") or "")
        one.page.click("#new-seed")
        until(lambda: one.page.evaluate("location.hash") != f"#{uid}", "another job opens")
        check_files(server, one.page.url.split("#")[1])
