"""Known Hunyuan3D clients, each with its exact requests and its way of reading responses."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.meshes import as_bytes, egg
from tests.support.painter import Painter
from tests.support.server import encoded, picture, serving, settings, until
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.server import Server


@pytest.fixture(scope="module")
def small() -> Generator[Server]:
    configured = settings(export={"glb_texture_size": 256, "glb_decimation_target": 2000})
    with serving(PreviewEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


# ---- 1: Tencent's Blender add-on, BlenderMCP: one request, no timeout, no polling --------

ADDON = {"octree_resolution": 256, "num_inference_steps": 20, "guidance_scale": 5.5}


def import_gltf(content: bytes) -> dict[str, Any]:
    """Return the JSON of a GLB, which Blender's importer reads first."""
    assert content[:4] == b"glTF"
    assert int.from_bytes(content[8:12], "little") == len(content)
    return json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])


@pytest.mark.parametrize("texture", [False, True])
def test_the_blender_add_on_generates_a_model_from_an_image(small: Server, texture: bool) -> None:  # noqa: FBT001
    body = {"image": encoded(picture()), **ADDON, "texture": texture}
    reply = small.client.post("/generate", json=body)
    assert reply.status_code == 200
    assert ("images" in import_gltf(reply.content)) is texture


def test_the_blender_add_on_textures_its_mesh(small: Server) -> None:
    body = {"mesh": encoded(as_bytes(egg(), "glb")), "image": encoded(picture()), **ADDON}
    reply = small.client.post("/generate", json={**body, "texture": True})
    assert reply.status_code == 200
    assert "images" in import_gltf(reply.content)


@pytest.mark.parametrize("more", [{}, {"mesh": encoded(as_bytes(egg(), "glb"))}])
def test_the_blender_add_on_shows_why_text_is_not_enough(
    small: Server, more: dict[str, Any]
) -> None:
    body = {**more, "text": "a cat", **ADDON, "texture": True}
    reply = small.client.post("/generate", json=body)
    assert reply.status_code != 200
    assert "there is no text-to-image model" in reply.text


@pytest.fixture(scope="module")
def painting() -> Generator[Server]:
    """A server that has pictures made of texts."""
    painter = Painter()
    configured = settings(
        export={"glb_texture_size": 256, "glb_decimation_target": 2000},
        text_to_image={"url": painter.url},
    )
    with serving(PreviewEngine(), configured) as server:
        server.wait_until_loaded()
        yield server
    painter.close()


@pytest.mark.parametrize("more", [{}, {"mesh": encoded(as_bytes(egg(), "glb"))}])
def test_the_blender_add_on_needs_only_text_where_pictures_are_made_of_it(
    painting: Server, more: dict[str, Any]
) -> None:
    body = {**more, "text": "a cat", **ADDON, "texture": True}
    reply = painting.client.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    assert "images" in import_gltf(reply.content)


def test_blender_mcp_needs_only_text_where_pictures_are_made_of_it(painting: Server) -> None:
    body = {
        "octree_resolution": 256,
        "num_inference_steps": 20,
        "guidance_scale": 5.5,
        "texture": False,
        "text": "a ball",
    }
    reply = painting.client.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    import_gltf(reply.content)


@pytest.mark.parametrize("octree_resolution", [128, 256, 512])
@pytest.mark.parametrize("guidance_scale", [1.0, 10.0])
def test_blender_mcp_sends_text_and_image_together(
    small: Server, octree_resolution: int, guidance_scale: float
) -> None:
    body = {
        "octree_resolution": octree_resolution,
        "num_inference_steps": 50,
        "guidance_scale": guidance_scale,
        "texture": False,
        "text": "a ball",
        "image": base64.b64encode(picture()).decode("ascii"),
    }
    reply = small.client.post("/generate", json=body)
    assert reply.status_code == 200
    import_gltf(reply.content)


# ---- 2: a Python client: dataclasses of exactly these keys, 30 seconds of timeout ------------


@dataclass
class Sent:
    uid: str


@dataclass
class Status:
    status: str
    model_base64: str | None = None
    message: str | None = None


@dataclass
class Health:
    status: str
    worker_id: str


PYTHON = {
    "remove_background": True,
    "texture": False,
    "seed": 1234,
    "octree_resolution": 256,
    "num_inference_steps": 5,
    "guidance_scale": 5.0,
    "num_chunks": 8000,
    "face_count": 40000,
}


@pytest.mark.parametrize("texture", [False, True])
def test_the_python_client_builds_its_records_from_the_replies(
    small: Server,
    texture: bool,  # noqa: FBT001
) -> None:
    client = small.client
    assert Health(**client.get("/health", timeout=30).json()).status == "healthy"
    body = {"image": encoded(picture(1)), **PYTHON, "texture": texture}
    uid = Sent(**client.post("/send", json=body, timeout=30).json()).uid
    seen: list[Status] = []

    def is_done() -> bool:
        seen.append(Status(**client.get(f"/status/{uid}", timeout=30).json()))
        return seen[-1].status not in {"processing", "texturing"}

    until(is_done, "done")
    assert seen[-1].status == "completed"
    model = base64.b64decode(seen[-1].model_base64 or "")
    assert ("images" in import_gltf(model)) is texture
    assert client.post("/generate", json=body, timeout=30).content == model


def test_the_python_client_reads_why_a_job_failed(small: Server) -> None:
    uid = small.client.post("/send", json={"image": encoded(b"none"), **PYTHON}).json()["uid"]
    until(lambda: Status(**small.client.get(f"/status/{uid}").json()).status == "error", "error")
    assert Status(**small.client.get(f"/status/{uid}").json()).message


# ---- 3: a C++ client: searches the text of the replies ------------------------------------


def value_of(text: str, name: str) -> str:
    """Return the value with this key, up to the last quotation mark of the text."""
    begin = text.index(f'"{name}":"') + len(name) + 4
    return text[begin : text.rindex('"')]


def test_the_cpp_client_finds_the_model_up_to_the_last_quote(small: Server) -> None:
    client = small.client
    assert client.get("/status/test").status_code == 200
    body = {"image": encoded(picture(2)), "texture": True, "type": "glb"}
    uid = value_of(client.post("/send", json=body).text, "uid")
    seen: list[str] = []

    def is_done() -> bool:
        seen.append(client.get(f"/status/{uid}").text)
        assert '"status":"error"' not in seen[-1]
        return '"status":"completed"' in seen[-1]

    until(is_done, "done")
    import_gltf(base64.b64decode(value_of(seen[-1], "model_base64"), validate=True))


def test_the_cpp_client_finds_an_error_without_a_space(small: Server) -> None:
    uid = value_of(small.client.post("/send", json={"image": encoded(b"none")}).text, "uid")
    until(lambda: '"status":"error"' in small.client.get(f"/status/{uid}").text, "error")


# ---- 4: a Node client: /api, polls every five seconds --------------------------------


def test_the_node_client_finds_everything_under_api(small: Server) -> None:
    client = small.client
    body = {"image": f"data:image/png;base64,{encoded(picture(3))}", "texture": True}
    uid = client.post("/api/send", json=body).json()["uid"]
    states = {"processing", "texturing", "completed"}

    def is_done() -> bool:
        reply = client.get(f"/api/status/{uid}", timeout=PATIENCE_S).json()
        assert reply["status"] in states
        return reply["status"] == "completed"

    until(is_done, "done")
    import_gltf(base64.b64decode(client.get(f"/api/status/{uid}").json()["model_base64"]))
    assert client.post("/api/generate", json=body).status_code == 200
