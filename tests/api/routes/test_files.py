"""A job's files over HTTP, and its export once more."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import ON_RAY, encoded, fields, picture, serving, settings, until
from trellis2_server.errors import EngineError
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.meshes import Glb
from trellis2_server.storage import snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Server


in_this_process = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@pytest.fixture
def job(server: Server) -> dict[str, Any]:
    """A finished job: what it says of itself, and the bytes of its files."""
    textured = server.generate(fields(texture=True))
    uid = textured.headers["X-Job-Id"]
    until(lambda: server.is_idle, "everything is kept")
    known: dict[str, Any] = server.client.get(f"/jobs/{uid}").json()
    return known | {"shape.glb": server.generate().content, "textured.glb": textured.content}


def get(server: Server, job: dict[str, Any], file: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.get(f"/jobs/{job['uid']}/{file}", headers=named)


def test_a_job_lists_its_files_and_each_is_what_was_sent(
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


def test_the_input_is_what_the_model_sees_with_its_alpha() -> None:
    engine = GatedEngine("shape")
    with serving(engine) as server:
        server.wait_until_loaded()
        uid = server.client.post("/send", json=fields(texture=False)).json()["uid"]
        engine.wait_for("shape")
        url = f"/jobs/{uid}/input.png"
        until(lambda: server.client.get(url).is_success, "the cut-out is there")
        with Image.open(io.BytesIO(server.client.get(url).content)) as image:
            seen = np.asarray(image)
        cut_out = Cutter(background="none").cut_out(picture())
        assert np.array_equal(seen, cut_out.rgba)
        early = server.client.get(f"/jobs/{uid}/shape.glb")
        assert early.status_code == 404
        assert early.json()["text"] == "shape.glb is not there yet"


def test_a_file_is_sent_once_to_who_has_it(server: Server, job: dict[str, Any]) -> None:
    first = get(server, job, "textured.glb")
    etag = first.headers["ETag"]
    assert etag.startswith('"')  # strong
    assert first.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    for tags in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        again = get(server, job, "textured.glb", if_none_match=tags)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == etag
    assert get(server, job, "textured.glb", if_none_match='"other"').status_code == 200
    tags = {get(server, job, name).headers["ETag"] for name in ("shape.glb", "input.png")}
    assert etag not in tags
    assert len(tags) == 2
    by_hash = server.client.get(f"/jobs/{job['image_hash']}/textured.glb")
    assert by_hash.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
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
def test_a_range_is_that_part(
    server: Server, job: dict[str, Any], asked: str, first: int, last: int | None
) -> None:
    whole = job["textured.glb"]
    part = get(server, job, "textured.glb", range=asked)
    expected = whole[first : None if last is None else last + 1]
    assert (part.status_code, part.content) == (206, expected)
    begin = first % len(whole)
    assert part.headers["Content-Range"] == (
        f"bytes {begin}-{begin + len(expected) - 1}/{len(whole)}"
    )


@pytest.mark.parametrize(
    "asked", ["bytes=5-4", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5", "bytes 0-1", ""]
)
def test_a_range_that_is_not_meant_or_several_get_the_whole(
    server: Server, job: dict[str, Any], asked: str
) -> None:
    reply = get(server, job, "textured.glb", range=asked)
    assert (reply.status_code, reply.content) == (200, job["textured.glb"])


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0", "bytes=99999999-999999999"])
def test_a_range_past_the_end_says_how_long_the_file_is(
    server: Server, job: dict[str, Any], asked: str
) -> None:
    reply = get(server, job, "textured.glb", range=asked)
    assert reply.status_code == 416
    assert reply.headers["Content-Range"] == f"bytes */{len(job['textured.glb'])}"


def test_a_download_goes_on_only_where_the_file_is_the_same(
    server: Server, job: dict[str, Any]
) -> None:
    etag = get(server, job, "shape.glb").headers["ETag"]
    part = get(server, job, "shape.glb", range="bytes=100-", if_range=etag)
    assert (part.status_code, part.content) == (206, job["shape.glb"][100:])
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        whole = get(server, job, "shape.glb", range="bytes=100-", if_range=other)
        assert (whole.status_code, whole.content) == (200, job["shape.glb"])


def test_head_says_what_get_would(server: Server, job: dict[str, Any]) -> None:
    for name in ("input.png", "shape.glb", "textured.glb", "textured.ply"):
        url = f"/jobs/{job['uid']}/{name}"
        head, whole = server.client.head(url), server.client.get(url)
        assert (head.status_code, head.content) == (200, b"")
        for header in ("Content-Length", "Content-Type", "ETag", "Accept-Ranges"):
            assert head.headers[header] == whole.headers[header]


@pytest.mark.parametrize("kind", ["shape", "textured"])
def test_other_formats_are_those_of_generate(
    server: Server, job: dict[str, Any], kind: str
) -> None:
    for ending in ("obj", "ply", "stl", "zip"):
        file = get(server, job, f"{kind}.{ending}")
        asked = fields(texture=kind == "textured", type="obj_zip" if ending == "zip" else ending)
        made = server.generate(asked)
        assert made.headers["X-Job-Id"] == job["uid"]
        assert file.content == made.content
        assert file.headers["Content-Type"] == made.headers["Content-Type"]
        part = get(server, job, f"{kind}.{ending}", range="bytes=1-3")
        assert part.content == file.content[1:4]
    with zipfile.ZipFile(io.BytesIO(get(server, job, "textured.zip").content)) as archive:
        assert "model.obj" in archive.namelist()


def test_compressed_geometry_is_converted_by_an_export(server: Server) -> None:
    made = server.generate(fields(compress="meshopt"))
    if made.status_code == 500:
        pytest.skip("meshopt is not installed")
    uid = made.headers["X-Job-Id"]
    until(lambda: server.client.get(f"/jobs/{uid}").json()["can_export"], "kept")
    refused = server.client.get(f"/jobs/{uid}/shape.stl")
    assert refused.status_code == 400
    assert "/export" in refused.json()["text"]
    export = {"type": "stl", "texture": False}
    assert server.client.post(f"/jobs/{uid}/export", json=export).content[80:84] == b"\x0c\0\0\0"


@pytest.mark.parametrize("file", ["model.glb", "shape", "shape.exe", "input.jpg", "..%2Fshape.glb"])
def test_what_is_no_file_is_a_404_that_says_which_there_are(
    server: Server, job: dict[str, Any], file: str
) -> None:
    reply = get(server, job, file)
    assert reply.status_code == 404
    assert set(reply.json()) == {"text", "error_code"}


def test_a_job_without_a_texture_says_so(server: Server) -> None:
    uid = server.generate(fields(texture=False)).headers["X-Job-Id"]
    reply = server.client.get(f"/jobs/{uid}/textured.glb")
    assert (reply.status_code, reply.json()["text"]) == (404, "this job has no textured.glb")
    assert server.client.get(f"/jobs/{'0' * 32}/shape.glb").status_code == 404


# ---- export --------------------------------------------------------------------------------


def export(server: Server, job: dict[str, Any], **asked: Any) -> httpx.Response:
    return server.client.post(f"/jobs/{job['uid']}/export", json=asked)


def test_an_export_that_asks_for_nothing_is_the_jobs_own_file(
    server: Server, engine: GatedEngine, job: dict[str, Any]
) -> None:
    calls = list(engine.calls)
    for reply in (export(server, job), server.client.post(f"/jobs/{job['uid']}/export")):
        assert reply.content == job["textured.glb"]
        assert reply.headers["X-Job-Id"] == job["uid"]
    assert export(server, job, texture=False).content == job["shape.glb"]
    assert engine.calls == calls


def test_an_export_has_what_is_asked_for(server: Server, job: dict[str, Any]) -> None:
    reply = export(server, job, texture_size=512, texture_format="png", alpha_mode="BLEND")
    glb = Glb(reply.raise_for_status().content)
    with Image.open(io.BytesIO(glb.view(glb.item("images", 0)["bufferView"]))) as image:
        assert (image.format, image.size) == ("PNG", (512, 512))
    assert glb.item("materials", 0)["alphaMode"] == "BLEND"
    by_form = server.client.post(
        f"/jobs/{job['uid']}/export", files={"texture_size": (None, "512"), "type": (None, "stl")}
    )
    assert by_form.headers["Content-Type"] == "model/stl"
    assert get(server, job, "textured.glb").content == job["textured.glb"]  # as it was


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"texture_size": "huge"}, "texture_size"),
        ({"type": "exe"}, "type"),
        ({"texture": 3}, "tex"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    server: Server, job: dict[str, Any], asked: dict[str, Any], said: str
) -> None:
    reply = export(server, job, **asked)
    assert reply.status_code == 400
    assert reply.json()["text"].startswith(said)


def test_a_given_mesh_is_exported_again(server: Server, job: dict[str, Any]) -> None:
    mesh = fields(3, texture=True, mesh=encoded(job["shape.glb"]))
    made = server.generate(mesh)
    uid = made.raise_for_status().headers["X-Job-Id"]
    until(lambda: server.is_idle, "everything is kept")
    assert server.client.post(f"/jobs/{uid}/export").content == made.content


def test_what_is_not_kept_cannot_be_exported() -> None:
    with serving(GatedEngine(), settings(worker={"max_kept_bytes": 0})) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "all is done")
        assert not server.client.get(f"/jobs/{uid}").json()["can_export"]
        reply = server.client.post(f"/jobs/{uid}/export")
        assert reply.status_code == 404
        assert "not kept any more; send the picture again" in reply.json()["text"]


def test_an_untextured_job_is_exported_untextured(server: Server) -> None:
    made = server.generate(fields(texture=False))
    uid = made.headers["X-Job-Id"]
    until(lambda: server.is_idle, "everything is kept")
    assert server.client.post(f"/jobs/{uid}/export").content == made.content
    refused = server.client.post(f"/jobs/{uid}/export", json={"texture": True})
    assert refused.status_code == 404
    assert "texture" in refused.json()["text"]


class HeldExport:
    """Stands at a gate in an export, and goes on when it is told; stops when it must."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.running = 0
        self.most = 0

    def __call__(self, *arguments: Any) -> bytes:
        report = arguments[-1]
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            while not self.gate.wait(0.01):
                report("held", 0, 1)
            return b"exported"
        finally:
            self.running -= 1
            self.ended.set()


