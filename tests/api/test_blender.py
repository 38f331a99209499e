"""Tencent's own add-on in Blender, from its operator to the object that arrives.

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
from tests.support.server import serving, settings
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.support.server import Server

PYTHON = os.environ.get("BLENDER_PYTHON", "")
ADDON = os.environ.get("HUNYUAN_ADDON", "")
SCRIPT = Path(__file__).with_name("blender_addon_run.py")

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
    arrived: list[dict[str, Any]]
    selected: dict[str, Any] | None = None


@pytest.fixture
def operate(tmp_path: Path, small: Server) -> Callable[..., Outcome]:
    """Sets the add-on's properties, presses its button, waits, and looks at what there is."""

    def run(mesh: Path | str | None = None, **properties: Any) -> Outcome:
        job, result = tmp_path / "job.json", tmp_path / "result.json"
        wanted = {
            "properties": {"api_url": small.url, **properties},
            "mesh": str(mesh) if mesh else None,
            "result": str(result),
            "patience_s": PATIENCE_S,
            "save": os.environ.get("BLENDER_SAVE"),
        }
        job.write_text(json.dumps(wanted), encoding="utf-8")
        done = subprocess.run(
            [PYTHON, str(SCRIPT), ADDON, str(job)],
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


def test_an_image_arrives_as_an_upright_object_without_texture(
    operate: Callable[..., Outcome], arrow: Path
) -> None:
    outcome = operate(image_path=str(arrow))
    assert outcome.error is None
    (arrived,) = outcome.arrived
    assert arrived["images"] == []
    assert arrived["rotation"] == pytest.approx([0, 0, 0], abs=1e-5)
    x, y, z = size(arrived)
    assert z == pytest.approx(1.0, abs=0.03)  # Blender's up is Z
    assert x == pytest.approx(121 / 233, abs=0.03)
    assert y < x
    assert arrived["low"][0] == pytest.approx(-arrived["high"][0], abs=0.03)


def test_an_image_arrives_with_its_texture_where_that_is_wanted(
    operate: Callable[..., Outcome], arrow: Path
) -> None:
    outcome = operate(
        image_path=str(arrow), texture=True, octree_resolution=512, num_inference_steps=50
    )
    assert outcome.error is None
    (arrived,) = outcome.arrived
    assert [512, 512] in arrived["images"]
    assert arrived["uvs"] == 1
    assert len(arrived["materials"]) == 1
    assert size(arrived)[2] == pytest.approx(1.0, abs=0.03)


def test_a_selected_mesh_comes_back_textured_where_it_stood(
    operate: Callable[..., Outcome], arrow: Path, small: Server, tmp_path: Path
) -> None:
    made = small.client.post(
        "/generate", files={"image": arrow.read_bytes()}, data={"texture": "false"}
    )
    mesh = tmp_path / "arrow.glb"
    mesh.write_bytes(made.content)
    outcome = operate(mesh, image_path=str(arrow), texture=True)
    assert outcome.error is None
    assert outcome.selected is not None
    (arrived,) = outcome.arrived
    assert [512, 512] in arrived["images"]
    assert arrived["faces"] == outcome.selected["faces"]
    assert outcome.selected["hidden"]
    for key in ("low", "high", "location", "rotation", "scale"):
        assert arrived[key] == pytest.approx(outcome.selected[key], abs=1e-5), key
    assert arrived["location"] == pytest.approx([1, 2, 3])


def test_a_mesh_of_the_clients_own_comes_back_textured_where_it_stood(
    operate: Callable[..., Outcome], arrow: Path
) -> None:
    outcome = operate("monkey", image_path=str(arrow), texture=True)
    assert outcome.error is None
    assert outcome.selected is not None
    (arrived,) = outcome.arrived
    assert [512, 512] in arrived["images"]
    assert arrived["name"].startswith(outcome.selected["name"])
    assert arrived["faces"] == 968  # 500 polygons, as the triangles that they were sent as
    for key in ("low", "high", "location", "rotation", "scale"):
        assert arrived[key] == pytest.approx(outcome.selected[key], abs=1e-4), key


def test_a_picture_that_is_not_there_is_said_before_anything_is_sent(
    operate: Callable[..., Outcome],
) -> None:
    outcome = operate(image_path="/nowhere/picture.png")
    assert "does not exist" in (outcome.error or "")
    assert outcome.arrived == []


def test_a_server_that_is_down_is_said(operate: Callable[..., Outcome], arrow: Path) -> None:
    outcome = operate(image_path=str(arrow), api_url="http://127.0.0.1:9")
    assert "127.0.0.1" in (outcome.error or "")
    assert outcome.arrived == []


def test_text_alone_is_refused_with_its_reason(operate: Callable[..., Outcome]) -> None:
    outcome = operate(prompt="a cat")
    assert "there is no text-to-image model" in (outcome.error or "")
    assert outcome.arrived == []


def test_text_for_a_selected_mesh_is_refused_with_its_reason(
    operate: Callable[..., Outcome], arrow: Path, small: Server, tmp_path: Path
) -> None:
    made = small.client.post(
        "/generate", files={"image": arrow.read_bytes()}, data={"texture": "false"}
    )
    mesh = tmp_path / "arrow.glb"
    mesh.write_bytes(made.content)
    outcome = operate(mesh, prompt="in gold", texture=True)
    assert "there is no text-to-image model" in (outcome.error or "")
    assert outcome.arrived == []


def test_a_picture_that_is_none_is_refused_with_its_reason(
    operate: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_text("not a picture")
    outcome = operate(image_path=str(path))
    assert "image:" in (outcome.error or "")
