"""Thumbnails that the client draws, and what it needs for them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from trellis2_server.client import DrawingError
from trellis2_server.client.thumbnail import draw_thumbnail
from trellis2_server.drawing import draw_model, load_glb

ROOT = Path(__file__).resolve().parents[2]


def ball() -> bytes:
    mesh = trimesh.creation.icosphere(subdivisions=1)
    mesh.apply_translation([1.0, 3.0, -0.5])
    content = mesh.export(file_type="glb")
    assert isinstance(content, bytes)
    return content


def test_a_thumbnail_has_the_model_on_a_ground_that_is_darker_at_its_corners() -> None:
    with Image.open(io.BytesIO(draw_thumbnail(ball(), size_px=60))) as opened:
        assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (60, 60))
        shown = np.asarray(opened).astype(int)
    alone = draw_model(load_glb(ball()), size_px=60, view="three_quarter", shading="clay")
    row, column = np.mgrid[:60, :60]
    distance = np.sqrt((row - 30.0) ** 2 + (column - 30.0) ** 2) / 60
    ground = 246 - 44 * np.minimum(distance / 0.7, 1) ** 2
    alpha = alone[..., 3] / 255
    wanted = alone[..., :3] * alpha[..., None] + (ground * (1 - alpha))[..., None]
    assert np.abs(shown - wanted).max() < 0.51 + 1e-3
    assert shown[0, 0, 0] == 202


def test_a_file_that_cannot_be_drawn_is_an_error_of_the_client() -> None:
    with pytest.raises(DrawingError, match="GLB"):
        draw_thumbnail(b"glTF")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_thumbnail_needs_nothing_of_the_server_but_the_drawing() -> None:
    code = (
        "import sys\n"
        "from trellis2_server.client import Client\n"
        "from trellis2_server.client.thumbnail import draw_thumbnail\n"
        "try: draw_thumbnail(b'glTF')\n"
        "except Exception: pass\n"
        "print(*sorted({m.split('.')[1] for m in sys.modules if m.startswith('trellis2_server.')}),"
        " *(m for m in ('numba', 'pydantic', 'fastapi', 'cv2', 'torch', 'scipy')"
        " if m in sys.modules))"
    )
    assert run(code) == "client drawing purposes request_fields"


@pytest.mark.parametrize("package", ["numpy", "PIL"])
def test_a_package_that_is_missing_is_named(package: str) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from trellis2_server.client import DrawingError\n"
        "from trellis2_server.client.thumbnail import draw_thumbnail\n"
        "try: draw_thumbnail(b'glTF')\n"
        "except DrawingError as error: print(error)"
    )
    assert run(code) == "drawing a model requires NumPy and Pillow: pip install numpy pillow"
