"""Jobs with several pictures of one object, over HTTP."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.server import SMALL, encoded, picture, serving, settings, until
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Server

A, B, C = (encoded(picture(shade)) for shade in (301, 302, 303))


def body(*pictures: str, **more: Any) -> dict[str, Any]:
    return {"images": list(pictures), "seed": 1, **SMALL, **more}


def png(server: Server, url: str) -> np.ndarray[Any, Any]:
    reply = server.client.get(url)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(reply.content)))


def test_a_job_has_its_pictures_each_and_as_a_sheet(preview: Server) -> None:
    reply = preview.generate(body(A, B, C, texture=False))
    uid = reply.headers["X-Job-Id"]
    until(lambda: preview.is_idle, "everything is stored")
    job = preview.client.get(f"/jobs/{uid}").json()
    assert list(job["files"])[:4] == ["input.png", "input-1.png", "input-2.png", "input-3.png"]
    shown = png(preview, job["files"]["input.png"]["url"])
    singles = [png(preview, job["files"][f"input-{at}.png"]["url"]) for at in (1, 2, 3)]
    assert np.array_equal(shown, np.concatenate(singles, axis=1))
    assert [int(single[len(single) // 2, len(single) // 2, 0]) for single in singles] == [
        301 % 256, 302 % 256, 303 % 256,
    ]  # fmt: skip
    missing = preview.client.get(f"/jobs/{uid}/input-4.png")
    assert (missing.status_code, missing.json()["text"]) == (404, "this job has no input-4.png")
    (warning,) = job["warnings"]
    assert warning.startswith("images: the preview engine uses the first of the 3 pictures only")


def test_the_same_pictures_in_the_same_order_are_one_job(preview: Server) -> None:
    first = preview.generate(body(A, B))
    same = preview.generate(body(A, f"data:image/png;base64,{B}"))
    parts = [("image", ("a.png", picture(301))), ("image", ("b.png", picture(302)))]
    sent = {"seed": "1", **{name: str(value) for name, value in SMALL.items()}}
    form = preview.client.post("/generate", files=parts, data=sent)
    webp = encoded(picture(302, file_format="WEBP"))  # equal after the cut-out
    jobs = {reply.headers["X-Job-Id"] for reply in (first, same, form)}
    assert len(jobs) == 1
    assert preview.generate(body(A, webp)).content == first.content
    others = [
        preview.generate(each).headers["X-Job-Id"]
        for each in (
            body(B, A),
            body(A),
            body(A, B, multi_image="mean"),
            body(A, B, seed=2),
            {**body(), "images": None, "image_front": A, "image_back": B},
        )
    ]
    assert len({*others, *jobs}) == 6
    by_pictures = preview.texture(images=[A, B], seed=1, **SMALL)
    assert by_pictures.status_code == 200


def test_one_picture_is_one_job_by_every_name_and_in_every_mode(preview: Server) -> None:
    plain = preview.generate({"image": A, "seed": 1, **SMALL})
    for more in (
        {"images": [A]},
        {"image_front": A},
        {"image": A, "multi_image": "concat"},
        {"images": [A], "multi_image": "stochastic"},
    ):
        reply = preview.generate({"seed": 1, **SMALL, **more})
        assert reply.headers["X-Job-Id"] == plain.headers["X-Job-Id"]
    job = preview.client.get(f"/jobs/{plain.headers['X-Job-Id']}").json()
    assert "input-1.png" not in job["files"]
    assert "multi_image" not in job["parameters"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"images": []}, "image: missing"),
        ({"images": [A] * 9}, "images: 9 pictures, and at most 8 are allowed"),
        ({"images": [A, B], "multi_image": "both"}, "multi_image: must be one of auto, stoch"),
        ({"images": [A] * 5, "multi_image": "concat"}, "multi_image: concat takes at most 4 pict"),
        ({"images": [A, encoded(b"no picture")]}, "images, picture 2: not a PNG"),
        ({"image_back": A}, "image_back: needs image_front"),
    ],
)  # fmt: skip
def test_wrong_input_is_a_400_that_names_the_field(
    preview: Server, fields: dict[str, Any], text: str
) -> None:
    reply = preview.generate({"seed": 1, **SMALL, **fields})
    assert (reply.status_code, reply.json()["error_code"]) == (400, 1)
    assert reply.json()["text"].startswith(text)


def test_four_pictures_may_be_concatenated(preview: Server) -> None:
    reply = preview.generate(body(A, A, A, A, multi_image="concat"))
    assert reply.status_code == 200
    job = preview.client.get(f"/jobs/{reply.headers['X-Job-Id']}").json()
    assert job["parameters"]["multi_image"] == "concat"


def test_the_pictures_of_a_stored_job_are_there_after_a_restart(tmp_path: Path) -> None:
    configured = settings(worker={"result_dir": str(tmp_path)}, model={"engine": "preview"})
    with serving(PreviewEngine(), configured) as server:
        server.wait_until_loaded()
        uid = server.generate(body(A, B, multi_image="mean", texture=False)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        names = {name: png(server, f"/jobs/{uid}/{name}") for name in ("input.png", "input-2.png")}
    with serving(PreviewEngine(), configured) as server:
        server.wait_until_loaded()
        job = server.client.get(f"/jobs/{uid}").json()
        assert job["parameters"]["multi_image"] == "mean"
        assert {"input.png", "input-1.png", "input-2.png"} < set(job["files"])
        for name, content in names.items():
            assert np.array_equal(png(server, f"/jobs/{uid}/{name}"), content)
        again = server.generate(body(A, B, multi_image="mean", texture=False))
        assert again.headers["X-Job-Id"] == uid
