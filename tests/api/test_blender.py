"""Tencent's add-on in Blender, from its operator to the imported object.

Needs `BLENDER_PYTHON`, a Python that has `bpy` and `requests`, and `HUNYUAN_ADDON`, the path
of `blender_addon.py` from the Hunyuan3D-2 repository.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw

from tests.support.engines import PATIENCE_S
from tests.support.painter import Painter
from tests.support.server import serving, settings
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.support.server import Server

PYTHON = os.environ.get("BLENDER_PYTHON", "")
ADDON = os.environ.get("HUNYUAN_ADDON", "")
SCRIPT = Path(__file__).parents[1] / "support" / "blender_addon_run.py"

pytestmark = pytest.mark.skipif(
    not (PYTHON and ADDON), reason="needs Blender: set BLENDER_PYTHON and HUNYUAN_ADDON"
)


@pytest.fixture(scope="module")
def small() -> Generator[Server]:
    configured = settings(export={"glb_texture_size": 512, "glb_decimation_target": 5000})
    with serving(PreviewEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


@pytest.fixture(scope="module")
def arrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arrow that points up, tall, red at its tip and with a blue flag on the right."""
    image = Image.new("RGBA", (256, 256))
    draw = ImageDraw.Draw(image)
    draw.rectangle((110, 60, 145, 240), fill=(230, 230, 230, 255))
    draw.polygon(((127, 8), (80, 80), (175, 80)), fill=(220, 20, 20, 255))
    draw.rectangle((140, 120, 200, 160), fill=(20, 40, 220, 255))
    path = tmp_path_factory.mktemp("pictures") / "arrow.png"
    image.save(path)
    return path


@dataclass
class Outcome:
    error: str | None
    imported: list[dict[str, Any]]
    selected: dict[str, Any] | None = None


@pytest.fixture
def run_addon(tmp_path: Path, small: Server) -> Callable[..., Outcome]:
    """Set the add-on's properties, press its button, wait, and return the result."""

    def run(mesh: Path | str | None = None, **properties: Any) -> Outcome:
        job_path, result = tmp_path / "job.json", tmp_path / "result.json"
        job = {
            "properties": {"api_url": small.url, **properties},
            "mesh": str(mesh) if mesh else None,
            "result": str(result),
            "timeout_s": PATIENCE_S,
            "save": os.environ.get("BLENDER_SAVE"),
        }
        job_path.write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [PYTHON, str(SCRIPT), ADDON, str(job_path)],
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_S,
            check=False,
        )
        assert result.exists(), done.stdout + done.stderr
        return Outcome(**json.loads(result.read_text(encoding="utf-8")))

    return run


def size(described: dict[str, Any]) -> list[float]:
    return [high - low for low, high in zip(described["low"], described["high"], strict=True)]


def test_an_image_becomes_an_upright_object_without_texture(
    run_addon: Callable[..., Outcome], arrow: Path
) -> None:
    outcome = run_addon(image_path=str(arrow))
    assert outcome.error is None
    (imported,) = outcome.imported
    assert imported["images"] == []
    assert imported["rotation"] == pytest.approx([0, 0, 0], abs=1e-5)
    x, y, z = size(imported)
    assert z == pytest.approx(1.0, abs=0.03)  # Blender's up is Z
    assert x == pytest.approx(121 / 233, abs=0.03)
    assert y < x
    assert imported["low"][0] == pytest.approx(-imported["high"][0], abs=0.03)


def test_an_image_becomes_a_textured_object_if_requested(
    run_addon: Callable[..., Outcome], arrow: Path
) -> None:
    outcome = run_addon(
        image_path=str(arrow), texture=True, octree_resolution=512, num_inference_steps=50
    )
    assert outcome.error is None
    (imported,) = outcome.imported
    assert [512, 512] in imported["images"]
    assert imported["uvs"] == 1
    assert len(imported["materials"]) == 1
    assert size(imported)[2] == pytest.approx(1.0, abs=0.03)


def test_a_selected_mesh_is_returned_textured_in_its_place(
    run_addon: Callable[..., Outcome], arrow: Path, small: Server, tmp_path: Path
) -> None:
    made = small.client.post(
        "/generate", files={"image": arrow.read_bytes()}, data={"texture": "false"}
    )
    mesh = tmp_path / "arrow.glb"
    mesh.write_bytes(made.content)
    outcome = run_addon(mesh, image_path=str(arrow), texture=True)
    assert outcome.error is None
    assert outcome.selected is not None
    (imported,) = outcome.imported
    assert [512, 512] in imported["images"]
    assert imported["faces"] == outcome.selected["faces"]
    assert outcome.selected["hidden"]
    for key in ("low", "high", "location", "rotation", "scale"):
        assert imported[key] == pytest.approx(outcome.selected[key], abs=1e-5), key
    assert imported["location"] == pytest.approx([1, 2, 3])


def test_a_mesh_from_another_source_is_returned_textured_in_its_place(
    run_addon: Callable[..., Outcome], arrow: Path
) -> None:
    outcome = run_addon("monkey", image_path=str(arrow), texture=True)
    assert outcome.error is None
    assert outcome.selected is not None
    (imported,) = outcome.imported
    assert [512, 512] in imported["images"]
    assert imported["name"].startswith(outcome.selected["name"])
    assert imported["faces"] == 968  # 500 polygons, sent as triangles
    for key in ("low", "high", "location", "rotation", "scale"):
        assert imported[key] == pytest.approx(outcome.selected[key], abs=1e-4), key


def test_a_missing_picture_is_reported_before_anything_is_sent(
    run_addon: Callable[..., Outcome],
) -> None:
    outcome = run_addon(image_path="/nowhere/picture.png")
    assert "does not exist" in (outcome.error or "")
    assert outcome.imported == []


def test_an_unreachable_server_is_reported(run_addon: Callable[..., Outcome], arrow: Path) -> None:
    outcome = run_addon(image_path=str(arrow), api_url="http://127.0.0.1:9")
    assert "127.0.0.1" in (outcome.error or "")
    assert outcome.imported == []


def test_text_alone_is_rejected_with_the_cause(run_addon: Callable[..., Outcome]) -> None:
    outcome = run_addon(prompt="a cat")
    assert "there is no text-to-image model" in (outcome.error or "")
    assert outcome.imported == []


def test_text_alone_becomes_an_object_where_pictures_are_made_of_it(
    run_addon: Callable[..., Outcome],
) -> None:
    painter = Painter()
    try:
        with serving(PreviewEngine(), settings(text_to_image={"url": painter.url})) as painting:
            painting.wait_until_loaded()
            outcome = run_addon(prompt="a cat", api_url=painting.url)
    finally:
        painter.close()
    assert outcome.error is None
    assert len(outcome.imported) == 1


def test_text_for_a_selected_mesh_is_rejected_with_the_cause(
    run_addon: Callable[..., Outcome], arrow: Path, small: Server, tmp_path: Path
) -> None:
    made = small.client.post(
        "/generate", files={"image": arrow.read_bytes()}, data={"texture": "false"}
    )
    mesh = tmp_path / "arrow.glb"
    mesh.write_bytes(made.content)
    outcome = run_addon(mesh, prompt="in gold", texture=True)
    assert "there is no text-to-image model" in (outcome.error or "")
    assert outcome.imported == []


def test_an_invalid_picture_is_rejected_with_the_cause(
    run_addon: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_text("not a picture")
    outcome = run_addon(image_path=str(path))
    assert "image:" in (outcome.error or "")
