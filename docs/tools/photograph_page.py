"""Take a screenshot of the web page with a finished model, `docs/page.png`, in Chromium.

    PYTHONPATH=. python docs/tools/photograph_page.py

Needs the packages and programs that the tests of the page need, and `npm install`.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.support.browser import Tab, chromium
from tests.support.server import serving, settings
from trellis2_server.engines.preview import PreviewEngine

FOLDER = Path(__file__).resolve().parents[1]
#: Hue rotations of the pictures of earlier jobs, of 180.
HUES = (28, 62, 140)


def rocket(hue: int = 0) -> bytes:
    """Return the rocket as a PNG, its hue rotated by `hue` of 180."""
    rgba = np.asarray(Image.open(FOLDER / "rocket.png").convert("RGBA"))
    hsv = cv2.cvtColor(rgba[..., :3], cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + hue) % 180
    turned = np.dstack((cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), rgba[..., 3]))
    file = io.BytesIO()
    Image.fromarray(turned).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    """Make four models and take the screenshot."""
    configured = settings(export={"glb_texture_size": 1024, "glb_decimation_target": 50_000})
    file = FOLDER / "page.png"
    with serving(PreviewEngine(), configured) as server, chromium() as browser:
        server.wait_until_loaded()
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        tab = Tab(context, in_3d=True).open(server.url)
        tab.drop(*((f"rocket-{hue}.png", rocket(hue)) for hue in HUES))
        tab.wait_for_model("textured")
        tab.see("#history li:nth-child(3) img[src]")
        tab.drop(("rocket.png", rocket()))
        tab.see("#job-title", "rocket.png")
        tab.wait_for_model("textured")
        tab.see("#history li:nth-child(4)[data-shown*=thumbnail] img[src]")
        tab.page.screenshot(path=file)
    Image.open(file).convert("RGB").save(file, optimize=True)


if __name__ == "__main__":
    main()
