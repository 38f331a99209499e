"""Pictures of models over HTTP: drawn once, when they are requested."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import ON_RAY, fields, serving, settings, until
from trellis2_server import pipeline
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from tests.support.server import Server

SINGLE = pytest.mark.skipif(ON_RAY, reason="needs the single process")


def pixels(reply: httpx.Response, file_format: str = "PNG") -> np.ndarray:
    assert reply.status_code == 200, reply.text
    with Image.open(io.BytesIO(reply.content)) as opened:
        assert opened.format == file_format
        return np.asarray(opened.convert("RGBA"))


def test_a_job_names_its_pictures_and_they_show_the_textured_model(
    server: Server, job: dict[str, Any]
) -> None:
    uid = job["uid"]
    assert job["thumbnail_url"] == f"jobs/{uid}/thumbnail.png"
    assert job["turntable_url"] == f"jobs/{uid}/turntable.webp"
    listed = server.client.get("/jobs").json()["jobs"][0]
    assert listed["thumbnail_url"] == job["thumbnail_url"]
    reply = server.client.get("/" + job["thumbnail_url"])
    assert reply.headers["Content-Type"] == "image/png"
    assert reply.headers["Content-Disposition"] == f'inline; filename="{uid}-thumbnail.png"'
    assert int(reply.headers["Content-Length"]) == len(reply.content)
    shown = pixels(reply)
    assert shown.shape == (512, 512, 4)
    assert shown[0, 0, 3] == 0
    assert 0.1 < (shown[..., 3] == 255).mean() < 0.9
    colours = shown[shown[..., 3] == 255][:, :3].astype(int)
    assert np.ptp(colours, axis=1).max() > 40, "the model's colours, not grey"


def test_views_and_sizes_are_pictures_of_their_own(server: Server, job: dict[str, Any]) -> None:
    url = f"/jobs/{job['uid']}/thumbnail.png"
    replies = {
        view: server.client.get(url, params={"view": view, "size": 64})
        for view in ("front", "three_quarter", "back")
    }
    shown = {view: pixels(reply) for view, reply in replies.items()}
    assert {each.shape for each in shown.values()} == {(64, 64, 4)}
    assert len({reply.headers["ETag"] for reply in replies.values()}) == 3
    # The test's cube is the same from the front and from the back.
    assert shown["front"].tobytes() != shown["three_quarter"].tobytes()
    default = server.client.get(url, params={"size": 64})
    assert default.content == replies["three_quarter"].content


@pytest.mark.parametrize(("size", "edge"), [("1", 32), ("-5", 32), ("33", 33)])
def test_a_size_is_clamped(server: Server, job: dict[str, Any], size: str, edge: int) -> None:
    reply = server.client.get(f"/jobs/{job['uid']}/thumbnail.png", params={"size": size})
    assert pixels(reply).shape == (edge, edge, 4)


@pytest.mark.parametrize(("file", "largest"), [("thumbnail.png", 1024), ("turntable.webp", 512)])
def test_a_size_beyond_the_largest_is_the_largest(
    server: Server, job: dict[str, Any], file: str, largest: int
) -> None:
    tags = {
        server.client.head(f"/jobs/{job['uid']}/{file}", params={"size": size}).headers["ETag"]
        for size in (largest, largest + 1, 10**9)
    }
    assert len(tags) == 1


@pytest.mark.parametrize("query", ["view=below", "size=large", "size="])
def test_what_cannot_be_drawn_is_a_400_that_names_the_field(
    server: Server, job: dict[str, Any], query: str
) -> None:
    reply = server.client.get(f"/jobs/{job['uid']}/thumbnail.png?{query}")
    assert reply.status_code == 400
    assert query.partition("=")[0] in reply.json()["text"]


def test_a_turntable_moves(server: Server, job: dict[str, Any]) -> None:
    reply = server.client.get(f"/jobs/{job['uid']}/turntable.webp", params={"size": 64})
    assert reply.headers["Content-Type"] == "image/webp"
    with Image.open(io.BytesIO(reply.content)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (64, 64))
        assert getattr(opened, "n_frames", 1) == 24


def test_a_picture_that_the_client_has_is_not_sent_again(
    server: Server, job: dict[str, Any]
) -> None:
    url = f"/jobs/{job['uid']}/thumbnail.png?size=48"
    first = server.client.get(url)
    again = server.client.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    part = server.client.get(url, headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, first.content[:8])
    assert server.client.get(f"/api{url}").content == first.content


def test_a_job_without_a_texture_has_a_grey_picture_until_it_gets_one() -> None:
    engine = GatedEngine("shape", "texture")
    with serving(engine) as server:
        server.wait_until_loaded()
        uid = server.client.post("/send", json=fields(texture=True)).json()["uid"]
        engine.wait_for("shape")
        url = f"/jobs/{uid}/thumbnail.png?size=64"
        early = server.client.get(url)
        assert (early.status_code, early.json()["text"]) == (404, "the model is not there yet")
        assert "thumbnail_url" not in server.client.get(f"/jobs/{uid}").json()
        engine.gates["shape"].set()
        until(lambda: server.client.get(f"/jobs/{uid}").json()["shape_ready"], "the shape is there")
        grey = server.client.get(url)
        colours = pixels(grey)[..., :3].astype(int)
        assert np.ptp(colours, axis=-1).max() == 0
        assert grey.headers["Cache-Control"] == "private, no-cache"
        engine.open_all()
        until(lambda: server.client.get(f"/jobs/{uid}").json()["texture_ready"], "textured")
        changed = server.client.get(url, headers={"If-None-Match": grey.headers["ETag"]})
        assert changed.content != grey.content
        assert "immutable" in changed.headers["Cache-Control"]
        image_hash = server.client.get(f"/jobs/{uid}").json()["image_hash"]
        by_hash = server.client.get(f"/jobs/{image_hash}/thumbnail.png?size=64")
        assert by_hash.content == changed.content
        assert by_hash.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("compress", ["meshopt", "draco"])
def test_a_compressed_model_has_a_picture(server: Server, compress: str) -> None:
    pytest.importorskip("DracoPy" if compress == "draco" else "meshopt", reason="not installed")
    plain, packed = (
        server.generate(fields(texture=True, **more)).headers["X-Job-Id"]
        for more in ({}, {"compress": compress})
    )
    first, second = (
        pixels(server.client.get(f"/jobs/{uid}/thumbnail.png?size=64")).astype(int)
        for uid in (plain, packed)
    )
    assert (np.abs(first - second).max(-1) > 24).mean() < 0.05


def test_without_a_key_nobody_sees_a_picture() -> None:
    with serving(GatedEngine(), settings(server={"api_keys": ["a" * 20, "b" * 20]})) as server:
        own, other, none = {"X-API-Key": "a" * 20}, {"X-API-Key": "b" * 20}, {}
        url = f"{server.url}/healthcheck"
        until(lambda: httpx.get(url, headers=own, timeout=PATIENCE_S).is_success, "loaded")
        made = httpx.post(f"{server.url}/generate", json=fields(), headers=own, timeout=PATIENCE_S)
        url = f"{server.url}/jobs/{made.headers['X-Job-Id']}/thumbnail.png?size=32"
        codes = [
            httpx.get(url, headers=headers, timeout=PATIENCE_S).status_code
            for headers in (own, other, none)
        ]
        assert codes == [200, 404, 401]


# ---- as conversions are made -----------------------------------------------------------------


class Drawings:
    """Counts what is drawn; each waits while the gate is closed."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.stopped: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, glb: bytes, form: Any, report: Any) -> bytes:
        self.started.append(form)
        try:
            while not self.gate.wait(0.005):
                report("held", 0, 1)
        except StepCancelled:
            self.stopped.append(form)
            raise
        return pipeline.convert(glb, form, report)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawings:
    counting = Drawings()
    monkeypatch.setattr("trellis2_server.jobs.executor.convert", counting)
    return counting


