"""`text` alone: another server makes the picture, over HTTP, well or badly."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.hunyuan import finished, send, status_text
from tests.support.other_host import Received, other_host, reply
from tests.support.painter import Painter, image_reply
from tests.support.server import ON_RAY, SMALL, Server, encoded, fields, picture, serving, until
from tests.support.server import settings as configured
from trellis2_server.errors import (
    InputError,
    OutboundError,
    OutboundTimeoutError,
    ServerError,
    UnavailableError,
)
from trellis2_server.outbound import text_to_image
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.text_to_image import (
    MAX_REMEMBERED,
    MAX_REPLY_BYTES,
    ImageService,
    PictureMaker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

KEY = "sk-a-secret-key"


def error_reply(status: int, message: str, code: str | None = None, **more: str) -> bytes:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code, **more}}
    return reply(json.dumps(body), status)


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


# ---- what the other server may reply -----------------------------------------------------


def make(answer: Callable[[Received], list[bytes]], **service: Any) -> bytes:
    with other_host(answer) as host:
        maker = PictureMaker(
            ImageService(host.url("/v1/images"), **{"timeout_s": 5.0, "key": KEY, **service}),
            HostList(),
        )
        return asyncio.run(maker.make("a chair", 7, "key"))


@pytest.mark.parametrize("form", ["b64_json", "data URI", "path", "URL"])
def test_a_picture_may_come_in_each_form(form: str) -> None:
    seen: list[str] = []

    def answer(request: Received) -> list[bytes]:
        if request.line.startswith("GET"):
            seen.append(request.target)
            assert request.headers["authorization"] == f"Bearer {KEY}"
            return [reply(picture())]
        data = {
            "b64_json": {"b64_json": encoded(picture()), "url": None},
            "data URI": {"url": f"data:image/png;base64,{encoded(picture())}"},
            "path": {"url": "/files/1.png"},
            "URL": {"url": f"http://{request.headers['host']}/files/1.png"},
        }[form]
        return [reply(json.dumps({"data": [data]}))]

    assert make(answer) == picture()
    assert seen == ([] if form in {"b64_json", "data URI"} else ["/files/1.png"])


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/x", "http://127.0.0.1:1/x", "file:///etc/x", "http://[",
     "https://elsewhere.example/x", "http://2130706433/"],
)  # fmt: skip
def test_a_picture_elsewhere_is_not_fetched(url: str) -> None:
    with pytest.raises(OutboundError, match="the picture that the text-to-image server made could"):
        make(lambda _: [reply(json.dumps({"data": [{"url": url}]}))])


def test_a_picture_on_a_listed_host_is_fetched_without_the_key() -> None:
    with other_host(lambda _: [reply(picture())]) as files:
        body = json.dumps({"data": [{"url": files.url("/1.png")}]})
        with other_host(lambda _: [reply(body)]) as host:
            service = ImageService(host.url("/v1/images"), timeout_s=5, key=KEY)
            maker = PictureMaker(service, HostList([files.entry]))
            assert asyncio.run(maker.make("a chair", 7, "key")) == picture()
        assert "authorization" not in files.next().headers


@pytest.mark.parametrize(
    "body",
    ["", "[]", "null", "{}", '{"data": []}', '{"data": {}}', '{"data": [1]}', '{"data": [{}]}',
     '{"data": [{"b64_json": "!!"}]}', '{"data": [{"b64_json": 5}]}', '{"data": [{"url": ["x"]}]}',
     '{"data": [{"b64_json": "aGVsbG8="}]}', "[" * 100_000, '{"data": [{"url": ""}]}', "\xff"],
    ids=range(15),
)  # fmt: skip
def test_a_reply_without_a_picture_is_an_error(body: str) -> None:
    with pytest.raises(OutboundError, match=r"^text: the text-to-image server sent (a|some)"):
        make(lambda _: [reply(body.encode("latin-1"))])


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (error_reply(400, "safety", "moderation_blocked"), InputError, "refuses it: safety"),
        (error_reply(400, "no such model"), OutboundError, "failed (status 400): no such model"),
        (error_reply(401, f"Incorrect key {KEY}"), OutboundError, "does not accept this server"),
        (error_reply(403, "no"), OutboundError, "does not accept this server's key (status 403)"),
        (error_reply(500, f"key={KEY} failed"), OutboundError, "failed (status 500)"),
        (error_reply(429, "wait"), UnavailableError, "has too much to do (status 429): wait"),
        (reply('{"detail": "x"}', 503), UnavailableError, "has too much to do (status 503): x"),
        (reply('{"error": "plain"}', 500), OutboundError, "failed (status 500): plain"),
        (reply("<html>", 502), OutboundError, "failed (status 502)"),
        (reply(status=302, Location="http://127.0.0.1:1/"), OutboundError, "failed (status 302)"),
        (reply(status=204), OutboundError, "failed (status 204)"),
        (error_reply(500, "a\r\nb\x1b[31m\u202e" + "x" * 999), OutboundError, "a b[31mx"),
    ],
    ids=range(12),
)
def test_an_error_of_the_other_server_is_told_in_one_line_without_the_key(
    answer: bytes, error: type[ServerError], text: str
) -> None:
    with pytest.raises(error) as caught:
        make(lambda _: [answer])
    message = str(caught.value)
    assert message.startswith("text: the text-to-image server ")
    assert text in message
    assert KEY not in message
    assert len(message) < 400
    assert message.isprintable()


def test_a_reply_over_the_limit_is_an_error() -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_REPLY_BYTES + 1}\r\n\r\n".encode()
    with pytest.raises(OutboundError, match="is over the limit of 46137344 bytes"):
        make(lambda _: [head])


def test_a_server_that_cannot_be_reached_is_an_error() -> None:
    maker = PictureMaker(ImageService("http://127.0.0.1:9/v1", timeout_s=5), HostList())
    with pytest.raises(OutboundError, match="text: the text-to-image server cannot be reached"):
        asyncio.run(maker.make("a chair", 7, "key"))


def test_fields_that_are_not_set_are_not_sent_and_the_seed_where_it_is() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: Received) -> list[bytes]:
        bodies.append(request.json())
        assert "authorization" not in request.headers
        return [image_reply(picture())]

    make(answer, key=None)
    make(answer, key=None, sends_seed=True)
    assert bodies == [{"prompt": "a chair", "n": 1}, {"prompt": "a chair", "n": 1, "seed": 7}]


def test_requests_for_one_picture_at_the_same_time_share_it() -> None:
    async def both(maker: PictureMaker) -> list[bytes]:
        return await asyncio.gather(*(maker.make("a chair", 7, "key") for _ in range(3)))

    with other_host(lambda _: [image_reply(picture())]) as host:
        maker = PictureMaker(ImageService(host.url("/v1")), HostList())
        assert asyncio.run(both(maker)) == [picture()] * 3
        assert host.connections == 1


def test_a_number_of_pictures_is_remembered_the_latest_ones() -> None:
    async def many(maker: PictureMaker) -> None:
        for number in (*range(MAX_REMEMBERED), 0, MAX_REMEMBERED, 0, 1):
            await maker.make("a chair", 7, str(number))

    with other_host(lambda _: [image_reply(picture())]) as host:
        asyncio.run(many(PictureMaker(ImageService(host.url("/v1")), HostList())))
        assert host.connections == MAX_REMEMBERED + 2


def test_remembered_pictures_have_a_size_in_all_the_latest_one_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def make(maker: PictureMaker, *keys: str) -> None:
        for key in keys:
            await maker.make("a chair", 7, key)

    with other_host(lambda _: [image_reply(picture())]) as host:
        maker = PictureMaker(ImageService(host.url("/v1")), HostList())
        monkeypatch.setattr(text_to_image, "MAX_REMEMBERED_BYTES", 2 * len(picture()))
        asyncio.run(make(maker, "a", "b", "a", "b"))
        assert host.connections == 2
        maker = PictureMaker(ImageService(host.url("/v1")), HostList())
        monkeypatch.setattr(text_to_image, "MAX_REMEMBERED_BYTES", 2 * len(picture()) - 1)
        asyncio.run(make(maker, "a", "b", "b", "a"))
        assert host.connections == 5


def test_a_timeout_is_told_apart() -> None:
    with other_host(lambda _: []) as host:
        host._answer = lambda _: [b"" for _ in [host.is_over.wait(30)]]
        maker = PictureMaker(ImageService(host.url("/v1"), timeout_s=0.2), HostList())
        with pytest.raises(OutboundTimeoutError, match=r"did not reply within 0\.2 s"):
            asyncio.run(maker.make("a chair", 7, "key"))


def test_nothing_that_has_a_key_shows_it() -> None:
    assert KEY not in repr(ImageService("http://a.example", key=KEY))
    assert base64.b64encode(KEY.encode()).decode() not in repr(ImageService("http://a", key=KEY))
