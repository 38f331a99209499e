"""Clients of SGLang's mesh API, with their requests and their way of reading replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import encoded, picture, serving, settings, until

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx

    from tests.support.server import Server

#: Keys of SGLang's `MeshResponse`.
KEYS = {
    "id", "object", "model", "status", "progress", "created_at", "format", "url", "completed_at",
    "expires_at", "error", "file_path", "file_size_bytes", "peak_memory_mb", "inference_time_s",
}  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture(scope="module")
def small(engine: GatedEngine) -> Generator[Server]:
    configured = settings(
        export={"glb_texture_size": 256, "glb_decimation_target": 2000},
        server={"protocols": ["sglang"]},
    )
    with serving(engine, configured) as server:
        server.wait_until_loaded()
        yield server


def create(server: Server, shade: int = 0, **fields: Any) -> dict[str, Any]:
    form = {name: str(value) for name, value in fields.items()}
    files = {"image": ("input.png", picture(shade), "image/png")}
    reply = server.client.post("/v1/meshes", data=form, files=files)
    assert reply.status_code == 200, reply.text
    assert reply.json().keys() == KEYS
    return reply.json()


def completed(server: Server, mesh_id: str) -> dict[str, Any]:
    """Poll a mesh until it is completed, as clients do."""
    found: dict[str, Any] = {}

    def is_ended() -> bool:
        found.update(server.client.get(f"/v1/meshes/{mesh_id}").json())
        assert 0 <= found["progress"] <= 100
        return found["status"] in {"completed", "failed"}

    until(is_ended, "completed")
    assert found["status"] == "completed"
    return found


def message_of(reply: httpx.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"error"}
    return reply.json()["error"]["message"]


def test_a_form_creates_a_mesh_that_is_polled_and_downloaded(small: Server) -> None:
    created = create(
        small,
        prompt="generate 3d mesh",
        model="hunyuan3d",
        seed=5,
        generator_device="cuda",
        guidance_scale=5.0,
        num_inference_steps=9,
        negative_prompt="",
        output_format="glb",
    )
    assert (created["object"], created["format"]) == ("mesh", "glb")
    assert created["status"] in {"queued", "in_progress", "completed"}
    mesh = completed(small, created["id"])
    assert (mesh["progress"], mesh["completed_at"] >= mesh["created_at"]) == (100, True)
    content = small.client.get(f"/v1/meshes/{created['id']}/content")
    assert content.content[:4] == b"glTF"
    assert content.headers["content-type"] == "model/gltf-binary"
    assert content.headers["content-disposition"].startswith("attachment")
    assert len(content.content) == mesh["file_size_bytes"]
    assert small.client.get(mesh["url"]).content == content.content
    parameters = small.client.get(f"/jobs/{created['id']}").json()["parameters"]
    assert (parameters["seed"], parameters["ss_sampling_steps"]) == (5, 9)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_json_creates_a_mesh(small: Server, prefix: str) -> None:
    body = {"input_image": prefix + encoded(picture(1)), "seed": [3], "output_format": "glb"}
    reply = small.client.post("/v1/meshes", json=body)
    mesh = completed(small, reply.json()["id"])
    assert small.client.get(f"/jobs/{mesh['id']}").json()["parameters"]["seed"] == 3


@pytest.mark.parametrize("name", ["image[]", "image"])
def test_the_picture_may_have_the_name_of_an_array(small: Server, name: str) -> None:
    files = {name: ("input.png", picture(2), "image/png")}
    reply = small.client.post("/v1/meshes", data={"output_format": "stl"}, files=files)
    assert reply.json()["format"] == "glb"  # as there: any other format is GLB


def test_an_obj_is_its_content_and_its_url(small: Server) -> None:
    created = create(small, 3, output_format="OBJ")
    mesh = completed(small, created["id"])
    assert (created["format"], mesh["format"]) == ("obj", "obj")
    content = small.client.get(f"/v1/meshes/{created['id']}/content")
    assert b"\nv " in content.content
    assert small.client.get(mesh["url"]).text.count("\nv ") == content.text.count("\nv ")
    head = small.client.head(f"/v1/meshes/{created['id']}/content")
    assert (head.status_code, head.headers["content-type"]) == (200, "model/obj")


def test_meshes_are_listed_by_pages_in_both_orders(small: Server) -> None:
    ids = [create(small, 10 + shade)["id"] for shade in range(3)]
    for each in ids:
        completed(small, each)

    def listed(**query: Any) -> list[str]:
        reply = small.client.get("/v1/meshes", params=query)
        assert reply.json()["object"] == "list"
        return [mesh["id"] for mesh in reply.json()["data"]]

    everything = listed()
    assert everything[:3] == ids[::-1]
    assert listed(limit=2) == everything[:2]
    assert listed(limit=1, after=everything[1]) == [everything[2]]
    assert listed(order="asc") == everything[::-1]
    assert listed(order="asc", after=ids[1]) == [ids[2]]
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}):
        name = next(iter(wrong))
        assert message_of(small.client.get("/v1/meshes", params=wrong), 400).startswith(name)
    for order in ("asc", "desc"):
        message_of(small.client.get("/v1/meshes", params={"after": "x", "order": order}), 404)


def test_a_deleted_mesh_is_gone(small: Server) -> None:
    mesh = completed(small, create(small, 20)["id"])
    deleted = small.client.delete(f"/v1/meshes/{mesh['id']}").json()
    assert deleted == {**mesh, "status": "deleted", "url": None}
    for path in ("", "/content"):
        message_of(small.client.get(f"/v1/meshes/{mesh['id']}{path}"), 404)
    message_of(small.client.delete(f"/v1/meshes/{mesh['id']}"), 404)


def test_an_unfinished_mesh_has_no_content_and_a_cancelled_one_failed(
    engine: GatedEngine, small: Server
) -> None:
    gate = engine.hold("shape", 77)
    mesh = create(small, 30, seed=77)
    text = message_of(small.client.get(f"/v1/meshes/{mesh['id']}/content"), 404)
    assert text == "the mesh is not completed yet"
    small.client.delete(f"/jobs/{mesh['id']}")
    gate.set()
    until(lambda: small.is_idle, "ended")
    found = small.client.get(f"/v1/meshes/{mesh['id']}").json()
    assert (found["status"], found["progress"], found["url"]) == ("failed", 0, None)
    assert found["error"].keys() == {"message"}


@pytest.mark.parametrize("body", [{}, {"prompt": ""}])
def test_a_missing_picture_is_refused(small: Server, body: dict[str, Any]) -> None:
    text = message_of(small.client.post("/v1/meshes", json={"seed": 1, **body}), 400)
    assert text.startswith("image: missing")


def test_several_files_are_several_views(small: Server) -> None:
    def ask(count: int) -> httpx.Response:
        files = [("image[]", ("a.png", picture(40 + each, size=32))) for each in range(count)]
        return small.client.post("/v1/meshes", data={"seed": "1"}, files=files)

    mesh = completed(small, ask(8).json()["id"])
    assert "input-8.png" in small.client.get(f"/jobs/{mesh['id']}").json()["files"]
    assert message_of(ask(9), 400) == "images: 9 pictures, and at most 8 are allowed"


def test_other_protocols_are_not_served(small: Server) -> None:
    assert small.client.post("/generate", json={}).status_code == 404
    assert small.client.post("/send", json={}).status_code == 404
    assert small.client.get("/").status_code == 404
    assert small.client.get("/ping").status_code == 404
    assert small.client.post("/v1/3d/generations", json={}).status_code == 404
    assert small.client.get("/v1/models").is_success
    assert small.client.get("/healthcheck").is_success
    assert small.client.get("/jobs").is_success
