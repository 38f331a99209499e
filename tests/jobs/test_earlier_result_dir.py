"""A folder of results that version 0.1.0 wrote is served as it was then.

`tests/data/result_dir` was written by `api_server_trellis2.py` with `MODEL` below, 1000 faces
and textures of 256 px: a textured model, an untextured one, a given mesh, a job that failed,
and two more names of `/send`. Its uids, MD5s and times are written down here; the folder is
never made again: what it is for is that later versions read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trimesh

from tests.support.server import Server, encoded, serving, settings
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx

WRITTEN = Path(__file__).resolve().parents[1] / "data" / "result_dir"
#: Unix seconds, of the last name that was written.
WRITTEN_AT = 1795685844.661237
MODEL = {"engine": "preview", "background": "grabcut"}

TEXTURED = "11cce911-1257-4997-bfa6-b7ba0d59aa2b"
SHAPE = "0049410a-1492-4df9-947c-8bb411dc0490"
GIVEN = "a9e4685b-3fc7-4144-9f3e-00d27513e4e6"
FAILED = "c6ef092c-f37c-4bb3-bd1c-c6f17a103192"
SENT = "f143139e-cc69-43f7-968f-2517ef370877"  # for TEXTURED as OBJ
SENT_FAILED = "05e7b312-1bf0-446c-81a6-2abe82bcce41"  # for FAILED
#: The latest asked for first.
UIDS = [FAILED, TEXTURED, GIVEN, SHAPE]
HASHES = {
    TEXTURED: "f9bb06e6c044f817c35f65222a01abc2",
    SHAPE: "f6c0abdb0919439a78261950fc0f705b",
    GIVEN: "375a7c9bf4b03d49eca60a99985891ef",
}
MD5S = {
    (TEXTURED, "input.png"): "d5e927a768738334e56ef62ad95457f8",
    (TEXTURED, "shape.glb"): "e4ded3a28308915f28aa4ccea8c9384f",
    (TEXTURED, "textured.glb"): "ae305fb2a772050ba91d1c4354710180",
    (SHAPE, "input.png"): "a22cc34601c7c26b40fa2ef8ed0def09",
    (SHAPE, "shape.glb"): "1499b0b118aa2691e9be290374d3373c",
    (GIVEN, "input.png"): "4ac4b41e5db75a0fab17d2f6a8b7df8c",
    (GIVEN, "shape.glb"): "f23f537f1becb7b60726f27d48647ce1",
    (GIVEN, "textured.glb"): "1961432ba0812532eeb6eadd41c83dfe",
}
WHY_FAILED = "image: not a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file, or a damaged one"
PARAMETERS = {
    "pipeline_type": "1024_cascade",
    "max_num_tokens": 49152,
    "decimation_target": 1000,
    "texture_size": 256,
    "alpha_mode": "auto",
    "texture_format": "auto",
    "remesh": False,
    "compress": "none",
    "ss_guidance_scale": 7.5,
    "ss_sampling_steps": 12,
    "shape_guidance_scale": 7.5,
    "shape_sampling_steps": 12,
    "tex_guidance_scale": 1.0,
    "tex_sampling_steps": 12,
}


def as_of_now(folder: Path) -> None:
    """Move the folder's times to the present, all by as much.

    Age is by the wall clock, and a job is kept for a year at most: without this the folder
    would be empty a year after it was written.
    """
    later_s = time.time() - WRITTEN_AT
    with contextlib.closing(sqlite3.connect(folder / "results.sqlite")) as database:
        for uid, text in database.execute("SELECT uid, says FROM jobs").fetchall():
            says = json.loads(text)
            says |= {key: says[key] + later_s for key in ("created", "finished")}
            database.execute("UPDATE jobs SET says = ? WHERE uid = ?", (json.dumps(says), uid))
        database.execute(
            "UPDATE names SET says = CAST(says AS REAL) + ? WHERE kind = 'asked'", (later_s,)
        )
        database.commit()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A server on a copy of the folder."""
    folder = tmp_path_factory.mktemp("before") / "results"
    shutil.copytree(WRITTEN, folder)
    as_of_now(folder)
    configured = settings(
        model=MODEL,
        export={"glb_decimation_target": 1000, "glb_texture_size": 256},
        worker={"result_dir": str(folder), "job_max_age_seconds": 31_536_000},
    )
    with pytest.MonkeyPatch.context() as patch:
        # Jobs of another version match no request; this is about whether theirs still would.
        patch.setattr("trellis2_server.jobs.manager.__version__", "0.1.0")
        with serving(PreviewEngine(), configured) as server:
            server.wait_until_loaded()
            yield server


def md5(reply: httpx.Response) -> str:
    content = reply.raise_for_status().content
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def triangles(reply: httpx.Response, file_type: str) -> Any:
    """Return the corners of a model's faces, in their order, float64 [F, 3, 3]."""
    file = io.BytesIO(reply.raise_for_status().content)
    return trimesh.load(file, file_type, force="mesh", process=False).triangles


def job(server: Server, name: str) -> dict[str, Any]:
    return server.client.get(f"/jobs/{name}").raise_for_status().json()


