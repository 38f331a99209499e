"""Draw the README's example picture, `docs/rocket.png`, and its models, `docs/overview.png`.

    python docs/tools/draw_picture.py

The picture shows a toy rocket from slightly above, on transparency. It is ray-marched from
signed distances, after J. C. Hart, "Sphere tracing" (1996). Its licence is this project's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SIZE_PX: Final = 1536
LIGHT: Final = np.array([-0.45, 0.75, 0.6]) / np.linalg.norm([-0.45, 0.75, 0.6])
WHITE, RED, BLUE, DARK, ORANGE = (
    np.array(colour) / 255
    for colour in ([236, 232, 222], [206, 52, 44], [66, 140, 190], [58, 62, 74], [240, 150, 40])
)


def _profile(height: Floats) -> Floats:
    """Return the hull's radius at heights from -1 to 1.15."""
    t = np.clip((height + 1.0) / 2.15, 0, 1)
    return 0.46 * np.sqrt(np.clip(1 - t, 0, 1)) * (0.62 + 1.2 * t * (1.25 - t))


def _distances(p: Floats) -> Floats:
    """Return distances to the parts at points [N, 3], as [6, N].

    Parts: hull, fins, window, frame, nozzle, flame.
    """
    x, y, z = p.T
    radius = np.hypot(x, z)
    hull = np.maximum((radius - _profile(y)) * 0.7, np.maximum(-1.0 - y, y - 1.15))
    fins = np.full(len(p), 9.0)
    for angle in (
        np.pi / 2 + 0.25,
        np.pi / 2 + 0.25 + 2 * np.pi / 3,
        np.pi / 2 + 0.25 - 2 * np.pi / 3,
    ):
        out = x * np.cos(angle) + z * np.sin(angle)
        side = -x * np.sin(angle) + z * np.cos(angle)
        outline = np.maximum(
            out - 0.82 + 0.55 * (y + 0.75) ** 2, np.abs(y + 0.85 + 0.35 * out) - 0.34
        )
        fin = np.maximum(np.maximum(outline, 0.18 - out), np.abs(side) - 0.055) * 0.75
        fins = np.minimum(fins, fin)
    to_window = p - np.array([0.0, 0.34, 0.5])
    window = np.linalg.norm(to_window * [1, 1, 1.6], axis=1) - 0.17
    ring = np.hypot(to_window[:, 0], to_window[:, 1]) - 0.2
    frame = np.hypot(ring, to_window[:, 2] + 0.02) - 0.05
    nozzle = np.maximum((radius - 0.27 - 0.25 * (-1.0 - y)) * 0.8, np.abs(y + 1.08) - 0.11)
    flame = (np.linalg.norm((p - [0, -1.32, 0]) * [1, 0.55, 1], axis=1) - 0.2) * 0.8
    return np.stack([hull, fins, window, frame, nozzle, flame])


def _albedo(p: Floats, part: NDArray[np.intp]) -> Floats:
    """Return base colours [N, 3], 0 … 1, of points [N, 3] on parts [N]."""
    colours = np.array([WHITE, RED, BLUE, RED, DARK, ORANGE])[part]
    y = p[:, 1]
    is_hull = part == 0
    colours[is_hull & (y > 0.66)] = RED
    colours[is_hull & (np.abs(y + 0.42) < 0.07)] = BLUE
    colours[is_hull & (np.abs(y - 0.62) < 0.02)] = DARK
    column = np.floor(np.arctan2(p[:, 0], p[:, 2]) * 5)
    colours[is_hull & (np.abs(y + 0.68) < 0.05) & (column % 2 == 0)] = DARK
    return colours


