"""What the engine makes of small pictures is what it made when it was recorded.

Other tests say what is right of it; this one notices every other change. If one is meant,
`pytest tests/engines/preview/test_recorded.py --force-regen` records again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from tests.support.preview import Request, cutout, disc, grid, made
from trellis2_server.inputs.images import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.engines.preview import PreviewEngine
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.request_fields import Back


def shaded(mask: np.ndarray) -> Cutout:
    """Return a picture with a gradient, stripes and spots."""
    x, y = grid(len(mask))
    stripes = 40 * (np.sin(x / 3) > 0.5)
    color = np.stack([90 + x + stripes, 60 + 1.5 * y, 200 - x / 2 - stripes], -1)
    return cutout(mask, np.clip(color, 0, 255).astype(np.uint8))


def lamp() -> Cutout:
    """Return a ball on a foot, lit from the left, with a hole and a speck."""
    x, y = grid(28)
    foot = (abs(x - 14) < 2) & (y > 12) & (y < 25) | (abs(x - 14) < 7) & (y > 22) & (y < 26)
    hole = disc(28, 12, 8, 2)
    mask = np.clip(np.maximum(disc(28, 14, 8.5, 6.6), foot) - hole, 0, 1)
    return shaded(np.maximum(mask, disc(28, 25, 3, 1.5)))


def egg() -> Cutout:
    x, y = grid(26)
    inside = ((x - 13) / 7.2) ** 2 + ((y - 13) / 9.8) ** 2
    light = np.sqrt(np.clip(1 - inside, 0, 1))[..., None] * np.array([200, 150, 90]) + 30
    return cutout(np.clip((1 - inside) * 8, 0, 1), light.astype(np.uint8))


def egg_from_all_sides() -> Cutout:
    front = egg()
    sides = {"left": disc(26, 13, 13, 8.5), "back": disc(26, 12, 14, 8)}
    others = [View(shaded(mask).rgba, side) for side, mask in sides.items()]  # type: ignore[arg-type]
    return replace(front, views=(View(front.rgba, "front"), *others))


CASES: dict[str, tuple[Callable[[], Cutout], float | Literal["auto"], Back]] = {
    "lamp": (lamp, "auto", "auto"),
    "plate": (lamp, 0.3, "mirror"),
    "thick": (lamp, 1.0, "fill"),
    "egg": (egg, "auto", "auto"),
    "sides": (egg_from_all_sides, "auto", "auto"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model(
    engine: PreviewEngine,
    ndarrays_regression: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr("trellis2_server.engines.preview.engine._MIN_RESOLUTION", 48)
    picture, depth, back = CASES[name]
    requested = Request(decimation_target=500, texture_size=64, depth=depth, back=back)
    shape, field = made(engine, picture(), requested)
    attributes = field.attributes[::9]
    if back == "fill":
        # Patches are chosen by differences in the last bit: only what they look like on the whole.
        attributes = np.stack([field.attributes.mean(axis=0), field.attributes.std(axis=0)])
    ndarrays_regression.check(
        {
            "counts": np.array(
                [len(shape.mesh.vertices), len(shape.mesh.faces), len(field.coords)]
            ),
            "vertices": shape.mesh.vertices[::5],
            "faces": shape.mesh.faces[::5],
            "coords": field.coords[::9],
            "attributes": attributes,
        },
        default_tolerance={"rtol": 1e-3, "atol": 2e-3 if back == "fill" else 1e-4},
    )
