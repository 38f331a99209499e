"""A text in place of a picture, on a server that has pictures made, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.browser import PHONE
from tests.support.page import gated
from tests.support.painter import Painter, error_reply
from tests.support.server import until

if TYPE_CHECKING:
    from tests.support.page import OpenTab

WORDS = "a red wooden chair, 50 cm high"


def test_a_text_becomes_a_picture_and_a_model_or_its_error_is_shown(tab: OpenTab) -> None:
    painter = Painter()
    service = {"url": painter.url, "send_seed": True, "prompt_suffix": ""}
    with gated(text_to_image=service) as (server, _):
        one = tab(server.url, viewport=PHONE)
        one.page.keyboard.press("Tab")
        one.see("#describe-hint button", "Describe the object").press("Enter")
        field = one.page.get_by_label("Text in place of a picture")
        assert field.evaluate("each => each === document.activeElement")
        assert field.get_attribute("maxlength") == "4000"
        one.page.keyboard.type("  ")
        one.page.keyboard.press("Control+Enter")
        assert not field.evaluate("each => each.checkValidity()")
        assert one.violations() == []
        painter.fails = lambda: error_reply(500, "out of paint")
        field.fill(" a red wooden chair,\n50 cm high ")
        one.page.get_by_role("button", name="Generate from this text").press("Enter")
        one.see("#job-error", "the text-to-image server failed (status 500): out of paint")
        one.see("#job-title", WORDS)
        painter.fails = None
        painter.gate.clear()
        one.see("#rerun").click()
        one.see("#job-status", "Making a picture of the text")
        one.see("#announcement", "The text was sent. Its picture is being made.")
        painter.gate.set()
        one.wait_for_model("textured")
        one.see("#caption", "Cut-out picture")
        first = one.page.url
        uid = server.client.get(f"/jobs/{first.split('#')[1]}").json()["uid"]
        assert server.client.get(f"/jobs/{uid}/input.png").is_success
        command = one.page.text_content("#command") or ""
        assert f"--form-string 'text={WORDS}'" in command
        assert "-o 'a red wooden chair 50 cm high.glb'" in command
        one.page.click("#new-seed")
        until(lambda: one.page.evaluate("location.href") != first, "another job opens")
        one.wait_for_model("textured")
        one.ignore_errors("status of 502")
    painter.close()
    assert {prompt["prompt"].split(" on ")[0][: len(WORDS)] for prompt in painter.prompts} == {
        WORDS
    }
    assert len({prompt["seed"] for prompt in painter.prompts}) == 2
