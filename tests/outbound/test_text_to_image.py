"""What a text-to-image server may reply, well or badly."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.outbound.test_sender import resolver
from tests.support.engines import PATIENCE_S
from tests.support.other_host import Received, other_host, reply
from tests.support.painter import error_reply, image_reply
from tests.support.server import encoded, picture, until
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
    ImageService,
    PictureMaker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

KEY = "sk-a-secret-key"


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


@pytest.mark.parametrize("name", ["b64_json", "url"])
def test_a_large_picture_is_read_whole_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = picture() + bytes(range(256)) * 200
    prefix = "data:image/png;base64," if name == "url" else ""
    text = prefix + encoded(content)
    escaped = json.dumps({"data": [{name: text}], "usage": {}}).replace("/", "\\/")
    monkeypatch.setattr(text_to_image, "MAX_PICTURE_BYTES", len(content))
    assert make(lambda _: [reply(escaped)]) == content
    monkeypatch.setattr(text_to_image, "MAX_PICTURE_BYTES", len(content) - 1)
    with pytest.raises(OutboundError, match=f"over the limit of {len(content) - 1} bytes"):
        make(lambda _: [reply(escaped)])


@pytest.mark.parametrize(
    "item",
    [{"url": "x" * 20_000}, {"b64_json": "!" * 20_000}, {"b64_json": ["QUJD"], "url": "data:,x"}],
    ids=["long URL", "no base64", "list"],
)
def test_a_large_reply_without_a_picture_is_an_error(item: dict[str, Any]) -> None:
    with pytest.raises(OutboundError, match=r"^text: the .* sent a reply without a picture"):
        make(lambda _: [reply(json.dumps({"data": [item]}))])
    with pytest.raises(OutboundError, match=r"too much else$"):
        make(lambda _: [reply(json.dumps({"data": [item], "x": ["y"] * 40_000}))])


def test_a_reply_over_the_limit_is_an_error() -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n"
    with pytest.raises(OutboundError, match="was cut short"):
        make(lambda _: [head.format(46_137_344).encode()])
    with pytest.raises(OutboundError, match="is over the limit of 46137344 bytes"):
        make(lambda _: [head.format(46_137_345).encode()])


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


def test_fields_that_are_set_are_sent() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: Received) -> list[bytes]:
        assert request.line.startswith("POST /v1/images ")
        assert request.headers["content-type"] == "application/json"
        bodies.append(request.json())
        return [image_reply(picture())]

    make(answer, prompt_suffix=", alone", model="m", size="512x512", response_format="url")
    assert bodies == [
        {
            "prompt": "a chair, alone", "n": 1, "model": "m", "size": "512x512",
            "response_format": "url",
        }
    ]  # fmt: skip


def test_what_decides_the_picture_is_in_the_signature_and_nothing_else() -> None:
    service = ImageService("http://a.example/", "suffix", "model", "512x512")
    for name in ("url", "prompt_suffix", "model", "size"):
        assert replace(service, **{name: "other"}).signature != service.signature
    other: Any = {"response_format": "url", "timeout_s": 1.0, "max_requests": 1, "key": KEY}
    assert replace(service, **other).signature == service.signature


@pytest.mark.parametrize(
    ("item", "is_taken"),
    [
        ({"b64_json": "B64", "url": "/other"}, True),
        ({"b64_json": "B64", "url": "data:,other"}, True),
        ({"b64_json": "B64"}, True),
        ({"b64_json": "", "url": "data:;base64,B64"}, True),
        ({"b64_json": 7, "url": "DATA:;base64,B64"}, True),
        ({"b64_json": "", "url": "/files/1.png"}, True),
        ({"b64_json": None, "url": 7}, False),
        ({"b64_json": ["x"], "url": ""}, False),
    ],
    ids=range(8),
)
def test_a_picture_in_a_reply_wins_over_a_url(item: dict[str, Any], *, is_taken: bool) -> None:
    def answer(request: Received) -> list[bytes]:
        if request.target == "/files/1.png":
            return [reply(picture())]
        text = json.dumps({"data": [item, {"url": "/second"}]})
        return [reply(text.replace("B64", encoded(picture())))]

    if is_taken:
        assert make(answer) == picture()
    else:
        with pytest.raises(OutboundError, match="sent a reply without a picture"):
            make(answer)


@pytest.mark.parametrize("content", [b"\x89PNG", b"GIF7", b"hello", b"x\xff\xd8\xff"])
def test_what_begins_like_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(OutboundError, match="sent something else than a picture"):
        make(lambda _: [image_reply(content)])


@pytest.mark.parametrize(
    ("answered", "says"),
    [
        (reply(status=404), r"could not be fetched \(status 404\)"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 33554433\r\n\r\n",
            "over the limit of 33554432 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n", "was cut short"),
    ],
    ids=["missing", "large", "cut"],
)
def test_a_picture_that_cannot_be_had_from_the_server_itself_is_an_error(
    answered: bytes, says: str
) -> None:
    def answer(request: Received) -> list[bytes]:
        if request.line.startswith("GET"):
            return [answered]
        return [reply(json.dumps({"data": [{"url": "/1.png"}]}))]

    with pytest.raises(OutboundError, match=says):
        make(answer)


def test_an_error_is_told_up_to_a_length() -> None:
    for length, shown in ((300, "x" * 300), (301, "x" * 300 + "…")):
        with pytest.raises(OutboundError) as caught:
            make(lambda _, length=length: [error_reply(500, "x" * length)])
        assert str(caught.value).endswith(f"failed (status 500): {shown}")


def test_of_an_error_64_kib_are_read() -> None:
    def failed(size: int) -> str:
        body = json.dumps({"error": {"message": "why"}}).ljust(size)
        with pytest.raises(OutboundError) as caught:
            make(lambda _: [reply(body + "!", 500)])
        return str(caught.value)

    assert failed(65_536).endswith("(status 500): why")
    assert failed(65_535).endswith("(status 500)")


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_has_too_much_to_do_is_asked_again_in_half_a_minute(status: int) -> None:
    with pytest.raises(UnavailableError) as caught:
        make(lambda _: [error_reply(status, "wait")])
    assert caught.value.retry_after_s == 30


@pytest.mark.parametrize("body", ['{"error": 7}', "[1]", '"text"', '{"error": {"message": 7}}'])
def test_an_error_in_an_unknown_form_is_told_by_its_status_alone(body: str) -> None:
    with pytest.raises(OutboundError, match=r"failed \(status 500\)$"):
        make(lambda _: [reply(body, 500)])


def test_the_type_of_an_error_may_say_that_the_text_is_refused() -> None:
    body = {"error": {"message": "no", "code": 7, "type": "content_filter"}}
    with pytest.raises(InputError, match="refuses it: no"):
        make(lambda _: [reply(json.dumps(body), 400)])


def test_the_operators_own_server_may_have_any_address() -> None:
    with other_host(lambda _: [image_reply(picture())]) as host:
        service = ImageService(host.url("/v1", host="painter.lan"), timeout_s=5)
        maker = PictureMaker(service, HostList(), resolver(["127.0.0.1"]))
        assert asyncio.run(maker.make("a chair", 7, "key")) == picture()


@pytest.mark.parametrize("limit", [1, 2])
def test_a_number_of_pictures_is_made_at_one_time_and_the_others_wait(limit: int) -> None:
    may_reply = threading.Event()

    def wait(_: Received) -> Generator[bytes]:
        may_reply.wait(PATIENCE_S)
        yield image_reply(picture())

    async def make_all(maker: PictureMaker) -> list[bytes]:
        making = asyncio.gather(*(maker.make("a", 7, str(i)) for i in range(limit + 1)))
        await asyncio.to_thread(until, lambda: host.received.qsize() >= limit, "asked")
        for _ in range(20):
            await asyncio.sleep(0)
        assert host.connections == limit
        may_reply.set()
        return await making

    with other_host(wait) as host:
        maker = PictureMaker(ImageService(host.url("/v1"), max_requests=limit), HostList())
        assert asyncio.run(make_all(maker)) == [picture()] * (limit + 1)


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
        host._answer = lambda _: [b"" for _ in [host.is_over.wait(PATIENCE_S)]]
        maker = PictureMaker(ImageService(host.url("/v1"), timeout_s=0.2), HostList())
        with pytest.raises(OutboundTimeoutError, match=r"did not reply within 0\.2 s"):
            asyncio.run(maker.make("a chair", 7, "key"))


def test_nothing_that_has_a_key_shows_it() -> None:
    assert KEY not in repr(ImageService("http://a.example", key=KEY))
    assert base64.b64encode(KEY.encode()).decode() not in repr(ImageService("http://a", key=KEY))