def test_its_jobs_are_listed_the_latest_first(before: Server) -> None:
    listed = before.client.get("/jobs").json()["jobs"]
    assert [each["uid"] for each in listed] == UIDS
    assert listed == [job(before, uid) for uid in UIDS]


def test_its_files_are_those_that_were_written(before: Server) -> None:
    for (uid, name), digest in MD5S.items():
        reply = before.client.get(f"/jobs/{uid}/{name}")
        assert md5(reply) == digest, name
        assert reply.headers["ETag"] == f'"{uid}-{name}"'
        assert job(before, uid)["files"][name]["bytes"] == len(reply.content)
    named = {(uid, name) for uid in UIDS for name in job(before, uid)["files"]}
    assert named == set(MD5S)
    stored, obj = (
        triangles(before.client.get(f"/jobs/{SHAPE}/{name}"), name[-3:])
        for name in ("shape.glb", "shape.obj")
    )
    assert obj == pytest.approx(stored, abs=1e-6)


def test_its_jobs_are_as_they_ended(before: Server) -> None:
    expected = {
        TEXTURED: ("completed", 11, "alpha", 256, True, True, True),
        SHAPE: ("completed", 12, "alpha", 256, True, False, True),
        GIVEN: ("completed", 13, "alpha", None, True, True, True),
        FAILED: ("error", 42, None, None, False, False, False),
    }
    for uid, values in expected.items():
        says = job(before, uid)
        assert values == (
            says["status"], says["seed"], says.get("background"), says.get("resolution"),
            says["shape_ready"], says["texture_ready"], says["can_export"],
        )  # fmt: skip
        assert says["engine"] == "preview"
        assert says.get("image_hash") == HASHES.get(uid)
    assert job(before, FAILED)["error"] == WHY_FAILED
    textured = job(before, TEXTURED)
    assert textured["finished_at"] - textured["created_at"] == pytest.approx(0.0717, abs=0.001)
    assert textured["timings"] == {
        "cutout": 0.012, "shape": 0.002, "shape_export": 0.003, "texture": 0.008,
        "texture_export": 0.044,
    }  # fmt: skip


def test_its_parameters_are_those_that_were_asked_for(before: Server) -> None:
    more = {
        TEXTURED: {"seed": 11, "alpha_mode": "BLEND"},
        SHAPE: {"seed": 12},
        GIVEN: {"seed": 13, "geo_rotation": 90.0},
        FAILED: {"seed": 42},
    }
    for uid, own in more.items():
        assert job(before, uid)["parameters"] == {**PARAMETERS, **own}


def test_its_names_of_send_and_hashes_name_the_same_jobs(before: Server) -> None:
    assert job(before, SENT) == job(before, TEXTURED)
    assert job(before, SENT_FAILED) == job(before, FAILED)
    for uid, image_hash in HASHES.items():
        assert job(before, image_hash)["uid"] == uid
    obj = before.client.get(f"/jobs/{TEXTURED}/textured.obj").content
    assert before.status(SENT) == {"status": "completed", "model_base64": encoded(obj)}
    assert before.status(SENT_FAILED) == {"status": "error", "message": WHY_FAILED}


def test_its_geometry_gives_the_same_files_again(before: Server) -> None:
    for uid in (TEXTURED, SHAPE, GIVEN):
        reply = before.client.post(f"/jobs/{uid}/export", json={"texture": False})
        assert md5(reply) == MD5S[uid, "shape.glb"]
    for uid in (TEXTURED, GIVEN):
        # Without the texture's pixels, which other versions of a codec write differently.
        reply = before.client.post(f"/jobs/{uid}/export", json={"texture": True, "type": "stl"})
        assert reply.content == before.client.get(f"/jobs/{uid}/textured.stl").content
    stl = {"texture": False, "type": "stl"}
    reply = before.client.post(f"/jobs/{TEXTURED}/export", json=stl)
    # Z up, 100 mm and on the bed, which 0.1.0 did not do.
    placed = triangles(reply, "stl")
    expected = triangles(before.client.get(f"/jobs/{TEXTURED}/shape.glb"), "glb")
    expected = expected[..., [0, 2, 1]] * [1, -1, 1]
    low, high = expected.min((0, 1)), expected.max((0, 1))
    expected -= [*(low + high)[:2] / 2, low[2]]
    assert placed == pytest.approx(expected * (100 / (high - low).max()), abs=1e-4)


def test_a_request_of_then_gets_the_job_of_then(before: Server) -> None:
    picture = before.client.get(f"/jobs/{SHAPE}/input.png").content
    body = {"image": encoded(picture), "seed": 12}
    made = before.client.post("/generate", json={**body, "texture": False})
    assert made.headers["X-Job-Id"] == SHAPE
    assert md5(made) == MD5S[SHAPE, "shape.glb"]
    mesh = encoded(before.client.get(f"/jobs/{TEXTURED}/shape.glb").content)
    textured = before.client.post("/generate_texture", json={"mesh": mesh})
    assert textured.headers["X-Job-Id"] == TEXTURED
    assert md5(textured) == MD5S[TEXTURED, "textured.glb"]
