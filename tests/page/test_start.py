"""What the page shows while the server starts, and of failed jobs, in a browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.page import TOY, gated
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.support.page import OpenTab


@pytest.mark.costly
def test_the_page_names_the_stage_of_a_start_and_what_the_preview_engine_ignores(
    tab: OpenTab,
) -> None:
    health: dict[str, object] = {"status": "loading", "engine": "preview"}

    def reply(route: Route) -> None:
        status = 200 if health["status"] == "ok" else 503
        route.fulfill(status=status, content_type="application/json", body=json.dumps(health))

    with gated() as (server, _):
        one = tab(server.url)
        one.page.route("**/healthcheck", reply)
        health |= {"stage": "compile", "progress": 0.0}
        one.open(server.url)
        text = "The model is loading: compiling the engine. The first start compiles, which takes a"
        one.see("#banner:not(.is-error)", text)
        health |= {"stage": "exporter", "progress": 0.34}
        one.see("#banner:not(.is-error)", "compiling the exporter, 34 %. The first start compiles")
        health |= {"stage": "weights"}
        banner = one.see("#banner:not(.is-error)", "The model is loading: weights, 34 %.")
        assert "compiles" not in banner.inner_text()
        health |= {"status": "error", "error": "no weights"}
        one.see("#banner.is-error", "no weights")
        health |= {"status": "ok"}
        one.see("#banner:not(.is-error)", "The preview engine is running")
        unused = "Not used by the preview engine."
        for name in ("seed", "pipeline_type"):
            one.see(f"#field-{name}-hint", unused)
            assert one.page.locator(f"#field-{name}").is_enabled()
        assert unused not in one.see("#field-texture_size-hint").inner_text()
        assert one.page.locator("summary", has_text="Sampler").filter(has_text=unused).count() == 3
        one.ignore_errors("status of 503")


@pytest.mark.costly
def test_only_failed_jobs_with_a_cut_out_are_listed_with_their_reason(tab: OpenTab) -> None:
    with gated() as (server, engine):
        engine.failures["shape"] = EngineError("the decoder gave no faces")
        for content in (TOY[1], b"%PDF-1.7"):
            server.client.post("/generate", files={"image": ("toy.png", content)})
        assert len(server.client.get("/jobs").json()["jobs"]) == 2
        one = tab(server.url)
        one.see("#history img[src]")
        assert one.page.locator("#history li").count() == 1
        one.see("#history .what", "failed: the decoder gave no faces")
        card = one.see("#history button")
        assert card.get_attribute("title") == "the decoder gave no faces"
        card.click()
        one.see("#new-seed")
        one.drop(("broken.png", b"%PDF-1.7"))
        one.see("#rerun")
        one.see("#steps [data-state=failed]", "Cut-out")
        assert not one.page.locator("#new-seed").is_visible()
        assert one.page.locator("#history li").count() == 1
