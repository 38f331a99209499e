"""Words, pictures by URL and webhooks, as clients of other protocols send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.listener import SECRET, Listener
from tests.support.other_host import OtherHost, Received, other_host, reply
from tests.support.painter import Painter, error_reply
from tests.support.server import ON_RAY, SMALL, Server, encoded, picture, serving, settings, until

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx

PROTOCOLS = ["native", "openai", "sglang", "stableprojectorz", "unity"]
GENERATIONS = "/v1/3d/generations"


def answer(request: Received) -> list[bytes]:
    if request.target.startswith("/disc"):
        return [reply(picture(size=256), Content_Type="image/png")]
    return [reply(status=404)]


@pytest.fixture(scope="module")
def host() -> Generator[OtherHost]:
    with other_host(answer) as running:
        yield running


@pytest.fixture(scope="module")
def painter() -> Generator[Painter]:
    painter = Painter()
    yield painter
    painter.close()


@pytest.fixture(scope="module")
def listener() -> Generator[Listener]:
    running = Listener()
    yield running
    running.host.close()


@pytest.fixture(scope="module")
def calling(host: OtherHost, painter: Painter, listener: Listener) -> Generator[Server]:
    """A server that may call the three hosts, with every protocol."""
    configured = settings(
        server={
            "protocols": PROTOCOLS,
            "image_hosts": [host.entry],
            "webhook_hosts": [listener.host.entry],
            "webhook_secret": SECRET,
        },
        text_to_image={"url": painter.url},
    )
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


@pytest.fixture(scope="module")
def alone() -> Generator[Server]:
    """A server that may call no host."""
    configured = settings(server={"protocols": PROTOCOLS})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()["error"]


def uid_of(response: httpx.Response) -> str:
    """Return the job of a reply, whichever protocol's."""
    assert response.status_code == 200, response.text
    body = response.json()
    if "model_url" in body:
        return body["model_url"].partition("=")[2]
    return body.get("id") or body["job_id"].removeprefix("job-")


def is_done(server: Server, uid: str) -> bool:
    return server.client.get(f"/jobs/{uid}").json()["status"] == "completed"


# ---- pictures by URL -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["json", "form", "query"])
@pytest.mark.parametrize("path", [GENERATIONS, "/generate"])
def test_an_image_may_be_a_url(calling: Server, host: OtherHost, path: str, way: str) -> None:
    body = {"image": host.url("/disc.png"), "seed": 1, **SMALL}
    if way == "json":
        response = calling.client.post(path, json=body)
    elif way == "form":
        parts = {name: (None, str(value)) for name, value in body.items()}
        response = calling.client.post(path, files=parts)
    else:
        response = calling.client.post(path, params=body)
    assert response.status_code == 200, response.text


def test_a_picture_by_url_is_the_same_job_as_one_that_is_sent(
    calling: Server, host: OtherHost
) -> None:
    named, sent = (
        calling.client.post(GENERATIONS, json={"image": image, "seed": 2, **SMALL})
        for image in (host.url("/disc"), encoded(picture(size=256)))
    )
    assert uid_of(named) == uid_of(sent)


@pytest.mark.parametrize("name", ["url", "url[]"])
@pytest.mark.parametrize("way", ["json", "list", "form"])
def test_sglangs_url_is_a_picture_by_url(
    calling: Server, host: OtherHost, name: str, way: str
) -> None:
    url = host.url("/disc")
    more = {"seed": "3", "prompt": "generate 3d mesh", **SMALL}
    if way == "form":
        parts = {key: (None, str(value)) for key, value in {name: url, **more}.items()}
        response = calling.client.post("/v1/meshes", files=parts)
    else:
        sent = url if way == "json" else [url]
        response = calling.client.post("/v1/meshes", json={name: sent, **more})
    uid = uid_of(response)
    until(lambda: is_done(calling, uid), "completed")


