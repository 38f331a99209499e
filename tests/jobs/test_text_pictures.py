"""`text` alone: another server makes the picture, over HTTP, well or badly."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.hunyuan import finished, send, status_text
from tests.support.other_host import reply
from tests.support.painter import Painter, error_reply, image_reply
from tests.support.server import ON_RAY, SMALL, Server, encoded, fields, serving, until
from tests.support.server import settings as configured

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

KEY = "sk-a-secret-key"


@pytest.fixture
def painter() -> Generator[Painter]:
    painter = Painter()
    yield painter
    painter.close()


@contextmanager
def painting_with(painter: Painter) -> Generator[Server]:
    service = {"url": painter.url, "api_key": KEY, "model": "m", "prompt_suffix": ", on white"}
    with serving(GatedEngine(), configured(text_to_image=service)) as server:
        server.wait_until_loaded()
        yield server


@pytest.fixture
def painting(painter: Painter) -> Generator[Server]:
    """A server that has pictures made."""
    with painting_with(painter) as server:
        yield server


@pytest.fixture(scope="module")
def failing() -> Generator[tuple[Server, Painter]]:
    """A server whose jobs fail, for many tests."""
    painter = Painter()
    with painting_with(painter) as server:
        yield server, painter
    painter.close()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "seed": 1, **SMALL, **more}


# ---- a server with it --------------------------------------------------------------------


def test_a_text_becomes_a_picture_that_becomes_a_model(painting: Server, painter: Painter) -> None:
    model = painting.generate(said(" a red chair\n"))
    assert model.status_code == 200, model.text
    assert painter.prompts == [
        {
            "prompt": "a red chair, on white",
            "n": 1,
            "model": "m",
            "size": "1024x1024",
            "response_format": "b64_json",
        }
    ]
    asked = painter.host.next()
    assert asked.line == "POST /v1/images/generations HTTP/1.1"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    job = painting.client.get(f"/jobs/{model.headers['x-job-id']}").json()
    assert job["timings"].keys() >= {"picture", "cutout", "shape"}
    # The picture that was made is the job's input, and the same job as if it had been sent.
    shown = painting.client.get(f"/jobs/{job['uid']}/input.png")
    assert shown.status_code == 200
    made = sum(b"a red chair, on white") % 256
    assert painting.generate(fields(made)).headers["x-job-id"] == job["uid"]


def test_the_same_text_and_seed_is_the_same_job_and_no_second_picture(
    painting: Server, painter: Painter
) -> None:
    first, again = painting.generate(said("a cup")), painting.generate(said(" a cup "))
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert again.content == first.content
    smaller = painting.generate(said("a cup", decimation_target=1500))
    assert smaller.headers["x-job-id"] != first.headers["x-job-id"]
    assert smaller.headers["x-image-hash"] == first.headers["x-image-hash"]
    assert len(painter.prompts) == 1
    painting.generate(said("a cup", seed=2))
    painting.generate(said("a bowl"))
    painting.generate(said("a cup", seed=-1))
    painting.generate(said("a cup", seed=-1))
    assert len(painter.prompts) == 5


def test_sending_a_text_does_not_wait_for_its_picture(painting: Server, painter: Painter) -> None:
    painter.gate.clear()
    uid = send(painting, said("a lamp", texture=True))
    assert status_text(painting, uid) == '{"status":"processing"}'
    job = painting.client.get(f"/jobs/{uid}").json()
    assert job["stage"] == "picture"
    assert job["status"] == "shape_processing"
    assert send(painting, said("a lamp", texture=True)) == uid
    painter.gate.set()
    assert finished(painting, uid)[:4] == b"glTF"
    assert len(painter.prompts) == 1


def test_a_job_can_be_cancelled_while_its_picture_is_made(
    painting: Server, painter: Painter
) -> None:
    painter.gate.clear()
    uid = send(painting, said("a clock"))
    painter.host.next()
    assert painting.client.delete(f"/jobs/{uid}").status_code == 204
    assert status_text(painting, uid) == '{"status":"error","message":"cancelled"}'
    painter.gate.set()
    assert painting.generate(said("a clock")).status_code == 200
    assert len(painter.prompts) == 2


def test_waiting_for_pictures_holds_up_no_other_job(painting: Server, painter: Painter) -> None:
    painter.gate.clear()
    uids = [send(painting, said(f"object {number}")) for number in range(6)]
    assert painting.generate(fields(3)).status_code == 200
    assert len(painter.prompts) == 2  # `text_to_image.max_requests`
    painter.gate.set()
    for uid in uids:
        finished(painting, uid)


def test_a_text_and_a_mesh_texture_the_mesh(painting: Server, painter: Painter) -> None:
    shape = painting.generate(fields(9)).content
    body = said("red paint", mesh=encoded(shape), texture=True, geo_rotation=10)
    textured = painting.generate(body)
    assert textured.status_code == 200, textured.text
    assert textured.content[:4] == b"glTF"
    assert len(painter.prompts) == 1


def test_a_picture_wins_over_a_text(painting: Server, painter: Painter) -> None:
    assert painting.generate(fields(text="a chair")).status_code == 200
    assert painter.prompts == []


@pytest.mark.parametrize("text", ["", "  ", 5, ["a chair"], "x" * 4001, {"a": 1}])
@pytest.mark.parametrize("path", ["/generate", "/send"])
def test_what_is_no_text_is_refused(
    failing: tuple[Server, Painter], path: str, text: object
) -> None:
    response = failing[0].client.post(path, json={"text": text})
    assert response.status_code == 400
    assert response.json()["text"].startswith("text: ")


def test_any_characters_are_sent_as_they_are(painting: Server, painter: Painter) -> None:
    text = 'ein "Stuhl" \\ \u6905\u5b50 \U0001f4ba\nzweite Zeile \ud800'
    assert painting.client.post("/generate", content=json.dumps(said(text))).status_code == 200
    assert painter.prompts[0]["prompt"] == f"{text[:-1]}?, on white"  # half a character


def test_an_error_of_the_server_is_the_error_of_the_job(painting: Server, painter: Painter) -> None:
    painter.fails = lambda: error_reply(500, "out of paint")
    response = painting.generate(said("a chair"))
    assert response.status_code == 502
    text = "text: the text-to-image server failed (status 500): out of paint"
    assert response.json() == {"text": text, "error_code": 1}
    uid = send(painting, said("a chair"))
    until(lambda: "error" in status_text(painting, uid), "error")
    assert json.loads(status_text(painting, uid)) == {"status": "error", "message": text}
    painter.fails = None
    assert painting.generate(said("a chair")).status_code == 200


@pytest.mark.parametrize(
    ("fails", "status"),
    [
        (lambda: error_reply(400, "not allowed", "content_policy_violation"), 400),
        (lambda: error_reply(429, "slow down"), 503),
        (lambda: reply("<html>"), 502),
        (lambda: image_reply(b"GIF8 but no picture"), 400),
    ],
    ids=["refused", "busy", "no JSON", "no picture"],
)
def test_each_failure_has_its_status(
    failing: tuple[Server, Painter], fails: Callable[[], bytes], status: int
) -> None:
    server, painter = failing
    painter.fails = fails
    response = server.generate(said("a chair"))
    assert response.status_code == status, response.text
    assert ("retry-after" in response.headers) == (status == 503)


def test_a_server_that_does_not_answer_is_a_timeout(painter: Painter) -> None:
    painter.gate.clear()
    service = {"url": painter.url, "timeout_seconds": 0.3}
    with serving(GatedEngine(), configured(text_to_image=service)) as server:
        server.wait_until_loaded()
        response = server.generate(said("a chair"))
    assert response.status_code == 504
    assert response.json() == {
        "text": "text: the text-to-image server did not reply within 0.3 s",
        "error_code": 2,
    }


def test_a_server_that_stops_gives_up_pictures_that_are_made(painter: Painter) -> None:
    painter.gate.clear()
    with serving(GatedEngine(), configured(text_to_image={"url": painter.url})) as server:
        server.wait_until_loaded()
        send(server, said("a chair"))
        painter.host.next()


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
def test_neither_key_nor_text_is_logged(
    painting: Server, painter: Painter, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        painting.generate(said("a very private thing"))
        painter.fails = lambda: error_reply(401, f"wrong key {KEY}")
        failed = painting.generate(said("another private thing"))
    assert "does not accept this server's key (status 401)" in failed.text
    assert KEY not in failed.text + caplog.text
    assert "private" not in caplog.text


def test_without_a_server_a_text_is_refused_and_the_setting_is_named(server: Server) -> None:
    for path in ("/generate", "/send", "/api/generate"):
        response = server.client.post(path, json=said("a chair"))
        assert response.status_code == 400
        assert response.json()["text"].startswith("text: there is no text-to-image model here; ")
        assert "text_to_image.url" in response.json()["text"]