def draw() -> Image.Image:
    """Return the rocket on transparency, RGBA, at half of `SIZE_PX`."""
    v, u = np.mgrid[:SIZE_PX, :SIZE_PX]
    u = ((u + 0.5) / SIZE_PX - 0.5) * 3.1
    v = (0.5 - (v + 0.5) / SIZE_PX) * 3.1
    tilt, lean = 0.28, 0.12
    right = np.array([np.cos(lean), np.sin(lean), 0])
    up = np.array([-np.sin(lean) * np.cos(tilt), np.cos(lean) * np.cos(tilt), -np.sin(tilt)])
    ahead = np.cross(up, right)
    origin = u.ravel()[:, None] * right + v.ravel()[:, None] * up - 4 * ahead
    origin[:, 1] -= 0.12
    depth = np.zeros(len(origin))
    alive = np.arange(len(origin))
    hit = np.zeros(len(origin), bool)
    for _ in range(140):
        p = origin[alive] + depth[alive, None] * ahead
        distance = _distances(p).min(0)
        depth[alive] += 0.8 * distance
        hit[alive[distance < 1e-3]] = True
        alive = alive[(distance >= 1e-3) & (depth[alive] < 8)]
    pixels = np.flatnonzero(hit)
    p = origin[pixels] + depth[pixels, None] * ahead
    parts = _distances(p).argmin(0)
    steps = np.eye(3) * 2e-3
    normal = np.stack([_distances(p + s).min(0) - _distances(p - s).min(0) for s in steps], 1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    diffuse = np.clip(normal @ LIGHT, 0, 1)
    half = LIGHT - ahead
    shine = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 60
    ambient = 0.42 + 0.16 * normal[:, 1]
    colour = _albedo(p, parts) * (ambient + 0.62 * diffuse)[:, None] + 0.35 * shine[:, None]
    glow = parts == 5
    warm = np.clip((p[glow, 1:2] + 1.65) / 0.5, 0, 1)
    colour[glow] = np.array([0.94, 0.38, 0.1]) * (1 - warm) + np.array([1.0, 0.85, 0.35]) * warm
    image = np.zeros((SIZE_PX * SIZE_PX, 4))
    image[pixels, :3] = np.clip(colour, 0, 1)
    image[pixels, 3] = 1
    # Box filter 2 x 2 over premultiplied colours, for soft edges without a fringe.
    image[:, :3] *= image[:, 3:]
    half_size = SIZE_PX // 2
    image = image.reshape(half_size, 2, half_size, 2, 4).mean((1, 3))
    image[..., :3] /= np.maximum(image[..., 3:], 1e-6)
    return Image.fromarray((image * 255 + 0.5).astype(np.uint8))


def overview(picture: Path) -> Image.Image:
    """Return a strip: the picture, its untextured model, its textured model from two sides.

    The models are made by the preview engine.

    Args:
        picture: a PNG file with transparency.
    """
    from trellis2_server import pipeline
    from trellis2_server.drawing import draw
    from trellis2_server.inputs.images import Cutter
    from trellis2_server.parameters import read_options
    from trellis2_server.settings import ModelSettings, Settings

    engine, _ = pipeline.choose_engine(Settings(model=ModelSettings(engine="preview")))
    pipeline.load(engine, lambda *_: None)
    cutout = Cutter().cut_out(picture.read_bytes())
    settings = Settings()
    options = read_options({"texture_size": 2048, "decimation_target": 100_000}, settings)
    shape, textured = pipeline.make_model(engine, cutout, options, settings.export, lambda *_: None)
    tile = 400
    tiles = [
        np.asarray(Image.open(picture).convert("RGBA").resize((tile, tile))),
        draw(shape, size_px=tile, view=(35, 12), shading="clay"),
        draw(textured, size_px=tile, view=(35, 12), shading="lit"),
        draw(textured, size_px=tile, view=(150, 12), shading="lit"),
    ]
    sheet = Image.new("RGB", (tile * len(tiles), tile), (245, 245, 245))
    for k, pixels in enumerate(tiles):
        part = Image.fromarray(pixels)
        sheet.paste(part.convert("RGB"), (k * tile, 0), part.getchannel("A"))
    return sheet


if __name__ == "__main__":
    file = ROOT / "docs" / "rocket.png"
    draw().save(file, optimize=True)
    overview(file).save(ROOT / "docs" / "overview.png", optimize=True)
