"""A job's files over HTTP."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.engines import GatedEngine
from tests.support.server import fields, picture, serving, until
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    import httpx

    from tests.support.server import Server


def get_file(server: Server, job: dict[str, Any], file: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.get(f"/jobs/{job['uid']}/{file}", headers=named)


def test_a_job_lists_its_files_and_each_is_served_as_generated(
    server: Server, job: dict[str, Any]
) -> None:
    assert list(job["files"]) == ["input.png", "shape.glb", "textured.glb"]
    assert job["can_export"]
    for name, about in job["files"].items():
        reply = server.client.get("/" + about["url"])
        assert len(reply.content) == about["bytes"] == int(reply.headers["Content-Length"])
        if name != "input.png":
            assert reply.content == job[name]
            assert reply.headers["Content-Type"] == "model/gltf-binary"
        assert reply.headers["Content-Disposition"] == f'inline; filename="{job["uid"]}-{name}"'


def test_the_input_is_the_cut_out_with_its_alpha() -> None:
    engine = GatedEngine("shape")
    with serving(engine) as server:
        server.wait_until_loaded()
        uid = server.client.post("/send", json=fields(texture=False)).json()["uid"]
        engine.wait_for("shape")
        url = f"/jobs/{uid}/input.png"
        until(lambda: server.client.get(url).is_success, "the cut-out is available")
        with Image.open(io.BytesIO(server.client.get(url).content)) as image:
            seen = np.asarray(image)
        cut_out = Cutter(background="none").cut_out(picture())
        assert np.array_equal(seen, cut_out.rgba)
        early = server.client.get(f"/jobs/{uid}/shape.glb")
        assert early.status_code == 404
        assert early.json()["text"] == "shape.glb is not there yet"


def test_a_file_that_the_client_has_is_not_sent_again(server: Server, job: dict[str, Any]) -> None:
    first = get_file(server, job, "textured.glb")
    etag = first.headers["ETag"]
    assert etag.startswith('"')  # strong
    assert first.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    for tags in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        again = get_file(server, job, "textured.glb", if_none_match=tags)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == etag
    assert get_file(server, job, "textured.glb", if_none_match='"other"').status_code == 200
    tags = {get_file(server, job, name).headers["ETag"] for name in ("shape.glb", "input.png")}
    assert etag not in tags
    assert len(tags) == 2
    by_hash = server.client.get(f"/jobs/{job['image_hash']}/textured.glb")
    assert by_hash.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("range_header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, None),
        ("bytes=10-19", 10, 19),
        ("Bytes = 5-5", 5, 5),
        ("bytes=-7", -7, None),
        ("bytes=-999999999", 0, None),
        ("bytes=3-999999999", 3, None),
    ],
)
def test_a_range_request_returns_that_part(
    server: Server, job: dict[str, Any], range_header: str, first: int, last: int | None
) -> None:
    whole = job["textured.glb"]
    part = get_file(server, job, "textured.glb", range=range_header)
    expected = whole[first : None if last is None else last + 1]
    assert (part.status_code, part.content) == (206, expected)
    begin = first % len(whole)
    assert part.headers["Content-Range"] == (
        f"bytes {begin}-{begin + len(expected) - 1}/{len(whole)}"
    )


@pytest.mark.parametrize(
    "range_header",
    ["bytes=5-4", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5", "bytes 0-1", ""],
)
def test_malformed_or_multiple_ranges_return_the_whole_file(
    server: Server, job: dict[str, Any], range_header: str
) -> None:
    reply = get_file(server, job, "textured.glb", range=range_header)
    assert (reply.status_code, reply.content) == (200, job["textured.glb"])


@pytest.mark.parametrize(
    "range_header", ["bytes=99999999-", "bytes=-0", "bytes=99999999-999999999"]
)
def test_a_range_past_the_end_returns_the_size_of_the_file(
    server: Server, job: dict[str, Any], range_header: str
) -> None:
    reply = get_file(server, job, "textured.glb", range=range_header)
    assert reply.status_code == 416
    assert reply.headers["Content-Range"] == f"bytes */{len(job['textured.glb'])}"


def test_a_download_is_resumed_only_if_the_file_has_not_changed(
    server: Server, job: dict[str, Any]
) -> None:
    etag = get_file(server, job, "shape.glb").headers["ETag"]
    part = get_file(server, job, "shape.glb", range="bytes=100-", if_range=etag)
    assert (part.status_code, part.content) == (206, job["shape.glb"][100:])
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        whole = get_file(server, job, "shape.glb", range="bytes=100-", if_range=other)
        assert (whole.status_code, whole.content) == (200, job["shape.glb"])


def test_head_returns_the_headers_of_get(server: Server, job: dict[str, Any]) -> None:
    for name in ("input.png", "shape.glb", "textured.glb", "textured.ply"):
        url = f"/jobs/{job['uid']}/{name}"
        whole, head = server.client.get(url), server.client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        for header in ("Content-Length", "Content-Type", "ETag", "Accept-Ranges"):
            assert head.headers[header] == whole.headers[header]


@pytest.mark.parametrize("kind", ["shape", "textured"])
def test_other_formats_match_those_of_generate(
    server: Server, job: dict[str, Any], kind: str
) -> None:
    for ending in ("obj", "ply", "stl", "zip", "gltf.zip"):
        file = get_file(server, job, f"{kind}.{ending}")
        file_type = {"zip": "obj_zip", "gltf.zip": "gltf_zip"}.get(ending, ending)
        made = server.generate(fields(texture=kind == "textured", type=file_type))
        assert made.headers["X-Job-Id"] == job["uid"]
        assert file.content == made.content
        assert file.headers["Content-Type"] == made.headers["Content-Type"]
        part = get_file(server, job, f"{kind}.{ending}", range="bytes=1-3")
        assert part.content == file.content[1:4]
    with zipfile.ZipFile(io.BytesIO(get_file(server, job, "textured.zip").content)) as archive:
        assert "model.obj" in archive.namelist()


def test_compressed_geometry_is_converted_only_by_an_export(server: Server) -> None:
    made = server.generate(fields(compress="meshopt"))
    if made.status_code == 500:
        pytest.skip("meshopt is not installed")
    uid = made.headers["X-Job-Id"]
    until(lambda: server.client.get(f"/jobs/{uid}").json()["can_export"], "stored")
    refused = server.client.get(f"/jobs/{uid}/shape.stl")
    assert refused.status_code == 400
    assert "/export" in refused.json()["text"]
    export = {"type": "stl", "texture": False}
    assert server.client.post(f"/jobs/{uid}/export", json=export).content[80:84] == b"\x0c\0\0\0"


@pytest.mark.parametrize("file", ["model.glb", "shape", "shape.exe", "input.jpg", "..%2Fshape.glb"])
def test_an_unknown_file_name_gets_a_404(server: Server, job: dict[str, Any], file: str) -> None:
    reply = get_file(server, job, file)
    assert reply.status_code == 404
    assert set(reply.json()) == {"text", "error_code"}


def test_a_missing_texture_is_reported(server: Server) -> None:
    uid = server.generate(fields(texture=False)).headers["X-Job-Id"]
    reply = server.client.get(f"/jobs/{uid}/textured.glb")
    assert (reply.status_code, reply.json()["text"]) == (404, "this job has no textured.glb")
    assert server.client.get(f"/jobs/{'0' * 32}/shape.glb").status_code == 404
