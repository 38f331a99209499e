"""Requests that say how the model lies in the file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hunyuan import finished, send
from tests.support.server import fields

if TYPE_CHECKING:
    from tests.support.server import Server

trimesh = pytest.importorskip("trimesh")

PLACED = {"type": "stl", "up_axis": "y", "size_mm": "30", "origin": "center"}


def bounds(content: bytes, file_type: str = "stl") -> Any:
    return trimesh.load(io.BytesIO(content), file_type=file_type, force="mesh").bounds


def test_every_way_to_get_a_file_places_its_model(default_preview: Server) -> None:
    server = default_preview
    sent = fields(**PLACED)
    first = server.generate(sent)
    assert first.is_success, first.text
    low, high = bounds(first.content)
    assert (high - low).max() == pytest.approx(30, rel=1e-5)
    assert (low + high).max() == pytest.approx(0, abs=1e-4)
    uid = first.headers["X-Job-Id"]
    query = {name: value for name, value in PLACED.items() if name != "type"}
    file = server.client.get(f"/jobs/{uid}/shape.stl", params=query)
    assert file.content == first.content
    assert finished(server, send(server, sent)) == first.content
    exported = server.client.post(f"/jobs/{uid}/export", json={**PLACED, "texture": False})
    assert exported.content == first.content


def test_files_of_another_placement_have_another_tag(default_preview: Server) -> None:
    server = default_preview
    uid = server.generate(fields()).headers["X-Job-Id"]
    urls = [
        f"/jobs/{uid}/shape.{rest}" for rest in ("stl", "stl?size_mm=30", "glb", "glb?size_m=2")
    ]
    replies = [server.client.get(url) for url in urls]
    assert len({reply.headers["ETag"] for reply in replies}) == len(urls)
    heights = [
        float((bounds(reply.content, "stl" if "stl" in url else "glb")[1] - low).max())
        for url, reply in zip(urls, replies, strict=True)
        for low in [bounds(reply.content, "stl" if "stl" in url else "glb")[0]]
    ]
    assert heights[0] == pytest.approx(100, rel=1e-4)
    assert heights[1] == pytest.approx(30, rel=1e-4)
    assert heights[2] <= 1
    assert heights[3] == pytest.approx(2, rel=1e-4)
    again = server.client.get(urls[1], headers={"If-None-Match": replies[1].headers["ETag"]})
    assert again.status_code == 304
    # A picture has no placement.
    assert server.client.get(f"/jobs/{uid}/input.png?size_m=2").content.startswith(b"\x89PNG")


def test_a_placement_that_does_not_go_with_the_type_is_a_400_that_names_both(
    default_preview: Server,
) -> None:
    server = default_preview
    uid = server.generate(fields()).headers["X-Job-Id"]
    for reply in (
        server.generate(fields(type="glb", size_mm=20)),
        server.client.get(f"/jobs/{uid}/shape.glb?size_mm=20"),
        server.client.post(f"/jobs/{uid}/export", json={"size_mm": 20}),
    ):
        assert reply.status_code == 400
        assert "size_mm" in reply.json()["text"]
        assert "glb" in reply.json()["text"]


def test_the_reference_lists_the_fields_of_a_file(default_preview: Server) -> None:
    paths = default_preview.client.get("/openapi.json").json()["paths"]
    names = {each["name"] for each in paths["/jobs/{name}/{file_name}"]["get"]["parameters"]}
    assert {"name", "file_name", "up_axis", "size_mm", "size_m", "origin"} <= names
    body = paths["/jobs/{name}/export"]["post"]["requestBody"]["content"]["application/json"]
    assert {"up_axis", "size_mm", "size_m", "origin"} <= body["schema"]["properties"].keys()