@SINGLE
def test_a_picture_is_drawn_once_and_head_draws_nothing(
    server: Server, drawn: Drawings, job: dict[str, Any]
) -> None:
    url = f"/jobs/{job['uid']}/thumbnail.png?size=40"
    head = server.client.head(url)
    assert head.status_code == 200
    assert head.headers["Content-Type"] == "image/png"
    assert "Content-Length" not in head.headers
    assert drawn.started == []
    first = server.client.get(url)
    assert server.client.get(url).content == first.content
    assert len(drawn.started) == 1
    head = server.client.head(url)
    assert int(head.headers["Content-Length"]) == len(first.content)
    assert head.headers["ETag"] == first.headers["ETag"]
    assert list(server.client.get(f"/jobs/{job['uid']}").json()["files"]) == list(job["files"])


@SINGLE
def test_a_picture_that_nobody_waits_for_is_not_drawn_on(
    server: Server, drawn: Drawings, job: dict[str, Any]
) -> None:
    drawn.gate.clear()
    url = f"/jobs/{job['uid']}/turntable.webp"
    with pytest.raises(httpx.ReadTimeout):
        server.client.get(url, timeout=0.5)
    until(lambda: len(drawn.stopped) == 1, "the drawing has stopped")
    assert len(drawn.started) == 1


@SINGLE
def test_pictures_count_in_the_limits_of_a_client(drawn: Drawings) -> None:
    configured = settings(server={"rate_per_minute": 2})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        url = f"/jobs/{uid}/thumbnail.png"
        sizes = [server.client.get(url, params={"size": size}) for size in (40, 40, 41)]
        assert [reply.status_code for reply in sizes] == [200, 200, 429]
        assert len(drawn.started) == 1
