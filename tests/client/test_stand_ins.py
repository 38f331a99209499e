"""Words and URLs in place of pictures, from the library and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.client.cli.conftest import no_first_contact, run  # noqa: F401 - fixtures
from tests.support.engines import GatedEngine
from tests.support.listener import SECRET, Listener
from tests.support.other_host import OtherHost, other_host, reply
from tests.support.painter import Painter
from tests.support.server import ON_RAY, SMALL, picture, serving, settings
from trellis2_server.client import RefusedError, UsageError
from trellis2_server.client.cli.output_names import MAX_NAME_LENGTH, name_of_text, name_of_url

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.support.server import Server

    Run = Callable[..., tuple[int, str, str]]
    Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def host() -> Generator[OtherHost]:
    with other_host(lambda _: [reply(picture(70))]) as running:
        yield running


@pytest.fixture(scope="module")
def listener() -> Generator[Listener]:
    running = Listener()
    yield running
    running.host.close()


@pytest.fixture(scope="module")
def calling(host: OtherHost, listener: Listener) -> Generator[Server]:
    """A server that takes words, fetches pictures and sends webhooks."""
    painter = Painter()
    configured = settings(
        server={
            "image_hosts": [host.entry],
            "webhook_hosts": [listener.host.entry],
            "webhook_secret": SECRET,
        },
        text_to_image={"url": painter.url},
    )
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server
    painter.close()


def test_the_library_takes_words_and_urls(ask: Ask, calling: Server, host: OtherHost) -> None:
    url = host.url("/disc.png")
    named = ask(calling, "generate", image_url=url, seed=1, texture=False, **SMALL)
    sent = ask(calling, "generate", picture(70), seed=1, texture=False, **SMALL)
    assert named.uid == sent.uid
    made = ask(calling, "generate", text="a red chair", seed=2, texture=False, **SMALL)
    assert made.shape[:4] == b"glTF"
    assert ask(calling, "submit", text="a red chair", seed=2, **SMALL) == made.uid
    both = ask(calling, "submit", extra={"image_urls": [url, url]}, texture=False, **SMALL)
    assert ask(calling, "job", both).uid == both


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({}, "^picture: missing; give a picture, text or image_url$"),
        ({"text": "x", "picture": b"x"}, "^text: cannot be combined"),
        ({"image_url": "x", "picture": b"x"}, "^image_url: cannot be combined"),
        ({"image_url": "x", "text": "x"}, "^image_url: cannot be combined"),
        ({"extra": {"image_urls": ["x"]}, "picture": b"x"}, "^image_urls: cannot be combined"),
    ],
    ids=["nothing", "text", "url", "both", "urls"],
)
def test_the_library_refuses_none_and_two(ask: Ask, sent: dict[str, Any], message: str) -> None:
    for method in ("generate", "submit"):
        with pytest.raises(UsageError, match=message):
            ask("http://127.0.0.1:9", method, **sent)


def test_a_server_without_them_names_its_settings(ask: Ask, server: Server) -> None:
    with pytest.raises(RefusedError, match=r"^text: .*text_to_image\.url"):
        ask(server, "generate", text="a chair")
    with pytest.raises(RefusedError, match=r"^image_url: .*server\.image_hosts"):
        ask(server, "generate", image_url="https://a.example/b.png")


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
def test_the_command_takes_words_urls_and_a_webhook(
    run: Run,  # noqa: F811
    calling: Server,
    host: OtherHost,
    listener: Listener,
) -> None:
    shape = ("--server", calling.url, "--shape-only", "--json")
    code, output, error = run(*shape, "--text", "A red, wooden chair")
    assert code == 0, error
    assert json.loads(output)["files"]["model"] == "a-red-wooden-chair.glb"
    assert Path("a-red-wooden-chair.glb").read_bytes()[:4] == b"glTF"
    url = host.url("/pictures/disc.glb?size=2")
    code, output, error = run(*shape, "--image-url", url, "--webhook", listener.url())
    assert code == 0, error
    assert json.loads(output)["files"]["model"] == "disc.glb"
    assert listener.message()["uid"] == json.loads(output)["uid"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "x", "one.png"), "--text: cannot be combined"),
        (("--image-url", "x", "one.png"), "--image-url: cannot be combined"),
        (("--text", "x", "--views", "front=one.png"), "--text: cannot be combined"),
        (("--text", "x", "--image-url", "x"), "--text: cannot be combined"),
        (("--text", " "), "--text: empty"),
        (("--image-url", ""), "--image-url: empty"),
    ],
)
def test_the_command_refuses_two_and_empty_ones(
    run: Run,  # noqa: F811
    arguments: tuple[str, ...],
    message: str,
) -> None:
    code, output, error = run(*arguments)
    assert (code, output) == (2, "")
    assert message in error


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red chair.", "a-red-chair"),
        ("../../etc/{stem}", "etc-stem"),
        ("ein grüner Stuhl", "ein-grüner-stuhl"),
        ("!?", "text"),
        ("x" * MAX_NAME_LENGTH, "x" * MAX_NAME_LENGTH),
        ("x" * MAX_NAME_LENGTH + "y", "x" * MAX_NAME_LENGTH),
    ],
    ids=str,
)
def test_a_text_names_its_files(text: str, name: str) -> None:
    assert name_of_text(text) == Path(name)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/chair.png", "chair"),
        ("https://a.example/a/red.chair.png?x=/y.png#z", "red-chair"),
        ("https://a.example/{stem}", "stem"),
        ("https://a.example/..", "picture"),
        ("https://a.example/", "picture"),
        ("https://a.example", "picture"),
        ("data:image/png;base64,QUJD/x", "picture"),
        (f"https://a.example/{'x' * 41}", "x" * 40),
    ],
)
def test_a_url_names_its_files(url: str, name: str) -> None:
    assert name_of_url(url) == Path(name)
