"""A real Chromium, driven by Playwright, that complains of whatever its console says.

Debian's `chromium` or Google's Chrome is looked for on the path, or where `CHROMIUM` says;
Playwright's own downloads are not used.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw

from tests.support.engines import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Generator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
#: A headless machine without a GPU renders in software.
_FLAGS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
_VIEWER = re.compile(r"/model-viewer[^/]*\.js$")
DESKTOP: ViewportSize = {"width": 1000, "height": 640}
PHONE: ViewportSize = {"width": 360, "height": 740}


def toy(size: int = 256, colour: tuple[int, int, int] = (214, 60, 40)) -> bytes:
    """A PNG of a ball with a stripe, cut out."""
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    draw.ellipse((size * 0.15, size * 0.1, size * 0.85, size * 0.9), fill=(*colour, 255))
    draw.rectangle((size * 0.2, size * 0.45, size * 0.8, size * 0.55), fill=(240, 236, 226, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser without windows; skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("Chromium is not installed: `apt-get install chromium`, or set CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One page in a browser, and what one does with it.

    Attributes:
        page: Playwright's.
        in_3d: whether the viewer may be loaded; software takes seconds to draw its first frame.
        complaints: errors of its console, in order.
    """

    def __init__(self, context: BrowserContext, *, in_3d: bool = False) -> None:
        self.in_3d = in_3d
        if not in_3d:
            context.route(_VIEWER, lambda route: route.abort())
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.complaints: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, said: ConsoleMessage) -> None:
        is_withheld = not self.in_3d and "model-viewer" in said.location["url"]
        if said.type == "error" and not is_withheld:
            self.complaints.append(said.text)

    def forgive(self, pattern: str) -> None:
        """Forget the complaints that a test provokes."""
        self.complaints = [each for each in self.complaints if not re.search(pattern, each)]

    def open(self, url: str) -> Tab:
        """Go there, and wait until the page has what it needs."""
        self.page.goto(url)
        self.see("#settings select")
        return self

    def see(self, selector: str, text: str | None = None) -> Any:
        """The element, once it is to be seen, with that text if one is given."""
        found = self.page.locator(selector)
        if text is not None:
            found = found.filter(has_text=text)
        found.first.wait_for(state="visible")
        return found.first

    def drop(self, *pictures: tuple[str, bytes]) -> None:
        """Let files fall onto the page."""
        self._bring("drop", *pictures)

    def paste(self, name: str, picture: bytes) -> None:
        """Paste a file."""
        self._bring("paste", (name, picture))

    def _bring(self, event: str, *pictures: tuple[str, bytes]) -> None:
        self.page.evaluate(
            """([event, files]) => {
                const data = new DataTransfer();
                for (const [name, text] of files) {
                    const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
                    const type = name.endsWith(".png") ? "image/png" : "text/plain";
                    data.items.add(new File([bytes], name, { type }));
                }
                const how = { bubbles: true, cancelable: true };
                const stage = document.getElementById("stage");
                stage.dispatchEvent(event === "drop"
                    ? new DragEvent("drop", { ...how, dataTransfer: data })
                    : new ClipboardEvent("paste", { ...how, clipboardData: data }));
            }""",
            [event, [(name, base64.b64encode(content).decode()) for name, content in pictures]],
        )

    def wait_for_model(self, model: str) -> None:
        """Until the `shape` or the `textured` model is offered and, in 3D, shown."""
        self.see(f'#files [data-model="{model}"]')
        if self.in_3d:
            self.see(f'#stage[data-shows="model"][data-model="{model}"] model-viewer')

    def turn(self) -> None:
        """Drag the model around."""
        box = self.page.locator("model-viewer").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + box["width"] / 6, y, steps=3)
        self.page.mouse.up()

    def camera(self) -> list[float]:
        """Angles and distance from which the model is looked at."""
        return self.page.evaluate(
            """() => {
                const { theta, phi, radius } =
                    document.querySelector("model-viewer").getCameraOrbit();
                return [theta, phi, radius];
            }"""
        )

    def looks(self, selector: str) -> Image.Image:
        """A picture of an element."""
        box = self.page.locator(selector).bounding_box()
        assert box is not None
        # Not of the element itself, which Playwright would wait for to be still.
        return Image.open(io.BytesIO(self.page.screenshot(clip=box))).convert("RGB")

    def violations(self) -> list[str]:
        """What axe-core finds wrong in the light and in the dark; skips without it."""
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: run `npm install`")
        found: list[str] = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            if not self.page.evaluate("() => 'axe' in window"):
                self.page.evaluate(AXE.read_text(encoding="utf-8"))
            report = self.page.evaluate(
                "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',"
                " 'wcag22aa', 'best-practice']})"
            )
            found += [
                f"{scheme}: {each['id']}: {node['html'][:160]} {node['failureSummary']}"
                for each in report["violations"]
                for node in each["nodes"]
            ]
        return found