@pytest.mark.parametrize("size", [64, 256], ids=["short", "long"])
@pytest.mark.parametrize("way", ["json", "form"])
@pytest.mark.parametrize(("path", "name"), [("/v1/meshes", "url"), (GENERATIONS, "image_url")])
def test_a_data_uri_of_any_size_is_a_picture(
    alone: Server, path: str, name: str, way: str, size: int
) -> None:
    content = picture(size=size, file_format="BMP" if size > 64 else "PNG")
    body = {name: f"data:image/png;base64,{encoded(content)}", "seed": "4", **SMALL}
    if way == "json":
        response = alone.client.post(path, json=body)
    else:
        parts = {key: (None, str(value)) for key, value in body.items()}
        response = alone.client.post(path, files=parts)
    assert uid_of(response)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (GENERATIONS, {"image": "https://a.example/b.png"}, "image"),
        (GENERATIONS, {"image": "HTTP://a.example/b.png"}, "image"),
        (GENERATIONS, {"image_url": "https://a.example/b.png"}, "image_url"),
        ("/v1/meshes", {"url": "https://a.example/b.png"}, "image_url"),
        ("/v1/meshes", {"input_image": "https://a.example/b.png"}, "image"),
    ],
)
def test_without_hosts_nothing_is_fetched(
    alone: Server, path: str, body: dict[str, Any], field: str
) -> None:
    error = error_of(alone.client.post(path, json=body))
    assert error["param"] == field
    assert "server.image_hosts" in error["message"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"image": "https://a.example/b.png"}, "image: a.example is not among the hosts"),
        ({"image": "http://127.0.0.1/disc"}, "image: 127.0.0.1 is not among the hosts"),
        ({"image": "http://2130706433/disc"}, "image: its host must be a name"),
        ({"image": "https://x@a.example/"}, "image: must be a URL such as"),
        ({"image": "http://a.example/" + "b" * 2048}, "image: over the limit of 2048 characters"),
        ({"image": "http://a.example/" + "b" * 20_000}, "image: over the limit of 2048 characters"),
        ({"image": "file:///etc/passwd"}, "image: not base64"),
        ({"image_url": "b" * 20_000}, "image_url: must be a URL such as"),
        ({"images": ["https://a.example/b.png"]}, "images: a.example is not among the hosts"),
        (
            {"image": "https://a.example/b.png", "image_left": encoded(b"x")},
            "image: a.example is not among the hosts",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_other_urls_are_refused(calling: Server, body: dict[str, Any], text: str) -> None:
    assert error_of(calling.client.post(GENERATIONS, json=body))["message"].startswith(text)


def test_the_error_of_one_of_several_pictures_names_their_field(calling: Server) -> None:
    body = {"image_urls": ["data:;base64,QUJD", "https://a.example/b.png"]}
    error = error_of(calling.client.post(GENERATIONS, json=body))
    assert error["param"] == "image_urls"
    assert error["message"].startswith("image_urls, picture 2: a.example is not among")


def test_sglang_may_name_one_url(alone: Server) -> None:
    urls = ["https://a.example/1.png", "https://a.example/2.png"]
    for sent in ({"json": {"url": urls}}, {"files": [("url", (None, url)) for url in urls]}):
        error = error_of(alone.client.post("/v1/meshes", **sent))
        assert error["param"] == "image_url"
        assert "several pictures" in error["message"]


# ---- words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (GENERATIONS, "prompt"),
        ("/v1/meshes", "prompt"),
        ("/submit/text", "prompt"),
        ("/generate_no_preview", "text"),
    ],
)
def test_words_become_a_model_in_every_protocol(
    calling: Server, alone: Server, painter: Painter, path: str, name: str
) -> None:
    body = {name: f"a chair for {path}", "seed": 5, **SMALL}
    sent = {"data": body} if path == "/generate_no_preview" else {"json": body}
    uid = uid_of(calling.client.post(path, **sent))
    until(lambda: is_done(calling, uid), "completed")
    assert any(prompt["prompt"].startswith(body[name]) for prompt in painter.prompts)
    assert "picture" in calling.client.get(f"/jobs/{uid}").json()["timings"]
    refused = alone.client.post(path, **sent)
    assert refused.status_code == 400
    assert "text_to_image.url" in refused.text


@pytest.mark.parametrize("path", [GENERATIONS, "/v1/meshes"])
def test_words_beside_a_picture_are_not_used(calling: Server, painter: Painter, path: str) -> None:
    before = len(painter.prompts)
    body = {"prompt": "a table", "image": encoded(picture(8)), "seed": 6, **SMALL}
    assert uid_of(calling.client.post(path, json=body))
    assert len(painter.prompts) == before


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
@pytest.mark.parametrize(
    ("status", "code"), [(500, "bad_gateway"), (429, "unavailable"), (400, None)]
)
def test_a_failure_of_the_other_server_has_openais_form(
    calling: Server, painter: Painter, status: int, code: str | None
) -> None:
    refusal = "content_policy_violation" if code is None else None
    painter.fails = lambda: error_reply(status, "no", refusal)
    try:
        body = {"prompt": f"a lamp {status}", "seed": 7, **SMALL}
        response = calling.client.post(GENERATIONS, json=body)
    finally:
        painter.fails = None
    error = error_of(response, {500: 502, 429: 503, 400: 400}[status])
    assert error["code"] == code
    assert error["type"] == ("server_error" if code else "invalid_request_error")


# ---- webhooks ------------------------------------------------------------------------------


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/meshes"])
def test_a_webhook_is_told_of_jobs_of_other_protocols(
    calling: Server, listener: Listener, path: str
) -> None:
    body = {"image": encoded(picture(9)), "seed": 8, "webhook": listener.url(), **SMALL}
    uid = uid_of(calling.client.post(path, json={**body, "texture_size": 512}))
    message = listener.message()
    assert (message["event"], message["uid"]) == ("completed", uid)


def test_a_server_without_hosts_sends_no_webhook(alone: Server) -> None:
    body = {"image": encoded(picture()), "webhook": "https://a.example/"}
    assert error_of(alone.client.post(GENERATIONS, json=body))["param"] == "webhook"
