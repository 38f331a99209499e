"""`image_url`, `text` and `webhook` in requests."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.other_host import OtherHost, other_host, reply
from tests.support.server import (
    ON_RAY,
    SMALL,
    Server,
    encoded,
    fields,
    picture,
    serving,
    settings,
    until,
)
from trellis2_server.api.outbound_fields import MAX_TEXT_LENGTH, read_text, read_webhook
from trellis2_server.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from tests.support.other_host import Received

#: Where the host of pictures sends a client: path → header `Location`.
REDIRECTS: dict[str, str] = {}


def answer(request: Received) -> list[bytes]:
    if request.target in REDIRECTS:
        return [reply(status=302, Location=REDIRECTS[request.target])]
    if request.target.startswith("/disc"):
        return [reply(picture(), Content_Type="image/png")]
    if request.target == "/empty":
        return [reply()]
    if request.target == "/text":
        return [reply("no picture")]
    return [reply(status=404)]


@pytest.fixture(scope="module")
def host() -> Generator[OtherHost]:
    with other_host(answer) as running:
        yield running


@pytest.fixture(scope="module")
def fetching(host: OtherHost) -> Generator[Server]:
    """A server that may fetch pictures from the host."""
    configured = settings(
        server={"image_hosts": [host.entry], "max_body_bytes": 1_000_000},
    )
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


def by_url(url: object, **more: Any) -> dict[str, Any]:
    return {"image_url": url, "seed": 1, **SMALL, **more}


# ---- image_url ---------------------------------------------------------------------------


def test_a_picture_by_url_is_the_same_job_as_the_picture(fetching: Server, host: OtherHost) -> None:
    sent = fetching.generate(fields())
    fetched = fetching.generate(by_url(host.url("/disc")))
    assert fetched.status_code == 200, fetched.text
    assert fetched.headers["x-job-id"] == sent.headers["x-job-id"]
    assert fetched.content == sent.content


@pytest.mark.parametrize("way", ["form", "query", "send", "texture"])
def test_a_picture_by_url_is_taken_wherever_a_picture_is(
    fetching: Server, host: OtherHost, way: str
) -> None:
    body = by_url(host.url("/disc"))
    if way == "form":
        parts = {name: (None, str(value)) for name, value in body.items()}
        response = fetching.client.post("/generate", files=parts)
    elif way == "query":
        response = fetching.client.post("/generate", params=body)
    elif way == "send":
        response = fetching.client.post("/send", json=body)
    else:
        fetching.generate(fields())
        response = fetching.client.post("/generate_texture", json=body)
    assert response.status_code == 200, response.text


def test_a_picture_wins_over_a_url_which_is_not_fetched(fetching: Server, host: OtherHost) -> None:
    before = host.connections
    assert fetching.generate(fields(image_url=host.url("/disc"))).status_code == 200
    assert host.connections == before


@pytest.mark.parametrize("size", [64, 300], ids=["short", "long"])
def test_a_data_uri_needs_no_host(server: Server, size: int) -> None:
    content = picture(size=size, file_format="BMP" if size > 64 else "PNG")
    response = server.generate(by_url(f"data:image/png;base64,{encoded(content)}"))
    assert response.status_code == 200, response.text
    assert server.generate(by_url("data:image/png,abc")).status_code == 400


def test_a_data_uri_is_a_file_and_has_its_limit(fetching: Server) -> None:
    over = base64.b64encode(bytes(1_000_001)).decode()
    response = fetching.generate(by_url(f"data:;base64,{over}"))
    assert response.status_code == 413


def test_without_hosts_a_url_is_refused_in_plain_words(server: Server) -> None:
    response = server.generate(by_url("https://example.com/a.png"))
    assert response.status_code == 400
    assert response.json()["text"] == (
        "image_url: this server fetches no pictures; send the picture itself, or ask the operator "
        "for server.image_hosts"
    )


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://example.com/a.png", "example.com is not among the hosts that this server may"),
        ("http://127.0.0.1/a.png", "127.0.0.1 is not among the hosts"),
        ("http://localhost:{port}/disc", "is not among the hosts"),
        ("http://[::ffff:127.0.0.1]:{port}/disc", "is not among the hosts"),
        ("http://2130706433:{port}/disc", "its host must be a name"),
        ("http://0177.0.0.1:{port}/disc", "its host must be a name"),
        ("http://0x7f.1:{port}/disc", "its host must be a name"),
        ("http://127.0.0.1:{port}@evil.com/disc", "must be a URL such as"),
        ("http://x@127.0.0.1:{port}/disc", "must be a URL such as"),
        ("file:///etc/passwd", "must be a URL such as"),
        ("gopher://127.0.0.1:{port}/", "must be a URL such as"),
        ("http://127.0.0.1:{port}/disc\r\nX: y", "written as %XX"),
        (17, "must be a URL, as a string"),
        (["http://127.0.0.1:{port}/disc"], "must be a URL, as a string"),
        ("http://127.0.0.1:{port}/missing", "the host replied with status 404"),
        ("http://127.0.0.1:{port}/empty", "the host sent nothing"),
        ("http://127.0.0.1:{port}/to-metadata", "169.254.169.254 is not among the hosts"),
        ("http://127.0.0.1:{port}/to-file", "must be a URL such as"),
        ("http://127.0.0.1:{port}/to-nothing", "redirects"),
        ("http://127.0.0.1:{port}/round", "more than 3 redirects"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_fetched_is_the_clients_error(
    fetching: Server, host: OtherHost, url: object, text: str
) -> None:
    REDIRECTS.update(
        {
            "/to-metadata": "http://169.254.169.254/latest/meta-data/",
            "/to-file": "file:///etc/passwd",
            "/to-nothing": "http://[",
            "/round": "/round",
        }
    )
    asked = url.replace("{port}", str(host.port)) if isinstance(url, str) else url
    response = fetching.generate(by_url(asked))
    assert response.status_code == 400, response.text
    assert response.json()["text"].startswith("image_url")
    assert text in response.json()["text"]


def test_what_is_no_picture_is_refused_like_an_upload(fetching: Server, host: OtherHost) -> None:
    response = fetching.generate(by_url(host.url("/text")))
    assert response.status_code == 400
    assert response.json()["text"].startswith("image: ")


def test_redirects_within_the_list_are_followed_up_to_a_number(
    fetching: Server, host: OtherHost
) -> None:
    REDIRECTS.update({"/1": "/2", "/2": host.url("/3"), "/3": "disc?signed"})
    assert fetching.generate(by_url(host.url("/1"))).status_code == 200


def test_a_picture_may_have_the_limit_of_a_body_and_no_more(
    fetching: Server, host: OtherHost
) -> None:
    sizes = {"/largest": 1_000_000, "/over": 1_000_001}
    answers = host._answer
    host._answer = lambda request: [reply(bytes(sizes[request.target]))]
    try:
        largest, over = (fetching.generate(by_url(host.url(path))) for path in sizes)
    finally:
        host._answer = answers
    assert largest.json()["text"].startswith("image: ")  # it came, and is none
    assert over.status_code == 400
    assert (
        over.json()["text"] == "image_url: the reply of the host is over the limit of 1000000 bytes"
    )


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
@pytest.mark.parametrize("count", [1, 2])
def test_bytes_that_are_fetched_count_as_those_of_the_request(
    fetching: Server, host: OtherHost, count: int
) -> None:
    """A host that sends much cannot get around the budget of all bodies."""
    bodies = fetching.app.state.bodies

    def in_parts(_: Received) -> Generator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + bytes(300_000)
        until(lambda: bodies.used_bytes >= 300_000 * count, "counted")
        yield bytes(100_000)

    answers, host._answer = host._answer, in_parts
    try:
        url = host.url("/")
        body = by_url(url) if count == 1 else {"image_urls": [url] * count}
        assert fetching.generate(body).status_code == 400
    finally:
        host._answer = answers
    until(lambda: bodies.used_bytes == 0, "given back")


# ---- several pictures, some by URL ---------------------------------------------------------


def test_pictures_by_url_are_the_same_job_as_the_pictures(
    fetching: Server, host: OtherHost
) -> None:
    other = encoded(picture(90))
    sent = fetching.generate({"images": [encoded(picture()), other], "seed": 1, **SMALL})
    urls = [host.url("/disc"), f"data:image/png;base64,{other}"]
    fetched = fetching.generate({"image_urls": urls, "seed": 1, **SMALL})
    assert fetched.status_code == 200, fetched.text
    assert fetched.headers["x-job-id"] == sent.headers["x-job-id"]
    sides = {"image_front": other, "image_back": host.url("/disc")}
    model = fetching.generate({**sides, "seed": 1, **SMALL})
    assert model.status_code == 200, model.text
    files = fetching.client.get(f"/jobs/{model.headers['x-job-id']}").json()["files"]
    assert {"input-1.png", "input-2.png"} <= files.keys()


def test_urls_of_pictures_need_hosts_as_one_does(server: Server) -> None:
    response = server.generate({"image_urls": ["https://example.com/a.png"]})
    assert response.status_code == 400
    assert response.json()["text"].startswith("image_urls: this server fetches no pictures; ")


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ("https://example.com/a.png", ": example.com is not among the hosts that"),
        ("http://169.254.169.254/latest", ": 169.254.169.254 is not among the hosts"),
        ("http://2130706433/disc", ": its host must be a name"),
        ("http://x@a.example/disc", ": must be a URL such as"),
    ],
)
def test_nothing_is_fetched_if_one_url_may_not_be(
    fetching: Server, host: OtherHost, second: str, text: str
) -> None:
    before = host.connections
    response = fetching.generate({"image_urls": [host.url("/disc"), second]})
    assert response.status_code == 400
    assert response.json()["text"].startswith(f"image_urls, picture 2{text}")
    assert host.connections == before


def test_a_picture_of_several_that_cannot_be_fetched_is_named(
    fetching: Server, host: OtherHost
) -> None:
    urls = [host.url("/disc"), host.url("/missing"), host.url("/disc")]
    response = fetching.generate({"image_urls": urls})
    assert response.status_code == 400
    assert response.json()["text"] == "image_urls, picture 2: the host replied with status 404"


def test_all_fetched_pictures_together_may_have_the_limit_of_a_body(
    fetching: Server, host: OtherHost
) -> None:
    def sized(request: Received) -> Iterable[bytes]:
        if not request.target[1:].isdigit():  # a picture of the test before that was given up
            return answers(request)
        return [reply(bytes(int(request.target[1:])))]

    answers, host._answer = host._answer, sized
    try:
        most, over = (
            fetching.generate({"image_urls": [host.url("/600000"), host.url(path)]})
            for path in ("/400000", "/400001")
        )
    finally:
        host._answer = answers
    assert most.json()["text"].startswith("images, picture 1: ")  # they came, and are none
    assert over.status_code == 413
    assert over.json()["text"] == "image_urls: all pictures are over the limit of 1000000 bytes"


# ---- text and webhook as fields ----------------------------------------------------------


def test_a_text_may_have_a_number_of_characters_and_no_more() -> None:
    longest = "x" * MAX_TEXT_LENGTH
    assert read_text({"text": f" {longest}\n"}) == longest
    for wrong, why in ((f"{longest}x", "over the limit of 4000"), (" \n", "empty"), (7, "string")):
        with pytest.raises(InputError, match=f"^text: .*{why}"):
            read_text({"text": wrong})
    assert read_text({}) is None


WEBHOOKS: dict[str, Any] = {"webhook_hosts": ["hooks.example"], "webhook_secret": "x" * 16}


@pytest.mark.parametrize(
    ("events", "read"),
    [
        (None, ("completed", "failed")),
        (["failed", "shape"], ("shape", "failed")),
        ("completed, shape", ("shape", "completed")),
        (["shape", "shape"], ("shape",)),
    ],
)
def test_events_of_a_webhook_are_a_list_or_words(events: object, read: tuple[str, ...]) -> None:
    raw = {"webhook": "https://hooks.example/x", "webhook_events": events}
    webhook = read_webhook(raw, settings(server=WEBHOOKS))
    assert webhook is not None
    assert webhook.events == read
    assert webhook.url == "https://hooks.example/x"


@pytest.mark.parametrize("events", [[], ["done"], "all", {"shape": True}, 3, [["shape"]]])
def test_other_events_are_refused(events: object) -> None:
    raw = {"webhook": "https://hooks.example/x", "webhook_events": events}
    with pytest.raises(InputError, match=r"^webhook_events: must be a list of shape, completed"):
        read_webhook(raw, settings(server=WEBHOOKS))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://other.example/", "other.example is not among the hosts"),
        ("https://hooks.example:8443/", "is not among the hosts"),
        ("ftp://hooks.example/", "must be a URL"),
        (5, "must be a URL, as a string"),
    ],
)
def test_a_webhook_of_another_host_is_refused(url: object, why: str) -> None:
    with pytest.raises(InputError, match=f"^webhook: .*{why}"):
        read_webhook({"webhook": url}, settings(server=WEBHOOKS))


@pytest.mark.parametrize("missing", ["webhook_hosts", "webhook_secret"])
def test_a_server_without_hosts_or_secret_sends_no_webhooks(missing: str) -> None:
    left = {key: value for key, value in WEBHOOKS.items() if key != missing}
    with pytest.raises(InputError, match=r"^webhook: this server sends none; poll the job"):
        read_webhook({"webhook": "https://hooks.example/"}, settings(server=left))
