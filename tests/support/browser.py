"""A headless Chromium, driven by Playwright, that records the errors of its console.

Uses the executable in the environment variable `CHROMIUM`, or the `chromium` or Google Chrome of
the system. Playwright's own downloads are not used.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw

from tests.support.engines import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Generator

    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Page,
        Route,
        ViewportSize,
    )

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
#: Rendering in software, for machines without a GPU.
_FLAGS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
_VIEWER = re.compile(r"/model-viewer[^/]*\.js$")
#: Pictures that the page shows without the viewer, which the server would have to draw.
_FALLBACK = re.compile(r"/(turntable\.webp|thumbnail\.png)\?size=320$")
DESKTOP: ViewportSize = {"width": 1000, "height": 640}
PHONE: ViewportSize = {"width": 360, "height": 740}


def toy(size: int = 256, colour: tuple[int, int, int] = (214, 60, 40)) -> bytes:
    """Return a PNG of a ball with a stripe, on a transparent background."""
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    draw.ellipse((size * 0.15, size * 0.1, size * 0.85, size * 0.9), fill=(*colour, 255))
    draw.rectangle((size * 0.2, size * 0.45, size * 0.8, size * 0.55), fill=(240, 236, 226, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@contextmanager
def chromium() -> Generator[Browser]:
    """Run a headless browser; skip the test if none is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not executable:
        pytest.skip("Chromium is not installed: `apt-get install chromium`, or set CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def _refuse(route: Route) -> None:
    from playwright.sync_api import Error

    with suppress(Error):  # answered already: the page is left, or its other routes were taken away
        route.abort()


class Tab:
    """A browser tab with the web page, and the actions of its user.

    Attributes:
        page: Playwright's page.
        in_3d: whether to load the 3D viewer, which takes seconds to render in software. Without it,
            the page does not get the pictures that replace it either.
        console_errors: error messages of the console, in order.
    """

    def __init__(self, context: BrowserContext, *, in_3d: bool = False) -> None:
        self.in_3d = in_3d
        if not in_3d:
            for blocked in (_VIEWER, _FALLBACK):
                context.route(blocked, _refuse)
        self.page: Page = context.new_page()
        # A frame of the viewer takes seconds beside other tests.
        self.page.set_default_timeout(PATIENCE_S * 1000 * (4 if in_3d else 1))
        self.console_errors: list[str] = []
        self.page.on("console", self._record)
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))

    def _record(self, message: ConsoleMessage) -> None:
        url = message.location["url"]
        is_blocked = not self.in_3d and ("model-viewer" in url or _FALLBACK.search(url))
        if message.type == "error" and not is_blocked:
            self.console_errors.append(message.text)

    def ignore_errors(self, pattern: str) -> None:
        """Remove the expected errors, which match the pattern."""
        self.console_errors = [each for each in self.console_errors if not re.search(pattern, each)]

    def open(self, url: str) -> Tab:
        """Open a URL, and wait until the page is loaded."""
        self.page.goto(url)
        self.see("#settings select")
        return self

    def see(self, selector: str, text: str | None = None) -> Any:
        """Wait until an element is visible, with this text if given; return it."""
        located = self.page.locator(selector)
        if text is not None:
            located = located.filter(has_text=text)
        located.first.wait_for(state="visible")
        return located.first

    def drop(self, *pictures: tuple[str, bytes]) -> None:
        """Drop files on the page."""
        self._dispatch("drop", *pictures)

    def paste(self, name: str, picture: bytes) -> None:
        """Paste a file."""
        self._dispatch("paste", (name, picture))

    def _dispatch(self, event: str, *pictures: tuple[str, bytes]) -> None:
        self.page.evaluate(
            """([event, files]) => {
                const data = new DataTransfer();
                for (const [name, text] of files) {
                    const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
                    const type = name.endsWith(".png") ? "image/png" : "text/plain";
                    data.items.add(new File([bytes], name, { type }));
                }
                const options = { bubbles: true, cancelable: true };
                const display = document.getElementById("display");
                display.dispatchEvent(event === "drop"
                    ? new DragEvent("drop", { ...options, dataTransfer: data })
                    : new ClipboardEvent("paste", { ...options, clipboardData: data }));
            }""",
            [event, [(name, base64.b64encode(content).decode()) for name, content in pictures]],
        )

    def wait_for_model(self, model: str) -> None:
        """Wait until the `shape` or `textured` model can be downloaded and, in 3D, is visible."""
        self.see(f'#files [data-model="{model}"]')
        if self.in_3d:
            self.see(f'#display[data-shows="model"][data-model="{model}"] model-viewer')

    def drag_model(self) -> None:
        """Rotate the model with the mouse."""
        box = self.page.locator("model-viewer").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + box["width"] / 6, y, steps=3)
        self.page.mouse.up()

    def camera(self) -> list[float]:
        """Return the angles and the distance of the camera."""
        return self.page.evaluate(
            """() => {
                const { theta, phi, radius } =
                    document.querySelector("model-viewer").getCameraOrbit();
                return [theta, phi, radius];
            }"""
        )

    def screenshot(self, selector: str) -> Image.Image:
        """Return a screenshot of an element."""
        box = self.page.locator(selector).bounding_box()
        assert box is not None
        # Not the element's own screenshot, for which Playwright waits until it stops moving.
        return Image.open(io.BytesIO(self.page.screenshot(clip=box))).convert("RGB")

    def violations(self) -> list[str]:
        """Return axe-core's findings in light and dark mode; skip the test without axe-core."""
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: run `npm install`")
        findings: list[str] = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            if not self.page.evaluate("() => 'axe' in window"):
                self.page.evaluate(AXE.read_text(encoding="utf-8"))
            report = self.page.evaluate(
                "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',"
                " 'wcag22aa', 'best-practice']})"
            )
            findings += [
                f"{scheme}: {each['id']}: {node['html'][:160]} {node['failureSummary']}"
                for each in report["violations"]
                for node in each["nodes"]
            ]
        return findings