@in_this_process
def test_exports_take_their_turn_in_the_pool_and_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = HeldExport()
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", held)
    limits = {"limit_model_concurrency": 2, "max_queue_length": 3}
    with serving(GatedEngine(), settings(worker=limits)) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is kept")
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(server.client.post(f"/jobs/{uid}/export"))

        asking = [threading.Thread(target=ask) for _ in range(5)]
        for at, thread in enumerate(asking, 1):
            thread.start()
            until(lambda at=at: server.queue_length == at, "queued")
        full = server.client.post(f"/jobs/{uid}/export")
        assert full.status_code == 503
        assert "the queue is full" in full.json()["text"]
        assert server.generate(fields(1, seed=2)).status_code == 503
        held.gate.set()
        for thread in asking:
            thread.join(PATIENCE_S)
        assert [reply.content for reply in replies] == [b"exported"] * 5
        assert held.most == 2
        assert server.generate(fields(1, seed=2)).is_success


@in_this_process
def test_an_export_stops_when_its_client_goes(
    server: Server, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldExport()
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", held)
    with httpx.Client(base_url=server.url, timeout=0.2) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            impatient.post(f"/jobs/{job['uid']}/export")
        assert held.begun.is_set()
    assert held.ended.wait(PATIENCE_S)
    until(lambda: server.is_idle, "idle")


@in_this_process
def test_an_export_that_fails_says_why_and_harms_nothing(
    server: Server, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise EngineError("no such luck")

    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", fail)
    reply = export(server, job)
    assert (reply.status_code, reply.json()["text"]) == (500, "no such luck")
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", snapshots.export_again)
    assert export(server, job).content == job["textured.glb"]


@in_this_process
def test_at_a_stop_who_waits_for_an_export_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldExport()
    monkeypatch.setattr("trellis2_server.jobs.executor.export_again", held)
    quick = settings(server={"shutdown_grace_seconds": 0.1})
    with serving(GatedEngine(), quick) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is kept")
        replies: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: replies.append(server.client.post(f"/jobs/{uid}/export"))
        )
        asking.start()
        assert held.begun.wait(PATIENCE_S)
        server.close_soon()
        asking.join(PATIENCE_S)
        assert replies[0].status_code == 503
        assert held.ended.wait(PATIENCE_S)


# ---- what is kept ----------------------------------------------------------------------------


def test_a_deleted_job_leaves_no_file(tmp_path: Path) -> None:
    with serving(GatedEngine(), settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is kept")
        assert len(list((tmp_path / "files").iterdir())) == 5
        assert server.client.delete(f"/jobs/{uid}").status_code == 204
        until(lambda: server.is_idle, "written")
        assert not list((tmp_path / "files").iterdir())
        assert server.client.get(f"/jobs/{uid}/shape.glb").status_code == 404
        assert server.manager.archive.size == 0


def test_the_memory_holds_no_finished_file_when_there_is_a_folder(tmp_path: Path) -> None:
    with serving(GatedEngine(), settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        made = [server.generate(fields(seed=seed, texture=True)) for seed in range(5)]
        until(lambda: server.is_idle, "written")
        archive = server.manager.archive
        assert not archive.unwritten_bytes
        assert not archive.evictable_bytes
        on_disk = sum(path.stat().st_size for path in (tmp_path / "files").iterdir())
        assert archive.size == on_disk > sum(len(reply.content) for reply in made)
        for seed, reply in enumerate(made):
            assert server.generate(fields(seed=seed, texture=True)).content == reply.content


def test_over_the_limit_the_job_that_finished_first_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configured = settings(worker={"result_dir": str(tmp_path), "max_result_bytes": 2**26})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        first = server.generate(fields(seed=1, texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is kept")
        one = server.manager.archive.size
        # The smallest limit that can be configured is far more than such small jobs take.
        monkeypatch.setattr(server.manager.results, "_max_bytes", one * 5 // 2)
        rest = []
        for seed in (2, 3):
            rest.append(server.generate(fields(seed=seed, texture=True)).headers["X-Job-Id"])
            until(lambda: server.is_idle, "everything is kept")
        assert server.client.get(f"/jobs/{first}").status_code == 404
        assert all(server.client.get(f"/jobs/{uid}").is_success for uid in rest)
        names = {path.name.partition("-shape")[0] for path in (tmp_path / "files").iterdir()}
        assert not any(first in name for name in names)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_never_served_and_made_anew(tmp_path: Path, damage: str) -> None:
    engine = GatedEngine()
    with serving(engine, settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        made = server.generate(fields(texture=True))
        uid = made.headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is kept")
        path = tmp_path / "files" / f"{uid}-textured.glb"
        if damage == "gone":
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            content[100] ^= 1
            path.write_bytes(content[: -1 if damage == "cut" else None])
        anew = server.generate(fields(texture=True))
        assert anew.headers["X-Job-Id"] != uid
        assert _digest(anew) == _digest(made)
        assert engine.calls.count(("shape", 1)) == 2
        lost = server.client.get(f"/jobs/{uid}/textured.glb")
        assert lost.status_code == 404
        known = server.client.get(f"/jobs/{uid}").json()
        assert known["status"] == "error"
        assert known["error"].startswith("textured.glb ")
        assert list(known["files"]) == ["input.png", "shape.glb"]
        assert server.client.get(f"/jobs/{uid}/shape.glb").is_success


def test_a_folder_that_fails_is_a_note_of_healthcheck_and_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.write_bytes(b"in the way")
    with serving(GatedEngine(), settings(worker={"result_dir": str(folder)})) as server:
        server.wait_until_loaded()
        made = server.generate(fields(texture=True))
        assert made.is_success
        notes = server.client.get("/healthcheck").json()["notes"]
        assert any("worker.result_dir fails" in note for note in notes)
        assert str(tmp_path) not in str(notes)
        uid = made.headers["X-Job-Id"]
        assert server.client.get(f"/jobs/{uid}/textured.glb").content == made.content
        ticket = server.client.post("/send", json=fields(texture=True)).json()["uid"]
        assert server.status(ticket)["status"] == "completed"


def _digest(reply: httpx.Response) -> str:
    return hashlib.sha256(reply.content).hexdigest()
